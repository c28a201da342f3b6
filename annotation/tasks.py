"""Background work. A message carries an id at most; losing or doubling one is harmless."""

from datetime import timedelta

from celery import shared_task
from django.utils import timezone

LOST_AFTER = timedelta(seconds=60)


@shared_task(acks_late=False, ignore_result=True)
def reopen_expired_leases() -> None:
    from annotation import services

    services.reopen_expired_leases(now=timezone.now())


@shared_task(acks_late=False, ignore_result=True)
def fold_slots() -> None:
    """Put the parts of each project's number of slots together."""
    from annotation.services import slots

    slots.fold_slots()


@shared_task(acks_late=False, ignore_result=True)
def run_import(*, job_id: int) -> None:
    from annotation import services

    services.run_import(job_id)


@shared_task(acks_late=False, ignore_result=True)
def run_export(*, job_id: int) -> None:
    from annotation import services

    services.run_export(job_id)


@shared_task(acks_late=False, ignore_result=True)
def run_bulk_change(*, job_id: int) -> None:
    from annotation.services import bulk

    bulk.run_bulk_change(job_id)


@shared_task(acks_late=False, ignore_result=True)
def resume_lost_jobs() -> None:
    """Imports, exports and changes whose worker or message is gone."""
    from annotation import services

    services.resume_lost_jobs(now=timezone.now(), after=LOST_AFTER)


@shared_task(acks_late=False, ignore_result=True)
def forget_old_counts() -> None:
    from annotation.services import limits

    limits.forget_old_counts(now=timezone.now())


@shared_task(acks_late=False, ignore_result=True)
def read_prompts() -> None:
    """The words of new comparisons, for search."""
    from annotation import services

    services.read_prompts()


@shared_task(acks_late=False, ignore_result=True)
def deliver_webhooks() -> None:
    """What webhooks are still to be told."""
    from annotation import services

    services.deliver_due(now=timezone.now())


@shared_task(acks_late=False, ignore_result=True)
def forget_old_deliveries() -> None:
    from annotation import services

    services.forget_old_deliveries(now=timezone.now())


@shared_task(acks_late=False, ignore_result=True)
def refresh_quality() -> None:
    """Count new judgements and renew the summaries of the projects that have some."""
    from annotation.services.quality import refresh_quality

    refresh_quality(now=timezone.now())


@shared_task(acks_late=False, ignore_result=True)
def refit_quality() -> None:
    """Fit reliability and consensus again where enough has changed."""
    from annotation.services.quality import refit_quality

    refit_quality(now=timezone.now())
