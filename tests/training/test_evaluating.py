"""Evaluations of rewards: what is asked, what is kept from them, where the report shows, and rounds."""

import io
import json

import pytest
from django.urls import reverse

from annotation.errors import Conflict, Invalid
from annotation.models import Comparison
from annotation.services import add_comparisons, set_gold_answer
from tests.training import factories
from tests.training.test_jobs import frozen_rows
from tests.training.test_rounds import DPO, MATCH, PROMOTE, advance, answer, guarded, judge_all, schedule_of
from training import datasets, services
from training.models import Checkpoint, Round, Run
from training.tuning.config import EvaluateConfig
from training.tuning.data import Group
from training.tuning.evaluation.report import make_report

pytestmark = pytest.mark.django_db
REWARD = [{"rule": "words"}]


def by_length(groups):
    return [[float(len(str(one.text))) for one in group.candidates] for group in groups]


def report_on(rows, *, attacked=3):
    return make_report(
        [Group.model_validate(row) for row in rows], by_length, EvaluateConfig(), attacked=attacked
    )


def reported(run: Run) -> Run:
    """The run is done, and its report is that of a reward for length."""
    factories.finish(run)
    Checkpoint.objects.filter(run=run).update(metadata={"report": report_on(frozen_rows(run))})
    return Run.objects.get(pk=run.pk)


def reward_model(project, base, prompts):
    """A checkpoint of a reward model that was trained on these prompts."""
    made = factories.queued_run(project, base, method="reward_model")
    frozen = datasets.store_rows([{"prompt": prompt} for prompt in prompts])
    made.snapshot.storage_key, made.snapshot.sha256 = frozen.storage_key, frozen.sha256
    made.snapshot.save()
    return factories.finish(made)


def test_what_the_reward_was_trained_on_is_not_asked(project, base, manager):
    """Ten judged prompts; the model knows four, what it grew from one more. A gold answer is verified."""
    below = reward_model(project, base, ["Question 4?"])
    made = reward_model(project, base, [f"Question {n}?" for n in range(4)])
    Run.objects.filter(pk=made.run_id).update(base=None, base_checkpoint=below)
    gold = Comparison.objects.get(prompt="Question 7?")
    set_gold_answer(project=project, comparison_id=gold.pk, by=manager, choice=1)
    add_comparisons(
        project=project,
        held_out=True,
        groups=[
            {"prompt": "unjudged", "candidates": [{"text": "a"}, {"text": "b"}]},
            {
                "prompt": "held out",
                "candidates": [{"text": "a"}, {"text": "b"}],
                "judgements": [{"annotator": "x", "choice": 1}],
                "meta": {"subset": "Focus", "secret": 1},
            },
        ],
    )
    run = services.create_evaluation(by=manager, project=project, base=f"checkpoint:{made.pk}")
    rows = {row["prompt"]: row for row in frozen_rows(run)}
    assert sorted(rows) == [*(f"Question {n}?" for n in range(5, 10)), "held out"]
    assert rows["Question 7?"]["meta"] == {"correct": [1]}
    assert rows["held out"]["meta"] == {"subset": "Focus"}
    assert (run.method, run.status, run.snapshot.counts["left_out"]) == ("evaluate", "queued", 5)
    everything = reward_model(project, base, [*rows, *(f"Question {n}?" for n in range(5))])
    with pytest.raises(Invalid, match="nothing to ask"):
        services.create_evaluation(by=manager, project=project, base=f"checkpoint:{everything.pk}")


def test_rows_of_a_benchmark_over_http(project, as_manager):
    body = {"project": project.pk, "reward": REWARD}
    rows = [
        {"prompt": "p", "chosen": ["a", "b"], "rejected": ["c"], "subset": "Ties", "id": "tied:1"},
        {"prompt": "q", "chosen": "a", "rejected": "c", "family": "f", "language": "de"},
        {"prompt": "r", "candidates": [{"text": "a"}, {"text": "b"}], "judgements": [{"choice": 0}]},
    ]
    reply = as_manager.post("/api/v1/evaluations/", body | {"groups": rows}, format="json")
    assert reply.status_code == 201, reply.json()
    kept = frozen_rows(Run.objects.get(pk=reply.json()["id"]))
    assert kept[0]["meta"] == {"correct": [0, 1], "subset": "Ties", "id": "tied:1"}
    assert kept[1]["candidates"] == [{"text": "a"}, {"text": "c"}]
    assert kept[2]["judgements"] == [{"choice": 0}]
    for row, field in (
        ({"prompt": "p", "chosen": "a", "rejected": []}, "groups.0"),
        ({"prompt": "p", "chosen": "a", "rejected": "b", "colour": 1}, "groups.0.colour"),
        (
            {"prompt": "p", "candidates": [{"image": "x", "storage_key": "exports/x"}]},
            "groups.0.candidates.0",
        ),
    ):
        reply = as_manager.post("/api/v1/evaluations/", body | {"groups": [row]}, format="json")
        assert reply.status_code == 400, row
        assert reply.json()["errors"][0]["field"].startswith(field), reply.json()


def test_the_report_stands_with_the_reward_model(project, base, manager, as_manager, as_mona):
    """Over HTTP, on the evaluation's page and on that of the run that made the model."""
    made = reward_model(project, base, ["Question 0?"])
    run = services.create_evaluation(by=manager, project=project, base=f"checkpoint:{made.pk}")
    assert as_manager.get(f"/api/v1/runs/{run.pk}/report/").status_code == 409
    with pytest.raises(Conflict):
        services.report_of(run)
    run = reported(run)
    report = as_manager.get(f"/api/v1/runs/{run.pk}/report/").json()["report"]
    assert report["figures"]["agreement"] == 1, "Good n. is longer than Bad n."
    listed = as_manager.get(f"/api/v1/checkpoints/{made.pk}/evaluations/").json()
    assert listed == [{"run": run.pk, "report": report}]
    overview = as_mona.get(reverse("training:overview", args=[project.pk])).content.decode()
    assert "100 %" in overview
    assert run.get_absolute_url() in overview
    for shown in (run, made.run):
        page = as_mona.get(reverse("training:run", args=[shown.pk])).content.decode()
        assert "Is the reward right?" in page
        assert "Off by" in page
        assert "Respuesta" in page
    assert (
        "Is the reward right?"
        not in as_mona.get(
            reverse("training:run", args=[reward_model(project, base, ["x"]).run_id])
        ).content.decode()
    )


def test_from_a_file(project, as_mona):
    """The form takes a file of rows; a line that is none is named."""
    address = reverse("training:job_new", args=[project.pk, "evaluate"])
    page = as_mona.get(address).content.decode()
    assert 'enctype="multipart/form-data"' in page

    def send(content: bytes):
        file = io.BytesIO(content)
        file.name = "rows.jsonl"
        fields = {"reward_0_source": "rule:words", "config_batch_size": 4, "seed": 0, "rows": file}
        form = as_mona.get(address).context["form"]
        given = {bound.html_name: bound.value() for bound in form if bound.value() not in (None, "", False)}
        return as_mona.post(address, given | fields)

    row = {"prompt": "q", "chosen": "a", "rejected": "c"}
    refused = send(json.dumps(row).encode() + b"\n{oops\n")
    assert refused.status_code == 400
    assert "Line 2 is no JSON object." in refused.content.decode()
    unknown = send(json.dumps(row | {"x": 1}).encode())
    assert "groups.0.x: unknown key." in unknown.content.decode()
    sent = send(json.dumps(row).encode() + b"\n\n")
    assert sent.status_code == 302, sent.context["form"].errors
    assert frozen_rows(Run.objects.get())[0]["meta"] == {"correct": [0]}


def evaluating(**more):
    return {"do": "evaluate", "reward": REWARD, **more}


def test_a_round_stops_at_a_reward_that_is_wrong(project, base):
    schedule = schedule_of(project, [evaluating(limits={"agreement": [None, 0.5]}), DPO])
    advance()
    this = schedule.rounds.get()
    reported(this.steps.get(index=0).run)
    advance()
    this.refresh_from_db()
    assert this.status == Round.Status.FAILED
    assert "agreement is 1, not at most 0.5." in this.error
    assert not Run.objects.filter(method="dpo").exists()


def test_figures_of_an_evaluation_are_a_guardrail(project, base, as_mona):
    """The round's own evaluation forbids what people like better."""
    factories.add_judged(project, prompts=60, start=1000)
    limits = {"agreement": [0.5, None], "openers": [None, 0.1], "best_of": [0.5, None]}
    plan = [DPO, MATCH, evaluating(), PROMOTE | {"guardrails": {"evaluation": limits}}]
    schedule = schedule_of(project, plan)
    advance()
    this = schedule.rounds.get()
    factories.finish(this.steps.get(index=0).run)
    groups = [{"prompt": f"H {n}", "candidates": [{"text": "a"}, {"text": "b"}]} for n in range(60)]
    add_comparisons(project=project, held_out=True, groups=groups)
    advance()
    match = this.steps.get(index=1).match
    answer(match, left="new", right="old")
    judge_all(match, "W")
    advance()
    reported(this.steps.get(index=2).run)
    advance()
    this.refresh_from_db()
    (check,) = this.steps.get(index=3).result["guardrails"]
    assert check["value"]["agreement"] > 0.5
    assert check["why"] == "best_of was not measured. openers is 1, not at most 0.1."
    page = as_mona.get(this.get_absolute_url()).content.decode()
    assert "The reward agrees with" in page


@pytest.mark.parametrize(
    ("plan", "field"),
    [
        ([evaluating(limits={"agreement": 1})], "plan.0.limits"),
        ([{"do": "evaluate"}], "plan.0.base"),
        ([evaluating(then="suggest")], "plan.0.then"),
        ([evaluating(config={"oops": 1})], "plan.0.config.oops"),
        (guarded(evaluation={"agreement": [0.5, None]}), "plan.2.guardrails.evaluation"),
    ],
)
def test_plans_that_cannot_be(project, base, plan, field):
    with pytest.raises(Invalid) as refused:
        schedule_of(project, plan)
    assert list(refused.value.errors) == [field]
