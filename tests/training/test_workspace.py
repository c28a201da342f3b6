"""Laying out run directories: models, pictures and the history of earlier attempts."""

import json
import os

import pytest

from training import services, storage
from training.models import Checkpoint, Metric, Run
from training.services.errors import RunFailed
from training.services.workspace import Workspace, process_started, root_location

pytestmark = pytest.mark.django_db


@pytest.fixture
def adapter(run, tmp_path):
    """A finished run's result, as the trainer wrote it on another machine."""
    folder = tmp_path / "adapter"
    folder.mkdir()
    (folder / "adapter_config.json").write_text(
        json.dumps({"r": 4, "base_model_name_or_path": "/elsewhere/tiny"})
    )
    (folder / "metadata.json").write_text(json.dumps({"base": "/elsewhere/tiny"}))
    stored = storage.put_zip(folder, folder="checkpoints")
    Run.objects.filter(pk=run.pk).update(status="done")
    return Checkpoint.objects.create(run=run, storage_key=stored.key, sha256=stored.sha256, size=stored.size)


def next_run(run, **values) -> Run:
    """Another run on the same data."""
    fields = {"project": run.project, "method": "dpo", "snapshot": run.snapshot, "created_by": run.created_by}
    return Run.objects.create(**fields | values)


def test_run_json(run, base):
    workspace = Workspace(run)
    assert workspace.lay_out() == 0
    assert json.loads((workspace.path / "run.json").read_text()) == {
        "method": "dpo",
        "config": {},
        "base": base.location,
        "reward": None,
        "data": {"project": "Answers", "base_name": "tiny"},
        "seed": 0,
    }
    assert len((workspace.path / "data" / "train.jsonl").read_text().splitlines()) == 3


def test_adapter_names_its_base_where_it_lies_here(run, adapter, base):
    second = next_run(run, base_checkpoint=adapter)
    workspace = Workspace(second)
    workspace.lay_out()
    place = workspace.run_json()["base"]
    assert workspace.run_json()["data"]["base_name"] == f"checkpoint {adapter.pk} (dpo from tiny)"
    assert place == f"models/checkpoint-{adapter.pk}"
    folder = workspace.path / place
    assert json.loads((folder / "adapter_config.json").read_text()) == {
        "r": 4, "base_model_name_or_path": base.location,
    }  # fmt: skip
    assert json.loads((folder / "metadata.json").read_text()) == {"base": base.location}


def test_base_of_a_long_line(run, adapter, base):
    second = next_run(run, base_checkpoint=adapter)
    child = Checkpoint.objects.create(run=second, storage_key="x", sha256="0", size=1)
    grandchild = Checkpoint.objects.create(
        run=next_run(run, base_checkpoint=child), storage_key="y", sha256="0", size=1
    )
    assert root_location(grandchild) == base.location


def test_rewards_become_folders(run, adapter, base):
    reward = [
        {"model": f"checkpoint:{adapter.pk}", "weight": 2.0},
        {"model": "tiny"},
        {"rule": "length"},
    ]
    rewarded = next_run(run, base=base, reward=reward)
    workspace = Workspace(rewarded)
    workspace.lay_out()
    place = f"models/checkpoint-{adapter.pk}"
    assert workspace.run_json()["reward"] == [
        {"model": place, "weight": 2.0}, {"model": base.location}, {"rule": "length"},
    ]  # fmt: skip
    assert (workspace.path / place / "adapter_config.json").exists()


def test_damaged_checkpoint_is_not_used(run, adapter):
    Checkpoint.objects.filter(pk=adapter.pk).update(sha256="1" * 64)
    with pytest.raises(RunFailed, match="was damaged"):
        Workspace(next_run(run, base_checkpoint=Checkpoint.objects.get())).lay_out()


def test_history_comes_from_postgres_on_another_machine(run, tmp_path):
    picture = tmp_path / "x.png"
    picture.write_bytes(b"picture")
    stored = storage.put_file(picture, folder="samples")
    folder = tmp_path / "checkpoint"
    folder.mkdir()
    (folder / "trainer.json").write_text("{}")
    point = storage.put_zip(folder, folder=f"runs/{run.pk}")
    run.resume_points.create(step=2, storage_key=point.key, sha256=point.sha256)
    for step in (1, 2, 3):
        Metric.objects.create(run=run, step=step, values={"loss": 1 / step})
    Metric.objects.create(run=run, step=2, kind="eval", values={"eval/loss": 0.5})
    run.samples = [
        {"step": 0, "when": "before", "image": f"{stored.sha256}.png", "file": "samples/before-0.png"},
        {"step": 3, "when": "after", "text": "later"},
    ]
    workspace = Workspace(run)
    assert workspace.lay_out() == 2
    rows = [json.loads(line) for line in workspace.dir.metrics_file.read_text().splitlines()]
    assert rows == [{"step": 1, "loss": 1.0}, {"step": 2, "loss": 0.5}, {"step": 2, "eval/loss": 0.5}]
    (sample,) = [json.loads(line) for line in workspace.dir.samples_file.read_text().splitlines()]
    assert sample == {"step": 0, "when": "before", "image": "samples/before-0.png"}
    assert (workspace.path / "samples" / "before-0.png").read_bytes() == b"picture"


def test_tidy(run, base, settings):
    Workspace(run).lay_out()
    services.tidy_work_dir()
    assert Workspace(run).path.exists(), "it is still to be done"
    Run.objects.filter(pk=run.pk).update(status="cancelled")
    services.tidy_work_dir()
    assert list((settings.WORK_DIR / "runs").iterdir()) == []


def test_process_has_a_birthday():
    assert process_started(os.getpid()) == process_started(os.getpid())
    assert process_started(os.getpid()) != process_started(1)
    assert process_started(2**22 + 1) is None
