"""Background work. A message carries ids only; losing or doubling one is harmless."""

from celery import shared_task
from django.utils import timezone


@shared_task(acks_late=False, ignore_result=True)
def reopen_expired_leases() -> None:
    from annotation import services

    services.reopen_expired_leases(now=timezone.now())
