"""`manage.py train` and `manage.py register_model`."""

import io
import json

import pytest
from django.core.management import CommandError, call_command

from tests.annotation.factories import make_user
from training import services
from training.management.commands.train import parse_config
from training.models import BaseModel, Metric, Run

pytestmark = pytest.mark.django_db


def test_register_model(manager, base):
    call_command("register_model", "again", base.location, modality="text", stdout=io.StringIO())
    assert BaseModel.objects.get(name="again").created_by == manager


def test_register_what_is_not_there(manager):
    with pytest.raises(CommandError, match="There is no folder"):
        call_command("register_model", "new", "/nowhere", modality="text")


def test_nobody_to_register_it():
    with pytest.raises(CommandError, match="create_user"):
        call_command("register_model", "new", "/nowhere", modality="text")


def test_train(project, base):
    out = io.StringIO()
    call_command(
        "train", project=project.pk, method="dpo", base="tiny", stdout=out, eval_fraction=0.1, seed=2,
        set=["beta=0.2", "lora.r=4", "loss=ipo"], filters='{"annotators": ["import0"]}',
    )  # fmt: skip
    run = Run.objects.get()
    assert out.getvalue() == f"run {run.pk}\n"
    assert (run.config["beta"], run.config["lora"]["r"], run.config["loss"]) == (0.2, 4, "ipo")
    assert (run.snapshot.filters, run.snapshot.eval_fraction) == ({"annotators": ["import0"]}, 0.1)
    assert run.seed == 2


def test_follow(project, base, monkeypatch):
    def done(run_id):
        run = Run.objects.get(pk=run_id)
        Metric.objects.create(run=run, step=1, values={"loss": 0.5})
        Run.objects.filter(pk=run.pk).update(status="failed", error="Out of memory.")

    create = services.create_run

    def create_and_run(**values):
        run = create(**values)
        done(run.pk)
        return run

    monkeypatch.setattr(services, "create_run", create_and_run)
    out, err = io.StringIO(), io.StringIO()
    with pytest.raises(SystemExit):
        call_command(
            "train", project=project.pk, method="dpo", base="tiny", follow=True, stdout=out, stderr=err
        )
    lines = out.getvalue().splitlines()
    assert lines[1] == "failed"
    assert json.loads(lines[2]) == {"step": 1, "loss": 0.5}
    assert "Out of memory." in err.getvalue()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"project": 999}, "no project 999"),
        ({"set": ["beta"]}, "KEY=VALUE"),
        ({"set": ["beta=much"]}, "config.beta"),
        ({"filters": "{"}, "--filters is not JSON"),
        ({"method": "dopo"}, "no method"),
        ({"by": "anna"}, "is no manager"),
    ],
)
def test_refused(project, base, options, words):
    make_user(username="anna")
    with pytest.raises(CommandError, match=words):
        call_command("train", **{"project": project.pk, "method": "dpo", "base": "tiny"} | options)
    assert not Run.objects.exists()


def test_config_from_pairs():
    found = parse_config(["lora=null", "a.b.c=1", "a.b.d=x y", "e=[1, 2]"])
    assert found == {"lora": None, "a": {"b": {"c": 1, "d": "x y"}}, "e": [1, 2]}
    with pytest.raises(CommandError, match="a value of its own"):
        parse_config(["a=1", "a.b=2"])
