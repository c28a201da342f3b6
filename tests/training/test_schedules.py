"""Schedules, with a clock that the test holds."""

from datetime import UTC, datetime, timedelta

import pytest

from annotation.errors import Invalid
from tests.training import factories
from training import services
from training.models import Checkpoint, Run, Schedule

pytestmark = pytest.mark.django_db
NOON = datetime(2026, 3, 2, 12, tzinfo=UTC)  # a Monday
PLAN = [
    {"method": "reward_model", "base": "tiny", "config": {"epochs": 1}},
    {"method": "dpo", "base": "tiny", "config": {"beta": 0.2}, "eval_fraction": 0.2},
]


@pytest.fixture
def schedule(manager, project, base):
    return services.create_schedule(by=manager, project=project, name="rounds", plan=PLAN, every_judgements=5)


def finish(run: Run, status: str = "done", error: str = "") -> None:
    Run.objects.filter(pk=run.pk).update(status=status, error=error)
    if status == "done":
        Checkpoint.objects.create(run=run, storage_key="x", sha256="0", size=1)


def runs_of(schedule) -> list[Run]:
    return list(Run.objects.filter(round_step__round__schedule=schedule).order_by("pk"))


def test_judgements_that_were_there_before_do_not_count(schedule):
    assert services.run_schedules(now=NOON) == 0


def test_fires_after_n_judgements_and_goes_through_its_plan(schedule, project):
    factories.add_judged(project, prompts=4, start=100)
    assert services.run_schedules(now=NOON) == 0
    factories.add_judged(project, prompts=1, start=200)
    assert services.run_schedules(now=NOON) == 1
    (first,) = runs_of(schedule)
    step = first.round_step
    assert (first.method, step.round.number, step.index) == ("reward_model", 1, 0)
    assert services.run_schedules(now=NOON) == 0, "the second step waits for the first"
    finish(first)
    assert services.run_schedules(now=NOON) == 1
    second = runs_of(schedule)[1]
    assert (second.method, second.config["beta"], second.snapshot.eval_fraction) == ("dpo", 0.2, 0.2)
    finish(second)
    assert services.run_schedules(now=NOON) == 0
    ended = schedule.rounds.get()
    assert (ended.number, ended.status, ended.error) == (1, "done", "")
    assert services.run_schedules(now=NOON) == 0, "nothing new was judged"
    factories.add_judged(project, prompts=5, start=300)
    assert services.run_schedules(now=NOON) == 1
    assert runs_of(schedule)[2].round_step.round.number == 2


def test_failed_step_ends_the_round(schedule, project):
    factories.add_judged(project, prompts=5, start=100)
    services.run_schedules(now=NOON)
    finish(runs_of(schedule)[0], "failed", "Out of memory.")
    assert services.run_schedules(now=NOON) == 0
    ended = schedule.rounds.get()
    assert ended.status == "failed"
    assert ended.error.startswith("Step 1: Run ")
    assert ended.error.endswith(" was failed. Out of memory.")
    assert len(runs_of(schedule)) == 1


def test_result_of_an_earlier_step_as_base(manager, project, base):
    plan = [{"method": "sft", "base": "tiny"}, {"method": "dpo", "base": {"step": 0}}]
    schedule = services.create_schedule(
        by=manager, project=project, name="chain", plan=plan, every_judgements=1
    )
    factories.add_judged(project, prompts=1, start=100)
    services.run_schedules(now=NOON)
    finish(runs_of(schedule)[0])
    services.run_schedules(now=NOON)
    assert runs_of(schedule)[1].base_checkpoint.run == runs_of(schedule)[0]


def test_cron(manager, project, base):
    schedule = services.create_schedule(
        by=manager, project=project, name="weekly", plan=PLAN[:1], cron="0 3 * * 1"
    )
    Schedule.objects.update(created_at=NOON)
    next_monday = datetime(2026, 3, 9, 3, tzinfo=UTC)
    assert services.run_schedules(now=next_monday - timedelta(seconds=1)) == 0
    assert services.run_schedules(now=next_monday) == 1
    finish(runs_of(schedule)[0])
    assert services.run_schedules(now=next_monday + timedelta(days=1)) == 0
    # Two firings that were slept through are made up for by one.
    assert services.run_schedules(now=next_monday + timedelta(days=15)) == 1
    finish(runs_of(schedule)[1])
    assert services.run_schedules(now=next_monday + timedelta(days=15)) == 0


def test_switched_off(schedule, project):
    services.set_enabled(schedule=schedule, enabled=False)
    factories.add_judged(project, prompts=9, start=100)
    assert services.run_schedules(now=NOON) == 0
    services.set_enabled(schedule=schedule, enabled=True)
    assert services.run_schedules(now=NOON) == 0, "it counts from now"


def test_step_that_can_no_longer_start(schedule, project, base):
    factories.add_judged(project, prompts=5, start=100)
    base.delete()
    services.run_schedules(now=NOON)
    ended = schedule.rounds.get()
    assert ended.error.startswith('Step 1: could not start: No model named "tiny"')
    assert ended.status == "failed"


def test_deleted_schedule_leaves_its_rounds(schedule, project):
    factories.add_judged(project, prompts=5, start=100)
    services.run_schedules(now=NOON)
    services.delete_schedule(schedule=schedule)
    assert Run.objects.get().round_step.round.schedule is None


@pytest.mark.parametrize(
    ("values", "field"),
    [
        ({"name": " "}, "name"),
        ({"every_judgements": None}, "every_judgements"),
        ({"cron": "0 3 * * 1"}, "every_judgements"),
        ({"every_judgements": None, "cron": "often"}, "cron"),
        ({"every_judgements": 0}, "every_judgements"),
        ({"plan": []}, "plan"),
        ({"plan": ["dpo"]}, "plan.0"),
        ({"plan": [{"method": "dopo", "base": "tiny"}]}, "plan.0.method"),
        ({"plan": [{"method": "dpo", "base": "nothing"}]}, "plan.0.base"),
        ({"plan": [{"method": "dpo", "base": {"step": 0}}]}, "plan.0.base"),
        ({"plan": [{"method": "dpo", "base": {"stop": 0}}]}, "plan.0.base"),
        ({"plan": [*PLAN, {"method": "dpo", "base": {"step": 2}}]}, "plan.2.base"),
        ({"plan": [{"method": "dpo", "base": "tiny", "config": {"beta": 0}}]}, "plan.0.config.beta"),
        ({"plan": [{"method": "dpo", "base": "tiny", "nonsense": 0}]}, "plan.0.nonsense"),
        ({"plan": [{"method": "dpo", "base": "tiny", "filters": {"x": 0}}]}, "plan.0.filters.x"),
    ],
)
def test_refused(manager, project, base, values, field):
    given = {"by": manager, "project": project, "name": "n", "plan": PLAN, "every_judgements": 5}
    with pytest.raises(Invalid) as refused:
        services.create_schedule(**given | values)
    assert list(refused.value.errors) == [field]
