"""`python manage.py demo`: the whole loop once, with simulated annotators, on a site that stays up."""

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
from pathlib import Path
from typing import Any

from django.conf import settings
from django.core.management.base import BaseCommand, CommandError, CommandParser
from django.db import connection

from webapp.demo.loop import Sizes
from webapp.demo.show import Show
from webapp.embedded.supervisor import Supervisor, SupervisorError

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Command(BaseCommand):
    help = (
        "Compare, learn, tune and compare again, for text and for images, with simulated annotators. The "
        "site stays up until Ctrl-C; with --check it does not, and the last line is a JSON object of results."
    )
    requires_system_checks: list[str] = []  # the children check; here there is no database yet

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--port", type=int, help="of the web server (8000; any free one with --check)")
        # manage.py has put it into TIEBREAK_DATA before the settings were loaded.
        parser.add_argument(
            "--data",
            type=Path,
            metavar="DIR",
            help="data directory; default: as `up`, temporary with --check",
        )
        parser.add_argument(
            "--check", action="store_true", help="measure, leave nothing running, exit 0 or 1"
        )
        parser.add_argument("--seed", type=int, default=0)

    def handle(
        self, *args: Any, port: int | None, data: Path | None, check: bool, seed: int, **options: Any
    ) -> None:
        if check and data is None:
            sys.exit(run_in_temporary_folder(seed=seed, port=port))
        # Two small runs side by side use two cores better than one run with two threads.
        os.environ.setdefault("RUN_WORKERS", str(min(2, os.cpu_count() or 1)))
        os.environ.setdefault("RATE_LIMIT_JUDGING", "")  # simulated annotators are faster than people
        supervisor = Supervisor(settings.DATA_DIR, port=(0 if check else 8000) if port is None else port)
        for number in SIGNALS:
            signal.signal(number, lambda *_: supervisor.request_stop())
        try:
            supervisor.start()
        except SupervisorError as error:
            raise CommandError(str(error)) from error
        show = Show(url=supervisor.url, say=self.say, sizes=Sizes(), seed=seed)
        try:
            threading.Thread(target=self.play, args=(show, supervisor, check), daemon=True).start()
            supervisor.wait()
            show.leave()
            verdict = show.verdict()
        finally:
            connection.close()
            supervisor.stop()
        if check:
            self.say(json.dumps(verdict))
            sys.exit(0 if verdict["met"] else 1)

    def play(self, show: Show, supervisor: Supervisor, check: bool) -> None:
        """The show itself, beside the thread that keeps the site."""
        try:
            show.run()
        finally:
            connection.close()
            if check:
                supervisor.request_stop()
        if not check:
            done = "stopped early" if show.errors else "is finished"
            show.say(f"the loop {done}; the site stays up at {show.url} until Ctrl-C")

    def say(self, line: str) -> None:
        self.stdout.write(line)
        self.stdout.flush()


def run_in_temporary_folder(*, seed: int, port: int | None) -> int:
    """The same command in a process whose data directory is gone afterwards; its exit code."""
    folder = tempfile.mkdtemp(prefix="tiebreak-demo-")
    command = [sys.executable, sys.argv[0], "demo", "--check", "--data", folder, "--seed", str(seed)]
    command += [] if port is None else ["--port", str(port)]
    child: subprocess.Popen[bytes] | None = None

    def forward(number: int, _: object) -> None:
        if child is not None:
            child.send_signal(number)

    for number in SIGNALS:
        signal.signal(number, forward)
    try:
        child = subprocess.Popen(command, start_new_session=True)
        return child.wait()
    finally:
        shutil.rmtree(folder, ignore_errors=True)
