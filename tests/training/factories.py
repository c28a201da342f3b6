"""Projects with judgements, base models, runs: made through the services where these matter."""

import io
import json
import zipfile
from collections.abc import Iterable, Sequence
from itertools import count
from pathlib import Path
from typing import Any

from django.core.files.base import ContentFile
from django.core.files.storage import default_storage
from django.utils import timezone

from annotation import services as annotation_services
from annotation.models import Comparison, Judgement, Project, User
from tests.annotation.factories import make_project, make_user, text_groups
from training import datasets, services
from training.models import (
    Arena,
    BaseModel,
    Checkpoint,
    Duel,
    DuelTurn,
    Match,
    MatchComparison,
    Metric,
    Run,
    Snapshot,
)
from training.services import queue
from training.tuning.registry import get_method

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


def log_metrics(run: Run, *, steps: int = 5, pace: float = 2.0) -> None:
    for step in range(1, steps + 1):
        values = {"time": pace * step, "loss": 1 / step, "rewards/accuracy": 0.5 + step / 100}
        Metric.objects.create(run=run, step=step, values=values)
    Metric.objects.create(run=run, step=steps, kind="eval", values={"eval/loss": 0.4})


def finish(run: Run, **metrics: float) -> Checkpoint:
    now = queue.database_now()
    changes = {"status": Run.Status.DONE, "step": 5, "total_steps": 5, "started_at": now, "finished_at": now}
    Run.objects.filter(pk=run.pk).update(
        **changes, config=get_method(run.method).config().model_dump(mode="json")
    )
    key = default_storage.save("checkpoints/x.zip", ContentFile(b"zip"))
    return Checkpoint.objects.create(
        run=run, storage_key=key, sha256="ab" * 32, size=3, metadata={"metrics": metrics}
    )


def ended(
    run: Run, rows: Sequence[Any], pictures: Iterable[Any] = (), name: str = "generations.jsonl"
) -> Run:
    """The run is done and wrote these rows."""
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        archive.writestr(name, "".join(json.dumps(row) + "\n" for row in rows))
        for picture, data in pictures:
            archive.writestr(f"media/{picture}", data)
    key = default_storage.save("checkpoints/rows.zip", ContentFile(out.getvalue()))
    Run.objects.filter(pk=run.pk).update(status=Run.Status.DONE)
    Checkpoint.objects.create(run=run, storage_key=key, sha256="0" * 64, size=1)
    run.refresh_from_db()
    return run


def make_match(project, done: Checkpoint, base, *, prompts: int = 6, judged: int = 4, lost: int = 1) -> Match:
    """The left model won all but the first `lost` of the judged comparisons."""
    runs = [
        queued_run(project, base, method="generate"),
        queued_run(project, base, method="generate"),
    ]
    Run.objects.filter(pk=runs[0].pk).update(base=None, base_checkpoint=done)
    match = Match.objects.create(
        project=project,
        left_run=Run.objects.get(pk=runs[0].pk),
        right_run=runs[1],
        prompts=prompts,
        status="judging",
        created_by=project.created_by,
    )
    comparisons = annotation_services.add_comparisons(
        project=project, groups=text_groups(prompts, start=100), held_out=True
    )
    for number, comparison in enumerate(comparisons):
        MatchComparison.objects.create(match=match, comparison=comparison, left_index=0)
        if number < judged:
            judge(comparison, 0 if number >= lost else 1)
    return match


def make_arena(project: Project, models: Sequence[BaseModel]) -> Arena:
    return services.set_arena(by=project.created_by, project=project, models=[one.name for one in models])


def make_duel(project: Project, models: Sequence[BaseModel], *, asker: User, ready: bool = True) -> Duel:
    """Two models of the project's arena were asked, and have answered if it is `ready`."""
    arena = Arena.objects.filter(project=project).first() or make_arena(project, models)
    left, right = services.contenders_of(arena)[:2]
    now = timezone.now()
    duel = Duel.objects.create(arena=arena, asker=asker, left=left, right=right, left_index=0, created_at=now)
    runs = {side: queued_run(project, models[0], method="generate") for side in ("left_run", "right_run")}
    turn = DuelTurn.objects.create(duel=duel, number=0, message="Question?", **runs)
    if ready:
        turn.left_answer, turn.right_answer = "Left.", "Right."
        turn.save()
        candidates = [{"text": "Left.", "source": left.name}, {"text": "Right.", "source": right.name}]
        group = {"prompt": "Question?", "candidates": candidates}
        duel.lease = annotation_services.lease_alone(project=project, user=asker, group=group, now=now)
        duel.status = Duel.Status.READY
        duel.save()
    return duel


def judge(comparison: Comparison, choice: object) -> None:
    user = make_user()
    Judgement.objects.create(
        comparison=comparison,
        annotator=user,
        order=[0, 1],
        choice=choice,
        template_version=1,
        created_at=queue.database_now(),
        client_id="00000000-0000-4000-8000-000000000000",
        request_digest="",
    )
    Comparison.objects.filter(pk=comparison.pk).update(open_slots=0)
