"""The product's Celery application for the short form of `benchmarks.faults`: periodic tasks come every two
seconds, and runs are done by a trainer that keeps the contract and learns nothing.
"""

import sys
from datetime import timedelta
from pathlib import Path
from typing import Any

import django
from django.conf import settings

from benchmarks.quick_celery import app

django.setup()

from training import services  # noqa: E402
from training.services import executing  # noqa: E402

__all__ = ["app"]
TRAINER = Path(__file__).resolve().parent.parent / "tests" / "training" / "fake_trainer.py"


def look(run: Any) -> dict[str, Any]:
    """In place of the trainer's look at the data."""
    return {"groups": run.snapshot.counts.get("train_groups", 0)}


settings.RUN_MAX_ATTEMPTS = 50  # a busy machine may lose more than a quiet one
settings.RUN_STALE_AFTER = min(settings.RUN_STALE_AFTER, timedelta(seconds=6))
executing.Trainer.command = lambda self: [sys.executable, str(TRAINER), "."]  # type: ignore[method-assign]
executing.inspect = look
services.warm_up = lambda **_options: None  # its processes would train
