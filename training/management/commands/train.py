"""`manage.py train --project 1 --method dpo --base demo-text --set beta=0.2 --follow`: start a run."""

import json
import sys
import time
from argparse import ArgumentParser
from typing import Any

from django.core.management.base import BaseCommand, CommandError

from annotation.errors import ServiceError
from annotation.models import Project
from training import services
from training.management.commands.register_model import find_manager
from training.models import Run

POLL = 1.0  # seconds


class Command(BaseCommand):
    help = "Start a training run; the workers of the site do the work."

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("--project", required=True, type=int, help="the project's id")
        parser.add_argument("--method", required=True)
        parser.add_argument("--base", required=True, help='a registered model, or "checkpoint:<id>"')
        parser.add_argument(
            "--set",
            action="append",
            default=[],
            metavar="KEY=VALUE",
            help="config, e.g. lora.r=8 or lora=null",
        )
        parser.add_argument("--filters", default="{}", help="a JSON object")
        parser.add_argument("--reward", default="[]", help="a JSON list; python functions are allowed here")
        parser.add_argument("--eval-fraction", type=float, default=0.0)
        parser.add_argument("--seed", type=int, default=0)
        parser.add_argument("--shuffle-labels", action="store_true", help="a control: random labels")
        parser.add_argument("--by", help="user name of a manager; the first manager if left out")
        parser.add_argument("--follow", action="store_true", help="show the metrics until the run has ended")

    def handle(self, *args: Any, **options: Any) -> None:
        project = Project.objects.filter(pk=options["project"]).first()
        if project is None:
            raise CommandError(f"There is no project {options['project']}.")
        try:
            run = services.create_run(
                by=find_manager(options["by"]),
                project=project,
                method=options["method"],
                base=options["base"],
                config=parse_config(options["set"]),
                reward=parse_json(options["reward"], "--reward"),
                filters=parse_json(options["filters"], "--filters"),
                eval_fraction=options["eval_fraction"],
                seed=options["seed"],
                shuffle_labels=options["shuffle_labels"],
            )
        except ServiceError as error:
            errors = getattr(error, "errors", {})
            raise CommandError(
                "\n".join(f"{field}: {text}" for field, text in errors.items()) or str(error)
            ) from None
        self.stdout.write(f"run {run.pk}")
        if options["follow"]:
            self.follow(run)

    def follow(self, run: Run) -> None:
        """Print what happens until the run has ended; exit 1 unless it is done."""
        status, step, shown = "", 0, set()
        while True:
            run.refresh_from_db()
            if run.status != status:
                status = run.status
                self.stdout.write(status)
            for row in services.metrics_of(run, after=step - 1):  # the newest step may still be evaluated
                if (line := json.dumps(row)) not in shown:
                    self.stdout.write(line)
                    shown.add(line)
                step = row["step"]
            if run.has_ended:
                break
            time.sleep(POLL)
        if run.status != Run.Status.DONE:
            self.stderr.write(run.error or f"Run {run.pk} was {run.status}.")
            sys.exit(1)
        self.stdout.write(f"checkpoint:{run.checkpoint.pk}")


def parse_config(pairs: list[str]) -> dict[str, Any]:
    """`["lora.r=8", "loss=ipo"]` becomes `{"lora": {"r": 8}, "loss": "ipo"}`; values are JSON, else texts."""
    config: dict[str, Any] = {}
    for pair in pairs:
        path, equals, text = pair.partition("=")
        if not equals or not path:
            raise CommandError(f"--set {pair}: write KEY=VALUE.")
        *folders, name = path.split(".")
        inner = config
        for folder in folders:
            inner = inner.setdefault(folder, {})
            if not isinstance(inner, dict):
                raise CommandError(f"--set {pair}: {folder} has a value of its own already.")
        try:
            inner[name] = json.loads(text)
        except json.JSONDecodeError:
            inner[name] = text
    return config


def parse_json(text: str, option: str) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        raise CommandError(f"{option} is not JSON: {error}") from None
