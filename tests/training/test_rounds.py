"""Rounds: train, ask, compare blind, promote; what stops one, and how it goes on."""

import io
import json
import zipfile
from datetime import UTC, datetime
from itertools import cycle

import pytest
from django.core.files.base import ContentFile
from django.core.files.storage import default_storage

from annotation.errors import Conflict, Invalid
from annotation.models import Comparison, Judgement, QueueStrategy
from annotation.services import add_comparisons, next_lease, use_strategy
from tests.annotation.conftest import page_client
from tests.annotation.factories import add_annotators
from tests.training import factories
from tests.training.test_jobs import frozen_rows
from training import services
from training.models import Checkpoint, MatchComparison, Promotion, Round, Run
from training.services import queue

pytestmark = pytest.mark.django_db
NOON = datetime(2026, 3, 2, 12, tzinfo=UTC)
DPO = {"method": "dpo", "base": "tiny", "eval_fraction": 0.5}
MATCH = {"do": "match", "left": {"step": 0}, "right": {"champion": "tiny"}}
PROMOTE = {"do": "promote", "model": {"step": 0}, "match": 1, "guardrails": {"length": [0.5, 2.0]}}


def guarded(**limits) -> list[dict]:
    return [DPO, MATCH, PROMOTE | {"guardrails": limits}]


def schedule_of(project, plan):
    values = {"by": project.created_by, "project": project, "name": "weekly", "every_judgements": 1}
    made = services.create_schedule(plan=plan, **values)
    factories.add_judged(project, prompts=1, start=900)
    return made


def advance() -> int:
    return services.run_schedules(now=NOON)


def write(run: Run, name: str, rows: list[dict]) -> None:
    """The run is done, and its result holds these rows."""
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        archive.writestr(name, "".join(json.dumps(row) + "\n" for row in rows))
    key = default_storage.save("checkpoints/rows.zip", ContentFile(out.getvalue()))
    Run.objects.filter(pk=run.pk).update(status=Run.Status.DONE)
    Checkpoint.objects.create(run=run, storage_key=key, sha256="0" * 64, size=1)


def answer(match, *, left: str, right: str) -> None:
    """Both models have answered: the prompt's number and these words."""
    for run, words in ((match.left_run, left), (match.right_run, right)):
        rows = frozen_rows(run)
        texts = [{"candidates": [{"text": f"{number} {words}"}]} for number in range(len(rows))]
        write(run, "generations.jsonl", [row | text for row, text in zip(rows, texts, strict=True)])
    services.advance_matches()


def judge_all(match, pattern: str) -> None:
    """People prefer the left model where the repeated pattern says W."""
    rows = MatchComparison.objects.filter(match=match).order_by("pk").select_related("comparison")
    for row, letter in zip(rows, cycle(pattern)):
        factories.judge(row.comparison, row.left_index if letter == "W" else 1 - row.left_index)


def to_the_match(project, *, prompts: int = 120, plan=(DPO, MATCH, PROMOTE)):
    """A round whose first step has trained, and its match."""
    factories.add_judged(project, prompts=prompts, start=1000)
    schedule = schedule_of(project, list(plan))
    advance()
    this = schedule.rounds.get()
    factories.finish(this.steps.get(index=0).run)
    add_comparisons(
        project=project,
        held_out=True,
        groups=[
            {"prompt": f"Held out {number}", "candidates": [{"text": "a"}, {"text": "b"}]}
            for number in range(prompts)
        ],
    )
    advance()
    return this, this.steps.get(index=1).match


def test_a_better_model_is_promoted_and_the_next_round_meets_it(project, base):
    this, match = to_the_match(project)
    answer(match, left="new", right="old")
    assert advance() == 0, "people have to judge first"
    judge_all(match, "WWLWW")
    advance()
    this.refresh_from_db()
    assert (this.status, this.error) == (Round.Status.DONE, "")
    promotion = Promotion.objects.get()
    trained = this.steps.get(index=0).run
    assert (promotion.checkpoint.run, promotion.step.index) == (trained, 2)
    assert promotion.evidence["rate"] == pytest.approx(0.8)
    assert promotion.evidence["low"] > 0.5
    assert promotion.evidence["guardrails"] == [
        {"name": "length", "limit": [0.5, 2.0], "value": 1.0, "why": ""}
    ]
    factories.add_judged(project, prompts=1, start=2000)
    advance()
    following = Round.objects.exclude(pk=this.pk).get()
    factories.finish(following.steps.get(index=0).run)
    advance()
    assert following.steps.get(index=1).match.right_run.base_checkpoint == promotion.checkpoint


def test_longer_answers_that_people_like_are_not_promoted(project, base):
    """The planted hack: who is paid by the word wins every comparison and is stopped by its length."""
    this, match = to_the_match(project)
    answer(match, left="more " * 9, right="less")
    judge_all(match, "W")
    advance()
    this.refresh_from_db()
    assert this.status == Round.Status.STOPPED
    assert "Its answers are" in this.error
    assert "times as long, not 0.5 to 2." in this.error
    assert not Promotion.objects.exists()
    page = page_client(project.created_by).get(this.get_absolute_url())
    assert "times as long" in page.content.decode()


def test_rounds_follow_one_another_when_nobody_is_promoted(project, base):
    """The round goes on: the old champion answers each prompt twice, and when that is judged the next round
    learns from what was judged since this one began.
    """
    learn = DPO | {"filters": {"since": "last_round"}}
    champion = {"champion": "tiny"}
    ask = {"do": "generate", "base": champion, "config": {"samples_per_prompt": 2}, "judge": True, "times": 2}
    this, match = to_the_match(project, plan=[learn, MATCH, PROMOTE | {"go_on": True}, ask])
    answer(match, left="more " * 9, right="less")
    judge_all(match, "W")
    advance()
    refused = this.steps.get(index=2)
    assert (refused.status, refused.result["promoted"]) == ("done", False)
    assert "times as long, not 0.5 to 2." in refused.error
    written = this.steps.get(index=3).run
    assert (written.base, written.seed) == (base, 1)
    rows = frozen_rows(written)
    known = Comparison.objects.filter(project=project, held_out=False).values("prompt_key").distinct()
    assert len(rows) == 2 * known.count()
    texts = [{"candidates": [{"text": f"{number}"}, {"text": "no"}]} for number in range(len(rows))]
    write(written, "generations.jsonl", [row | text for row, text in zip(rows, texts, strict=True)])
    advance()
    this.refresh_from_db()
    assert (this.status, this.error) == (Round.Status.DONE, "")
    assert this.steps.get(index=3).result == {"added": len(rows), "alike": 0}
    page = page_client(project.created_by).get(this.get_absolute_url()).content.decode()
    assert "times as long" in page
    assert not Promotion.objects.exists()
    factories.judge(Comparison.objects.filter(meta__generation=written.pk).first(), 0)
    advance()
    following = Round.objects.exclude(pk=this.pk).get()
    learned = [each.steps.get(index=0).run.snapshot.filters["since"] for each in (this, following)]
    assert [datetime.fromisoformat(since) for since in learned] == [
        datetime(1970, 1, 1, tzinfo=UTC),
        this.started_at,
    ]


def test_many_small_steps_are_stopped_too(project, base):
    """Answers that are 1.2 times the champion's, which were 1.3 times the first model's: 1.56 in all."""
    champion = factories.finish(factories.queued_run(project, base))
    measured = {"guardrails": [{"name": "total_length", "value": 1.3, "why": ""}]}
    services.promote(checkpoint=champion, by=project.created_by, evidence=measured)
    this, match = to_the_match(project, plan=guarded(length=[0.5, 1.3], total_length=[0.5, 1.5]))
    assert match.right_run.base_checkpoint == champion
    answer(match, left="x" * 120, right="x" * 100)
    judge_all(match, "W")
    advance()
    this.refresh_from_db()
    assert this.status == Round.Status.STOPPED
    evidence = this.steps.get(index=2).result
    length, total = evidence["guardrails"]
    assert length["why"] == ""
    assert total["value"] == pytest.approx(1.3 * length["value"])
    assert "Since the first model" in this.error
    assert Promotion.objects.count() == 1
    manager = page_client(project.created_by)
    page = manager.get(this.get_absolute_url()).content.decode()
    assert "times as long, not 0.50 to 1.50." in page
    dashboard = manager.get(f"/projects/{project.pk}/training/").content.decode()
    assert f'<a href="{this.get_absolute_url()}">' in dashboard


def test_an_even_match_promotes_nobody(project, base):
    this, match = to_the_match(project)
    answer(match, left="new", right="old")
    judge_all(match, "WL")
    advance()
    this.refresh_from_db()
    assert this.status == Round.Status.STOPPED
    assert this.error.endswith("the interval does not lie above 50%.")
    assert not Promotion.objects.exists()


def test_a_decided_match_asks_nobody_else(project, base):
    """After 60 wins of 60 the rest is taken out of the queue, but for what somebody has on the screen."""
    this, match = to_the_match(project)
    answer(match, left="new", right="old")
    rows = list(MatchComparison.objects.filter(match=match).order_by("pk").select_related("comparison"))
    Comparison.objects.filter(project=project).exclude(pk__in=[row.comparison_id for row in rows]).update(
        open_slots=0
    )
    person = add_annotators(project, 1)[0]
    held = next_lease(project=project, user=person, now=queue.database_now())
    for row in [row for row in rows if row.comparison_id != held.comparison_id][:60]:
        factories.judge(row.comparison, row.left_index)
    advance()
    this.refresh_from_db()
    assert this.status == Round.Status.DONE
    judged = Judgement.objects.values("comparison")
    left = MatchComparison.objects.filter(match=match).exclude(comparison__in=judged)
    assert [row.comparison_id for row in left] == [held.comparison_id]
    result = this.steps.get(index=1).result
    assert (result["judged"], result["rate"]) == (60, 1.0)


def test_a_round_goes_on_from_the_step_that_failed(project, base):
    schedule = schedule_of(project, [DPO, DPO])
    advance()
    this = schedule.rounds.get()
    run = this.steps.get(index=0).run
    Run.objects.filter(pk=run.pk).update(status=Run.Status.FAILED, error="Out of memory.")
    advance()
    this.refresh_from_db()
    assert this.status == Round.Status.FAILED
    page = page_client(project.created_by)
    assert "Go on from here" in page.get(this.get_absolute_url()).content.decode()
    page.post(f"/rounds/{this.pk}/retry/")
    run.refresh_from_db()
    assert run.status == Run.Status.PREPARING
    advance()
    assert this.steps.get(index=0).run == run
    factories.finish(run)
    advance()
    this.refresh_from_db()
    assert [step.status for step in this.steps.all()] == ["done", "running"]
    page.post(f"/rounds/{this.pk}/cancel/")
    this.refresh_from_db()
    assert [this.status, *this.steps.values_list("status", flat=True)] == ["cancelled", "done", "cancelled"]
    assert this.steps.get(index=1).run.status == Run.Status.CANCELLED
    assert advance() == 0
    services.retry_round(round_id=this.pk)
    with pytest.raises(Conflict, match="nothing to try again"):
        services.retry_round(round_id=this.pk)


def test_the_queue_follows_a_new_reward_model(project, base):
    """Train members, score the queue with them, and ask first what they differ about."""
    use_strategy(project=project, strategy=QueueStrategy.PRIORITY)
    add_comparisons(
        project=project,
        groups=[{"prompt": name, "candidates": [{"text": "a"}, {"text": "b"}]} for name in "xy"],
    )
    plan = [
        {"method": "reward_model", "base": "tiny", "config": {"members": 3}},
        {"do": "score", "base": {"step": 0}, "then": "prioritise", "by": "disagreement"},
    ]
    this = schedule_of(project, plan).rounds
    advance()
    factories.finish(this.get().steps.get(index=0).run, **{"eval/accuracy": 0.8})
    advance()
    page = page_client(project.created_by).get(this.get().get_absolute_url()).content.decode()
    assert "The reward agrees with 80 % of the answers." in page
    scoring = this.get().steps.get(index=1).run
    assert scoring.base_checkpoint.run.method == "reward_model"
    rows = frozen_rows(scoring)
    doubts = [3.0 if row["prompt"] == "y" else 0.1 for row in rows]
    members = [[[doubt, -doubt, 0.0], [0.0, 0.0, 0.0]] for doubt in doubts]
    write(
        scoring,
        "scores.jsonl",
        [{"scores": [0, 0], "outputs": own, "disagreement": [0, 0]} for own in members],
    )
    advance()
    assert this.get().status == Round.Status.DONE
    first = next_lease(project=project, user=add_annotators(project, 1)[0], now=queue.database_now())
    assert first.comparison.prompt == "y"


@pytest.mark.parametrize(
    ("plan", "field"),
    [
        ([{"do": "dance"}], "plan.0.do"),
        ([{"do": "score", "base": "tiny", "then": "win"}], "plan.0.then"),
        ([{"do": "score"}], "plan.0.base"),
        ([{"do": "generate", "base": "tiny", "judge": 1}], "plan.0.judge"),
        ([{"do": "match", "left": "tiny", "right": "tiny"}], "plan.0.right"),
        ([{"do": "generate", "base": "tiny", "times": 0}], "plan.0.times"),
        ([DPO | {"filters": {"since": "yesterday"}}], "plan.0.filters.since"),
        ([DPO, {"do": "match", "left": {"step": 1}, "right": "tiny"}], "plan.1.left"),
        ([DPO, MATCH | {"sequential": "no"}], "plan.1.sequential"),
        ([DPO, MATCH, MATCH | {"left": {"step": 1}}], "plan.2.left"),
        ([DPO, MATCH, PROMOTE | {"match": 0}], "plan.2.match"),
        ([DPO, DPO, MATCH, PROMOTE | {"model": {"step": 1}, "match": 2}], "plan.3.match"),
        ([DPO, MATCH, PROMOTE | {"bar": 2}], "plan.2.bar"),
        ([DPO, MATCH, PROMOTE | {"go_on": "yes"}], "plan.2.go_on"),
        (guarded(luck=1), "plan.2.guardrails.luck"),
        (guarded(length=[2, 1]), "plan.2.guardrails.length"),
        (guarded(diversity=2), "plan.2.guardrails.diversity"),
        (guarded(refusals={"at_most": 0.1, "x": 1}), "plan.2.guardrails.refusals"),
        (guarded(metrics={"kl": [None, None]}), "plan.2.guardrails.metrics"),
    ],
)
def test_plans_that_are_refused(project, base, plan, field):
    with pytest.raises(Invalid) as refused:
        services.create_schedule(
            by=project.created_by, project=project, name="n", plan=plan, every_judgements=1
        )
    assert list(refused.value.errors) == [field]


def test_refusals_and_figures_of_training_are_guardrails_too(project, base):
    plan = guarded(refusals=0.1, metrics={"kl": [None, 5.0], "x": [0, 1]})
    this, match = to_the_match(project, plan=plan)
    run = this.steps.get(index=0).run
    run.metrics.create(step=1, values={"kl": 2.0})
    run.metrics.create(step=2, values={"kl": 9.0})
    answer(match, left=": I cannot help with that.", right="sure")
    judge_all(match, "W")
    advance()
    this.refresh_from_db()
    assert "It refuses 100% of the prompts, 0% were refused before." in this.error
    assert "kl is 9, not at most 5." in this.error
    assert "x was not measured." in this.error


def test_the_form_adds_what_follows_training(project, base):
    page = page_client(project.created_by)
    address = f"/projects/{project.pk}/schedules/"
    values = {"name": "Often", "every_judgements": "200", "first": "new:dpo:tiny", "afterwards": "promote"}
    assert page.post(address, values).status_code == 302
    plan = project.schedules.get().plan
    assert [step.get("do", "train") for step in plan] == ["train", "match", "promote"]
    assert plan[1]["right"] == {"champion": "tiny"}
    assert page.post(address, values | {"name": "On", "afterwards": "keep_going"}).status_code == 302
    learn, match, promotion, generation = project.schedules.get(name="On").plan
    assert (learn["base"], learn["filters"]) == ({"champion": "tiny"}, {"since": "last_round"})
    assert (match["right"], promotion["go_on"]) == ({"champion": "tiny"}, True)
    assert (generation["do"], generation["base"]) == ("generate", {"champion": "tiny"})
    assert (generation["config"], generation["judge"]) == ({"samples_per_prompt": 2}, True)
    wrong = page.post(address, values | {"first": "new:reward_model:tiny", "ask": "on"})
    assert wrong.status_code == 400
    assert "no reward model of several members" in wrong.content.decode()
    assert "which answers nothing" in wrong.content.decode()
