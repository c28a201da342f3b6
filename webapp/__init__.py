"""Tiebreak: composition of the annotation and training apps."""

from webapp.celery import app as celery_app

__all__ = ["celery_app"]
