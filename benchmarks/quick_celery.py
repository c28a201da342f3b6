"""The product's Celery application with periodic tasks every two seconds, for sites that live for minutes."""

from webapp.celery import app, every

SHORT = 2.0  # seconds

for entry in app.conf.beat_schedule.values():
    entry["schedule"] = every(min(SHORT, entry["schedule"].seconds))
