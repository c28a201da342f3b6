"""The entry point of gunicorn: `gunicorn webapp.wsgi`."""

import gc
import os

from django.core.wsgi import get_wsgi_application
from django.urls import get_resolver

from webapp.celery import get_ready_to_send
from webapp.tracing import start_tracing

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "webapp.settings")
start_tracing("web")
application = get_wsgi_application()
get_ready_to_send()
_ = get_resolver().url_patterns  # loads every view, which takes seconds, before processes are forked off
gc.freeze()  # what lives as long as the process is not looked through again and again
gc.set_threshold(50_000)  # not at every 700 objects: a request has hardly any cycles
