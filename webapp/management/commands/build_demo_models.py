"""`python manage.py build_demo_models`: train the demo's base models from nothing."""

from importlib import import_module
from pathlib import Path
from typing import Any

from django.core.management.base import BaseCommand, CommandParser

MODELS = Path(__file__).parents[2] / "demo" / "models"


class Command(BaseCommand):
    help = (
        "Train the demo's base models from nothing: `text` takes minutes of one core, `image` up to an hour."
    )
    requires_system_checks: list[str] = []  # needs neither database nor web settings

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("modality", choices=["text", "image"])
        parser.add_argument("--seed", type=int, default=0)
        parser.add_argument(
            "--out", type=Path, default=None, help="folder to write; default: the one that ships"
        )

    def handle(self, *args: Any, **options: Any) -> None:
        out = options["out"] or MODELS / options["modality"]
        # Only the builder that is asked for is loaded: each brings in torch.
        builder = import_module(f"webapp.demo.build_{options['modality']}")
        builder.build(out, seed=options["seed"], progress=self._say)
        self.stdout.write(f"{options['modality']}: written to {out}")

    def _say(self, message: str) -> None:
        self.stdout.write(message)
        self.stdout.flush()
