"""The demo's simulated annotators, its arithmetic and its bars; the whole loop is a slow test."""

import json
import math
import os
import random
import subprocess
import sys
from pathlib import Path

import pytest

from annotation import services as annotation
from annotation.client import ApiError
from annotation.models import Comparison, Judgement, Lease, User
from tests.training import factories
from training.models import Match
from webapp.demo import show
from webapp.demo.loop import Measured, agreement, win_rate
from webapp.demo.simulate import Annotator, Budget, decide, label
from webapp.embedded import devices

ROOT = Path(__file__).resolve().parents[2]


def length(prompt: str, content: object) -> float:
    """A utility for tests: the longer text is the better one."""
    return float(len(str(content)))


@pytest.fixture
def project(transactional_db):
    manager = annotation.create_user(username="manager", role="manager")
    project = annotation.create_project(by=manager, name="Words", modality="text")
    groups = [
        {
            "prompt": f"Word {n}?",
            "candidates": [{"text": "a" * (n + 9), "source": "m"}, {"text": "b", "source": "m"}],
        }
        for n in range(30)
    ]
    annotation.add_comparisons(project=project, groups=groups)
    return project


@pytest.fixture
def annotators(project):
    found = []
    for name, reliability in (("sure", 9.0), ("surer", 9.0), ("surest", 9.0)):
        user = annotation.create_user(username=name, role="annotator")
        annotation.add_member(project=project, username=name, role="annotator", by=project.created_by)
        found.append(Annotator(name, annotation.issue_token(user=user), reliability))
    return found


def test_annotators_label_over_http(live_server, project, annotators):
    """24 of 30 are judged once, by who prefers what is longer; the others are open and in nobody's hands."""
    sent = label(
        live_server.url, project=project.pk, annotators=annotators, wanted=24, utility=length, seed=0
    )
    stored = Judgement.objects.filter(comparison__project=project)
    assert len(sent) == stored.count() == 24
    assert {str(row.client_id) for row in stored} == {judgement.client_id for judgement in sent}
    assert {row.pk for row in stored} == {judgement.judgement for judgement in sent}
    assert len({row.comparison_id for row in stored}) == 24
    assert all(row.choice == 0 for row in stored)  # canonical, whatever the side it was shown on
    assert {tuple(row.order) for row in stored} == {(0, 1), (1, 0)}
    assert Comparison.objects.open().filter(project=project).count() == 6
    assert not Lease.objects.filter(comparison__project=project, state=Lease.State.OPEN).exists()


def test_annotators_stop_when_nothing_is_left(live_server, project, annotators):
    sent = label(
        live_server.url, project=project.pk, annotators=annotators, wanted=500, utility=length, seed=1
    )
    assert len(sent) == 30
    assert not Comparison.objects.open().exists()


def test_a_refusal_is_an_error(live_server, project):
    stranger = Annotator("stranger", "not a token", 1.0)
    with pytest.raises(ApiError, match="401"):
        label(live_server.url, project=project.pk, annotators=[stranger], wanted=1, utility=length, seed=0)


def test_budget_is_spent_once():
    budget = Budget(2)
    assert [budget.take() for _ in range(4)] == [True, True, False, False]


def decided(first: str, second: str, reliability: float, seed: int = 0) -> dict[str, object]:
    lease = {"prompt": "", "candidates": [{"text": first}, {"text": second}]}
    return decide(None, lease, reliability, length, random.Random(seed))


def test_strength_follows_the_difference():
    assert decided("a" * 50, "b" * 48, 100.0) == {"choice": 0, "strength": 2}
    assert decided("a" * 50, "b" * 20, 100.0) == {"choice": 0, "strength": 3}
    assert decided("a" * 20, "b" * 50, 100.0) == {"choice": 1, "strength": 3}


def test_ties_have_no_strength():
    answers = [decided("aa", "bb", 1.0, seed) for seed in range(50)]
    assert {"choice": "tie"} in answers


def test_the_careless_one_does_not_look():
    choices = [decided("a" * 100, "b", 0.0, seed)["choice"] for seed in range(300)]
    assert abs(choices.count(0) - choices.count(1)) < 60


def test_win_rate_and_agreement_by_hand():
    """Win, loss, tie: (1 + 0 + ½) / 3. Same order, opposite order, tie: the same."""
    assert win_rate([[2], [1], [1]], [[1], [2], [1]]) == pytest.approx(0.5)
    assert win_rate([[2, 1], [3, 3]], [[1, 1], [1, 1]]) == pytest.approx(3.5 / 4)
    assert agreement([[2, 1], [0.5, 0.9], [1, 0]], [[5, 4], [5, 4], [3, 3]]) == pytest.approx(0.5)
    assert agreement([[math.nan, 1], [2, 1]], [[5, 4], [5, 4]]) == pytest.approx(0.5)


def test_bars(db):
    good = Measured(win_rate=0.7, control_win_rate=0.5, matches=1000, reward_agreement=0.8, exactly_once=True)
    assert all(bar["met"] for bar in show.bars_of("text", good))
    for change in (
        {"win_rate": 0.67},
        {"control_win_rate": 0.44},
        {"control_win_rate": 0.56},
        {"matches": 999},
        {"reward_agreement": 0.77},
        {"exactly_once": False},
        {"runs": [12345]},
    ):
        bars = show.bars_of("text", Measured(**{**vars(good), **change}))
        assert [bar["met"] for bar in bars].count(False) == 1


def test_verdict_wants_both_worlds(db):
    played = show.Show(url="", say=print, sizes=show.Sizes())
    verdict = played.verdict()
    assert verdict["met"] is False
    assert [bar["name"] for bar in verdict["bars"]] == ["text_loop", "image_loop"]


def test_several_runs_may_share_the_cpu(monkeypatch):
    monkeypatch.setattr(devices, "count_cuda_devices", lambda environment: 0)
    monkeypatch.setattr(os, "cpu_count", lambda: 4)
    found = devices.find_devices({"RUN_WORKERS": "2"})
    assert [(device.name, device.kind) for device in found] == [("cpu-0", "cpu"), ("cpu-1", "cpu")]
    assert [device.environment["OMP_NUM_THREADS"] for device in found] == ["2", "2"]
    for wrong in ("0", "two", "-1"):
        with pytest.raises(devices.DeviceError, match="RUN_WORKERS"):
            devices.find_devices({"RUN_WORKERS": wrong})


@pytest.mark.slow
def test_demo_check(tmp_path):
    """The whole loop, headless: every bar is met, the last line is the verdict, and nothing is left."""
    environment = {**os.environ, "TMPDIR": str(tmp_path), "DJANGO_SETTINGS_MODULE": "webapp.settings"}
    command = [sys.executable, str(ROOT / "manage.py"), "demo", "--check"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=3600)
    verdict = json.loads(done.stdout.strip().splitlines()[-1])
    assert verdict["met"], verdict["bars"]
    assert done.returncode == 0
    assert list(tmp_path.glob("tiebreak-demo-*")) == []


def test_a_second_start_only_opens_the_site(db, tmp_path, monkeypatch):
    """Where both blind matches wait already, the loop is not run again, and new links are given."""
    manager = show.person("manager", "manager")
    project = factories.judged_project(prompts=2, by=manager)
    base = factories.make_base(tmp_path / "base", by=manager)
    for _ in show.WORLDS:
        left, right = factories.queued_run(project, base), factories.queued_run(project, base)
        Match.objects.create(project=project, left_run=left, right_run=right, prompts=1, created_by=manager)
    monkeypatch.setattr(show, "Loop", None)
    said: list[str] = []
    show.Show(url="http://site", say=said.append, sizes=show.Sizes()).run()
    assert sum("http://site/sign-in/link/?sesame=" in line for line in said) == 2
    assert {user.username for user in User.objects.all()} >= {"manager", "annotator"}
