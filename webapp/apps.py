"""The site as an application: what has to be there beside the tables of the models."""

from typing import Any

from django.apps import AppConfig
from django.core.management import call_command
from django.db.models.signals import post_migrate


class WebappConfig(AppConfig):
    name = "webapp"

    def ready(self) -> None:
        post_migrate.connect(make_cache_table, sender=self)


def make_cache_table(using: str, **kwargs: Any) -> None:
    """The cache's table belongs to no model, so that no migration makes it."""
    call_command("createcachetable", database=using, verbosity=0)
