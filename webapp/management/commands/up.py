"""`python manage.py up`: the whole site in one foreground process."""

import signal
from pathlib import Path
from typing import Any

from django.conf import settings
from django.contrib.auth import get_user_model
from django.core.management.base import BaseCommand, CommandError, CommandParser
from django.db import connection

from webapp.embedded.supervisor import Supervisor, SupervisorError


class Command(BaseCommand):
    help = "Run database, broker, web server, workers and scheduler until Ctrl-C."
    requires_system_checks: list[str] = []  # the children check; here there is no database yet

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument(
            "--port", type=int, default=8000, help="of the web server (8000); 0 takes any free one"
        )
        parser.add_argument("--host", default="127.0.0.1", help="address to listen on (127.0.0.1)")
        # manage.py has put it into TIEBREAK_DATA before the settings were loaded.
        parser.add_argument(
            "--data", type=Path, metavar="DIR", help="data directory ($TIEBREAK_DATA, or ./data)"
        )

    def handle(self, *args: Any, port: int, host: str, **options: Any) -> None:
        supervisor = Supervisor(settings.DATA_DIR, port=port, host=host)
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, lambda *_: supervisor.request_stop())
        try:
            supervisor.start()
        except SupervisorError as error:
            raise CommandError(str(error)) from error
        try:
            self.say_who_may_sign_in()
            supervisor.wait()
            self.stdout.write("stopping; once more ends everything by force")
        finally:
            supervisor.stop()

    def say_who_may_sign_in(self) -> None:
        if not get_user_model().objects.exists():
            self.stdout.write(
                "There are no users yet. Make one: python manage.py create_user NAME --role manager"
            )
        connection.close()
