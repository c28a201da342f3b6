"""`python manage.py restore FILE`: make this site what a backup holds."""

from pathlib import Path
from typing import Any

from django.conf import settings
from django.core.management.base import BaseCommand, CommandError, CommandParser

from webapp.backup import BackupError, restore_backup
from webapp.embedded.alone import database_at_hand
from webapp.embedded.supervisor import SupervisorError


class Command(BaseCommand):
    help = "Make this site what a file of `manage.py backup` holds. Stop the site first."
    requires_system_checks: list[str] = []

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("file", type=Path, metavar="FILE")
        parser.add_argument("--replace", action="store_true", help="delete what this site has")
        parser.add_argument(
            "--data", type=Path, metavar="DIR", help="data directory ($TIEBREAK_DATA, or ./data)"
        )

    def handle(self, *args: Any, file: Path, replace: bool, **options: Any) -> None:
        try:
            with database_at_hand(settings.DATA_DIR, alone=True):
                counted = restore_backup(file, replace=replace)
        except (BackupError, SupervisorError) as error:
            raise CommandError(str(error)) from error
        self.stdout.write(f"restored {file}: the database and {counted.files} files")
        if counted.missing:
            self.stderr.write(
                f"{len(counted.missing)} files were missing when it was made, such as {counted.missing[0]}."
            )
