"""Judgements made directly, and counted."""

import uuid

from django.utils import timezone

from annotation.models import Judgement, QualityReport
from annotation.services import quality


def judge(comparison, user, choice, *, order=(0, 1), seconds=None, **values) -> Judgement:
    return Judgement.objects.create(
        comparison=comparison,
        annotator=user,
        choice=choice,
        order=None if order is None else list(order),
        seconds=seconds,
        template_version=1,
        created_at=values.pop("created_at", timezone.now()),
        client_id=uuid.uuid4(),
        request_digest="",
        **values,
    )


def summary_of(project) -> dict:
    """Counted and summarised, as the light task does it."""
    quality.refresh_quality(now=timezone.now())
    return QualityReport.objects.get(project=project).summary


def fits_of(project) -> dict:
    summary_of(project)
    quality.refit_quality(now=timezone.now())
    return QualityReport.objects.get(project=project).fits
