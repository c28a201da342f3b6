"""Projects with judgements, base models, runs: made through the services where these matter."""

from itertools import count
from pathlib import Path

from annotation import services as annotation_services
from annotation.models import Project, User
from tests.annotation.factories import make_project, make_user
from training import datasets, services
from training.models import BaseModel, Run, Snapshot
from training.services import queue

_numbers = count(1)


def judged_project(*, prompts: int = 10, votes: int = 1, by: User | None = None) -> Project:
    """Answer 0 won everywhere, by `votes` annotators."""
    project = make_project(by=by)
    add_judged(project, prompts=prompts, votes=votes)
    return project


def add_judged(project: Project, *, prompts: int, votes: int = 1, start: int = 0, choice: object = 0) -> None:
    groups = [
        {
            "prompt": f"Question {number}?",
            "candidates": [
                {"text": f"Good {number}.", "source": "a"},
                {"text": f"Bad {number}.", "source": "b"},
            ],
            "judgements": [
                {"annotator": f"import{vote}", "kind": "regular", "order": [0, 1], "choice": choice}
                for vote in range(votes)
            ],
        }
        for number in range(start, start + prompts)
    ]
    annotation_services.add_comparisons(project=project, groups=groups)


def make_base(
    folder: Path, *, name: str = "tiny", modality: str = "text", by: User | None = None
) -> BaseModel:
    """A registered folder with something that is called safetensors in it."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text("{}")
    (folder / "model.safetensors").write_bytes(b"weights")
    return services.register_base_model(
        by=by or make_user("manager"), name=name, modality=modality, location=str(folder)
    )


def queued_run(project: Project, base: BaseModel, *, method: str = "dpo", **values) -> Run:
    """A run whose data is frozen, ready to be claimed."""
    frozen = datasets.store_rows([{"prompt": f"p{number}"} for number in range(3)])
    snapshot = Snapshot.objects.create(
        project=project,
        cutoff=queue.database_now(),
        frozen_at=queue.database_now(),
        sha256=frozen.sha256,
        storage_key=frozen.storage_key,
        counts=frozen.counts,
    )
    return Run.objects.create(
        project=project,
        method=method,
        base=base,
        snapshot=snapshot,
        status=Run.Status.QUEUED,
        queued_at=queue.database_now(),
        created_by=project.created_by,
        **values,
    )
