"""Runs with the real trainer on a tiny Llama: through a worker, killed at any moment, and brought home."""

import hashlib
import io
import json
import os
import signal
import subprocess
import sys
import time
import zipfile
from contextlib import contextmanager

import pytest
from django.conf import settings as django_settings
from django.core.files.storage import default_storage
from django.db import connection

from tests.training.test_executing import alive, child_of, meanwhile, wait_until, work
from tests.tuning.text_models import save_causal
from training import services
from training.models import Checkpoint, Metric, ResumePoint, Run
from training.services import executing, queue
from training.tuning.warm_start import Warm
from webapp.embedded.broker import broker_url
from webapp.embedded.postgres import database_url

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.slow]
PATIENCE = 180  # seconds; the machine may be busy
STEPS = 40
CONFIG = {
    "max_steps": STEPS,
    "batch_size": 4,
    "log_every": 1,
    "save_every": 5,
    "learning_rate": 1e-3,
    "samples": 0,
}
WAKE = """
import django
django.setup()
from training.services import queue
queue.wake_workers("cpu")
"""
WORKER = """
import django
django.setup()
from training import tasks
tasks.work_runs(device_kind="cpu")
"""


@pytest.fixture(scope="session")
def llama_folder(tmp_path_factory):
    return save_causal(tmp_path_factory.mktemp("llama"), "llama")


@pytest.fixture
def llama(manager, project, llama_folder):
    return services.register_base_model(by=manager, name="llama", modality="text", location=str(llama_folder))


@pytest.fixture
def ask(manager, project, llama, monkeypatch):
    """A run that is ready to be claimed; its data has been looked at by the real `inspect`."""
    monkeypatch.setenv("OMP_NUM_THREADS", "1")

    def ask(method="dpo", *, base="llama", eval_fraction=0.2, **config) -> Run:
        given = {"method": method, "base": base, "config": config, "eval_fraction": eval_fraction, "seed": 5}
        run = services.create_run(by=manager, project=project, **given)
        services.prepare_run(run_id=run.pk)
        run.refresh_from_db()
        assert run.status == "queued", run.error
        return run

    return ask


@pytest.fixture(scope="session")
def uninterrupted_weights():
    """Filled by the first test that needs it: equal runs end with equal weights."""
    return {}


@pytest.fixture
def expected_weights(ask, uninterrupted_weights):
    if not uninterrupted_weights:
        run = ask(**CONFIG)
        work()
        uninterrupted_weights["adapter"] = adapter_hash(run)
    return uninterrupted_weights["adapter"]


def environment(settings, data_dir) -> dict[str, str]:
    """For processes that share Postgres and the storage with this test and nothing else."""
    return {
        **os.environ,
        "DJANGO_SETTINGS_MODULE": "webapp.settings",
        "SECRET_KEY": "only-for-this-test-" * 2,
        "DATABASE_URL": database_url(data_dir, database=connection.settings_dict["NAME"]),
        "STORAGE_URL": f"file://{settings.STORAGES['default']['OPTIONS']['location']}",
        "TIEBREAK_WORK_DIR": str(settings.WORK_DIR),
        "CELERY_BROKER_URL": broker_url(settings.WORK_DIR.with_name("broker")),
        "RUN_RETRY_PAUSE": "1",
    }


@contextmanager
def started(*command: str, settings, data_dir):
    process = subprocess.Popen(
        [sys.executable, *command], env=environment(settings, data_dir), cwd=django_settings.BASE_DIR
    )
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def worker(settings, data_dir):
    """A process that works until nothing is queued."""
    return started("-c", WORKER, settings=settings, data_dir=data_dir)


def result_of(run: Run) -> zipfile.ZipFile:
    checkpoint = Checkpoint.objects.get(run=run)
    with default_storage.open(checkpoint.storage_key) as file:
        content = file.read()
    assert hashlib.sha256(content).hexdigest() == checkpoint.sha256
    return zipfile.ZipFile(io.BytesIO(content))


def adapter_hash(run: Run) -> str:
    run.refresh_from_db()
    assert run.status == "done", run.error
    return hashlib.sha256(result_of(run).read("adapter_model.safetensors")).hexdigest()


def reached(run: Run, step: int) -> bool:
    return Run.objects.get(pk=run.pk).step >= step


def has_ended(run: Run) -> bool:
    return Run.objects.get(pk=run.pk).has_ended


def steps_of(run: Run) -> list[int]:
    return list(Metric.objects.filter(run=run, kind="train").order_by("step").values_list("step", flat=True))


def test_dpo(ask):
    run = ask(max_steps=3, batch_size=4, log_every=1, learning_rate=1e-3, samples=1, sample_max_new_tokens=8)
    assert run.preview["groups"] == run.snapshot.counts["train_groups"] == 8
    work()
    names = result_of(run).namelist()
    assert {"README.md", "metadata.json", "adapter_model.safetensors", "tokenizer.json"} <= set(names)
    first = services.metrics_of(run)[0]
    assert (first["step"], first["rewards/margin"]) == (1, 0)
    assert abs(first["loss"] - 0.6931471805599453) < 1e-6
    run.refresh_from_db()
    assert [row["when"] for row in run.samples] == ["before", "after"]
    assert run.checkpoint.metadata["data"]["judgements"] == 8


def test_tuned_model_as_base_then_blind_match(ask, manager, project, llama):
    first = ask(max_steps=2, batch_size=4, learning_rate=1e-2, samples=0)
    work()
    name = f"checkpoint:{first.checkpoint.pk}"
    second = ask(base=name, max_steps=2, batch_size=4, learning_rate=1e-2, samples=0)
    match = services.create_match(
        by=manager, project=project, left=name, right="llama", prompts=["One?", "Two?"],
        config={"max_new_tokens": 4},
    )  # fmt: skip
    work()
    second.refresh_from_db()
    assert second.status == "done", second.error
    assert adapter_hash(second) != adapter_hash(first)
    adapter = json.loads(result_of(second).read("adapter_config.json"))
    assert adapter["base_model_name_or_path"] == llama.location
    services.advance_matches()
    match.refresh_from_db()
    assert match.status == "judging", match.error
    assert match.comparisons.count() + match.identical == 2
    rows = list(services.generations_of(match.left_run))
    assert [row["prompt"] for row in rows] == ["One?", "Two?"]


def test_reward_model_scores(ask, manager, project):
    run = ask("reward_model", max_steps=2, batch_size=4)
    work()
    run.refresh_from_db()
    assert run.status == "done", run.error
    groups = [{"prompt": "p", "candidates": [{"text": "a"}, {"text": "b"}, {"text": "c"}]}]
    base = f"checkpoint:{run.checkpoint.pk}"
    scoring = services.create_scoring(by=manager, project=project, base=base, groups=groups)
    work()
    scoring.refresh_from_db()
    assert scoring.status == "done", scoring.error
    ((first, *others),) = services.scores_of(scoring)
    assert isinstance(first, float)
    assert len(others) == 2


def test_bad_data_is_told_before_the_run_is_queued(manager, project, llama):
    """A context of 256 tokens has no room for this prompt."""
    from annotation.services import add_comparisons
    from tests.annotation.factories import make_project

    other = make_project(by=manager)
    judgement = {"annotator": "a", "kind": "regular", "order": [0, 1], "choice": 0}
    candidates = [{"text": "a", "source": ""}, {"text": "b", "source": ""}]
    group = {"prompt": "long " * 2000, "candidates": candidates, "judgements": [judgement]}
    add_comparisons(project=other, groups=[group])
    run = services.create_run(by=manager, project=other, method="dpo", base="llama", config={})
    services.prepare_run(run_id=run.pk)
    run.refresh_from_db()
    assert (run.status, run.attempt) == ("failed", 0)
    assert "no row can be used: the prompt is longer than the context" in run.error


def test_worker_killed(ask, expected_weights, settings, data_dir, monkeypatch):
    monkeypatch.setattr(
        queue, "_database_start", lambda: queue.database_now() - django_settings.RUN_STALL_AFTER
    )
    settings.RUN_STALE_AFTER /= 15
    run = ask(**CONFIG)
    with worker(settings, data_dir) as first:
        wait_until(lambda: reached(run, 12), seconds=PATIENCE)
        trainer = child_of(run)
        first.send_signal(signal.SIGKILL)
        first.wait()
        wait_until(lambda: not alive(trainer), seconds=10)
        assert not has_ended(run)
    wait_until(lambda: services.requeue_lost_runs(now=services.database_now()) == 1, seconds=30)
    with worker(settings, data_dir):
        wait_until(lambda: has_ended(run), seconds=PATIENCE)
    assert adapter_hash(run) == expected_weights
    run.refresh_from_db()
    assert (run.attempt, run.lost_attempts) == (2, 1)
    assert steps_of(run) == list(range(1, STEPS + 1))


def test_worker_killed_and_another_machine_goes_on(ask, expected_weights, settings, data_dir, monkeypatch):
    monkeypatch.setattr(
        queue, "_database_start", lambda: queue.database_now() - django_settings.RUN_STALL_AFTER
    )
    settings.RUN_STALE_AFTER /= 15
    run = ask(**CONFIG)
    with worker(settings, data_dir):
        wait_until(lambda: ResumePoint.objects.filter(run=run, step__gte=10).exists(), seconds=PATIENCE)
    settings.WORK_DIR = settings.WORK_DIR.with_name("another machine")
    wait_until(lambda: services.requeue_lost_runs(now=services.database_now()) == 1, seconds=30)
    with worker(settings, data_dir):
        wait_until(lambda: has_ended(run), seconds=PATIENCE)
    assert adapter_hash(run) == expected_weights
    assert steps_of(run) == list(range(1, STEPS + 1))


def test_trainer_killed(ask, expected_weights, settings, data_dir):
    """The worker sees it, and whoever comes after the pause goes on."""
    run = ask(**CONFIG)
    with worker(settings, data_dir) as first:
        wait_until(lambda: reached(run, 12), seconds=PATIENCE)
        os.kill(child_of(run), signal.SIGKILL)
        first.wait(timeout=PATIENCE)
    wait_until(lambda: has_ended(run) or Run.objects.queued(device_kind="cpu").exists(), seconds=PATIENCE)
    with worker(settings, data_dir):
        wait_until(lambda: has_ended(run), seconds=PATIENCE)
    assert adapter_hash(run) == expected_weights
    run.refresh_from_db()
    assert (run.attempt, run.lost_attempts, run.error) == (2, 1, "")
    assert steps_of(run) == list(range(1, STEPS + 1))


def test_postgres_killed(ask, expected_weights, settings, data_dir, postgres):
    """The trainer does not even notice, however far it is; the worker goes on when the database is back."""
    run = ask(**CONFIG)
    with worker(settings, data_dir):
        wait_until(lambda: reached(run, 12), seconds=PATIENCE)
        postgres.process.kill()
        postgres.process.wait()
        connection.close()
        time.sleep(3)
        postgres.start()
        assert services.requeue_lost_runs(now=services.database_now()) == 0
        wait_until(lambda: has_ended(run), seconds=PATIENCE)
    assert adapter_hash(run) == expected_weights
    run.refresh_from_db()
    assert (run.attempt, run.lost_attempts) == (1, 0)
    assert steps_of(run) == list(range(1, STEPS + 1))


def test_celery_worker_asked_to_end(ask, settings, data_dir):
    """SIGTERM, as when a new version is installed: the trainer saves, and the run is queued again."""
    run = ask(**{**CONFIG, "max_steps": 5000, "save_every": 5000})
    celery = ["-m", "celery", "-A", "webapp", "worker", "-Q", "runs-cpu", "--pool", "solo", "-l", "warning"]
    with started(*celery, settings=settings, data_dir=data_dir) as process:
        subprocess.run(
            [sys.executable, "-c", WAKE],
            env=environment(settings, data_dir),
            cwd=django_settings.BASE_DIR,
            check=True,
        )
        wait_until(lambda: reached(run, 3), seconds=PATIENCE)
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=60) == 0
    run.refresh_from_db()
    assert (run.status, run.attempt, run.lost_attempts) == ("queued", 1, 0)
    assert run.error == "The worker was stopped; the run goes on from here."
    assert ResumePoint.objects.get(run=run).step == run.step >= 3


def test_a_warm_trainer_is_a_cold_one(ask, expected_weights, monkeypatch):
    """Forked from a process that has loaded everything: equal to the last bit, killed and resumed too."""
    environment = executing.trainer_environment("cpu")
    warm = Warm(environment, modules=["training.tuning.methods.dpo"])
    monkeypatch.setattr(executing, "trainer_environment", lambda kind: environment)
    monkeypatch.setattr(executing, "_warm", [warm])
    try:
        wait_until(lambda: warm.serves(environment), seconds=PATIENCE)
        run = ask(**CONFIG)

        def kill() -> None:
            wait_until(lambda: reached(run, 12), seconds=PATIENCE)
            os.killpg(child_of(run), signal.SIGKILL)

        with meanwhile(kill):
            work()
        run.refresh_from_db()
        assert (adapter_hash(run), run.attempt) == (expected_weights, 2)
        assert not warm.is_gone
    finally:
        warm.close()
