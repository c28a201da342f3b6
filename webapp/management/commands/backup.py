"""`python manage.py backup FILE`: the whole site, database and stored files, in one file."""

from pathlib import Path
from typing import Any

from django.conf import settings
from django.core.management.base import BaseCommand, CommandError, CommandParser

from webapp.backup import BackupError, write_backup
from webapp.embedded.alone import database_at_hand
from webapp.embedded.supervisor import SupervisorError


class Command(BaseCommand):
    help = "Write the whole site to one file: the database and every stored file. The site may be running."
    requires_system_checks: list[str] = []

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("file", type=Path, metavar="FILE", help="a new file")
        parser.add_argument(
            "--data", type=Path, metavar="DIR", help="data directory ($TIEBREAK_DATA, or ./data)"
        )

    def handle(self, *args: Any, file: Path, **options: Any) -> None:
        try:
            with database_at_hand(settings.DATA_DIR, alone=False):
                counted = write_backup(file)
        except (BackupError, SupervisorError) as error:
            raise CommandError(str(error)) from error
        self.stdout.write(f"{file}: the database and {counted.files} files, {counted.size} bytes")
        if counted.missing:
            self.stderr.write(
                f"{len(counted.missing)} files that the database names are not in the storage, such as "
                f"{counted.missing[0]}."
            )
