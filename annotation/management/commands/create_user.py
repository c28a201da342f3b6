"""`manage.py create_user NAME --role manager|annotator [--token] [--link URL]`."""

from argparse import ArgumentParser
from typing import Any

from django.core.management.base import BaseCommand, CommandError

from annotation import services
from annotation.errors import Invalid
from annotation.models import User


class Command(BaseCommand):
    help = (
        "Create a user for a script or a person. With --token, an API token is all that is printed to stdout."
    )

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("username", metavar="NAME")
        parser.add_argument("--role", choices=User.Role.values, default=User.Role.ANNOTATOR)
        parser.add_argument("--token", action="store_true", help="print an API token; it is shown only once")
        parser.add_argument("--link", metavar="URL", help="print a one-time sign-in link to the site at URL")

    def handle(
        self, *args: Any, username: str, role: str, token: bool, link: str | None, **options: Any
    ) -> None:
        try:
            user = services.create_user(username=username, role=role)
        except Invalid as error:
            raise CommandError(
                "\n".join(f"{field}: {text}" for field, text in error.errors.items())
            ) from error
        self.stderr.write(f"Created {role} {user.username}.")
        if token:
            self.stdout.write(services.issue_token(user=user))
        if link:
            self.stdout.write(services.sign_in_link(user=user, base_url=link))
