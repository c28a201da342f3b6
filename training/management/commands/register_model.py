"""`manage.py register_model NAME LOCATION --modality text|image`: a model that runs may start from."""

from argparse import ArgumentParser
from typing import Any

from django.core.management.base import BaseCommand, CommandError

from annotation.errors import ServiceError
from annotation.models import User
from training import services


class Command(BaseCommand):
    help = "Register a folder or hub id as a base model."

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("name", help="how runs will name it")
        parser.add_argument(
            "location", help="an absolute folder in transformers or diffusers format, or a hub id"
        )
        parser.add_argument("--modality", required=True, choices=["text", "image"])
        parser.add_argument("--by", help="user name of a manager; the first manager if left out")

    def handle(self, *args: Any, **options: Any) -> None:
        by = find_manager(options["by"])
        try:
            model = services.register_base_model(
                by=by, name=options["name"], modality=options["modality"], location=options["location"]
            )
        except ServiceError as error:
            raise CommandError(str(error)) from None
        self.stdout.write(f"{model.name} is registered; runs name it as their base.")


def find_manager(username: str | None) -> User:
    """The named user, or the first manager. CommandError if there is none."""
    managers = User.objects.filter(role=User.Role.MANAGER, is_active=True).order_by("pk")
    user = managers.filter(username=username).first() if username else managers.first()
    if user is None:
        named = f"{username!r} is no manager" if username else "there is no manager yet"
        raise CommandError(f"{named}; make one with `manage.py create_user NAME --role manager`.")
    return user
