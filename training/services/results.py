"""What runs brought home, and what they were given."""

import json
import shutil
import tempfile
import zipfile
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import IO, Any

from django.core.files import File
from django.core.files.storage import default_storage
from django.utils.translation import gettext as _

from annotation.errors import NotFound
from training import storage
from training.models import Checkpoint, Run


def metrics_of(run: Run, *, after: int = -1) -> list[dict[str, Any]]:
    """The rows of metrics.jsonl with steps beyond `after`, in their order."""
    rows = run.metrics.filter(step__gt=after).order_by("step", "pk").values_list("step", "values")
    return [{"step": step, **values} for step, values in rows]


def generations_of(run: Run) -> Iterator[dict[str, Any]]:
    """The rows that a generation run wrote: {"prompt", "candidates", "meta"}, in the order of its prompts."""
    with open_result(run) as result:
        yield from rows_of(result, "generations.jsonl")


def scores_of(run: Run) -> list[list[float | None]]:
    """The scores of each group's candidates, in their order; None where it could not be scored."""
    with open_result(run) as result:
        return [row["scores"] for row in rows_of(result, "scores.jsonl")]


@contextmanager
def open_result(run: Run) -> Iterator[zipfile.ZipFile]:
    """The zip of `result/`. NotFound if the run has none."""
    checkpoint = Checkpoint.objects.filter(run=run).first()
    if checkpoint is None:
        raise NotFound(_("Run %(pk)s has no result.") % {"pk": run.pk})
    with storage.open_zip(checkpoint.storage_key) as result:
        yield result


def open_snapshot(run: Run) -> AbstractContextManager[zipfile.ZipFile]:
    """The zip of the rows that the run reads, and of their pictures."""
    return storage.open_zip(run.snapshot.storage_key)


def open_pictures(run: Run) -> AbstractContextManager[zipfile.ZipFile]:
    """The zip that holds under `media/` what the run drew, or what it scored."""
    return open_result(run) if run.writes_answers else open_snapshot(run)


def read_picture(run: Run, name: str) -> bytes:
    """A picture that the run drew, or one that it scored. NotFound if it is none of them.

    The name is looked up among those in the zip and leads nowhere else.
    """
    with open_pictures(run) as archive:
        try:
            return archive.read(f"media/{name}")
        except KeyError:
            raise NotFound(_("Run %(pk)s has no such picture.") % {"pk": run.pk}) from None


def open_checkpoint(checkpoint: Checkpoint) -> tuple[File, str]:
    """The stored zip, open for reading, and the name that its download has."""
    run = checkpoint.run
    return default_storage.open(checkpoint.storage_key), f"{run.method}-run-{run.pk}.zip"


def open_interface_file(checkpoint: Checkpoint) -> tuple[IO[bytes], str]:
    """The adapter as other interfaces read it, taken out of the zip, and the name that its download has.

    Raises NotFound if the result has none.
    """
    run, name = checkpoint.run, checkpoint.metadata.get("interface_file")
    if not name:
        raise NotFound(_("Run %(pk)s has no file for other interfaces.") % {"pk": run.pk})
    found = tempfile.TemporaryFile()  # noqa: SIM115 - whoever sends it closes it
    with open_result(run) as result, result.open(name) as file:
        shutil.copyfileobj(file, found)
    found.seek(0)
    return found, f"{run.method}-run-{run.pk}-lora.safetensors"


def open_sample_image(run: Run, name: str) -> File:
    """A picture among the run's samples. NotFound if it is none of them."""
    if name not in {row.get("image") for row in run.samples}:
        raise NotFound(_("Run %(pk)s has no such picture.") % {"pk": run.pk})
    return default_storage.open(f"samples/{name}")


def comparison_of(row: dict[str, Any]) -> int | None:
    """The number of the comparison that a group of a scoring came from; None of one that somebody gave."""
    number: int | None = row.get("meta", {}).get("comparison")
    return number


def rows_of(result: zipfile.ZipFile, name: str) -> Iterator[dict[str, Any]]:
    """The rows of a JSONL file in a zip."""
    with result.open(name) as lines:
        for line in lines:
            yield json.loads(line)
