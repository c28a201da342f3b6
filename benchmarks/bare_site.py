"""The limit of `collect_throughput`: Django answering a request with one trivial query, and nothing else."""

import os

from django.core.wsgi import get_wsgi_application

os.environ["DJANGO_SETTINGS_MODULE"] = "benchmarks.bare_settings"
application = get_wsgi_application()
