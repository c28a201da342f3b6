"""A task of the product's Celery application that leaves a trace without a database."""

from pathlib import Path

from webapp.celery import app


@app.task
def write_file(path: str, text: str) -> None:
    Path(path).write_text(text)
