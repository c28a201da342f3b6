"""The site's database and nothing of its middleware and apps."""

from webapp.settings import *  # noqa: F403

ROOT_URLCONF = "benchmarks.bare_urls"
MIDDLEWARE: list[str] = []
INSTALLED_APPS: list[str] = []
