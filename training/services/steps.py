"""What a step of a round can be: a run, scores, answers, a blind match, a promotion.

A plan is a list of objects. `do` says which kind of step it is, `train` unless given; the other keys:

train     what `create_run` takes: method, base, config, reward, filters, eval_fraction, seed, shuffle_labels;
          `since` of the filters may be "last_round", when the round before this one of the schedule began
score     base or reward, config, seed; `then`: "prioritise" or "suggest", what the scores are for;
          `by`, `at_least`, `budget` and `double_share` of `prioritise`
evaluate  base or reward, config, seed; `limits`: bounds of its figures, such as {"agreement": [0.6, null]},
          outside which the round stops
generate  base, config, reward, seed (each round adds its number); `judge`: true has what was written judged;
          `times`: how often each prompt is answered, a comparison for each time
match     left, right, samples_per_prompt, config, seed; `sequential`: false waits for every comparison
promote   model (a step of training), match (a step whose left side is that model), bar, guardrails;
          `go_on`: true has the round go on, with the old champion, where the model is not promoted

Where a model is named, `{"step": 0}` is what that step of the same round made, and `{"champion": "tiny"}`
the model that was promoted last, or the one named here as long as there is none.
"""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final, NamedTuple

from django.utils.translation import gettext as _

from annotation.errors import Invalid
from annotation.models import Project, User
from training import datasets, designs
from training.models import Match, Round, RoundStep, Run
from training.services import asking, creating, evaluating, jobs, matches, naming, promoting

Spec = dict[str, Any]
Finished = bool


class Plan(NamedTuple):
    """Where a step stands while a plan is checked."""

    by: User
    project: Project
    steps: list[Any]
    number: int


@dataclass(frozen=True)
class Kind:
    """`check` raises Invalid, paths without the step's number; `start` begins; `follow` looks whether it has
    ended, does what follows from that, and raises StepFailed if it ended badly."""

    keys: frozenset[str]
    check: Callable[[Plan, Spec], None]
    start: Callable[[RoundStep, Spec], None]
    follow: Callable[[RoundStep], Finished]


class StepFailed(Exception):
    """The step ended badly; the text says how."""


def check_plan(*, by: User, project: Project, plan: Any) -> None:
    """Raise Invalid, with paths such as plan.1.config.beta, for what can be known to be wrong beforehand."""
    if not isinstance(plan, list) or not plan:
        raise Invalid({"plan": _("must be a list with at least one step.")})
    for number, step in enumerate(plan):
        where = f"plan.{number}"
        if not isinstance(step, dict):
            raise Invalid({where: _("must be an object.")})
        name = step.get("do", "train")
        if not isinstance(name, str) or name not in KINDS:
            raise Invalid({f"{where}.do": _("must be one of %(names)s.") % {"names": ", ".join(KINDS)}})
        if unknown := sorted(step.keys() - KINDS[name].keys - {"do"}):
            raise Invalid({f"{where}.{unknown[0]}": _("unknown key.")})
        try:
            KINDS[name].check(Plan(by, project, plan, number), step)
        except Invalid as error:
            raise Invalid({f"{where}.{field}": text for field, text in error.errors.items()}) from None


def resolved(step: RoundStep) -> Spec:
    """What a step was asked, with the names of models in the place of references."""
    made = {other.index: other for other in step.round.steps.filter(index__lt=step.index)}
    plain = ("model", "match") if step.kind == "promote" else ()
    return {
        key: value if key in plain else _named(step.round.project, value, made)
        for key, value in step.spec.items()
        if key != "do"
    }


def is_reference(value: Any) -> bool:
    return isinstance(value, dict) and len(value) == 1 and next(iter(value)) in ("step", "champion")


def _named(project: Project, value: Any, made: dict[int, RoundStep]) -> Any:
    if isinstance(value, dict) and value.keys() == {"step"}:
        run = made[value["step"]].run
        assert run is not None
        return f"checkpoint:{run.checkpoint.pk}"
    if isinstance(value, dict) and value.keys() == {"champion"}:
        return promoting.champion_of(project, otherwise=value["champion"])
    if isinstance(value, dict) and is_reference(value.get("model")):
        return {**value, "model": _named(project, value["model"], made)}
    if isinstance(value, list):
        named = [_named(project, item, made) for item in value]
        return [{"model": item} if isinstance(item, str) else item for item in named]
    return value


def _check_model(plan: Plan, field: str, value: Any, method: Any) -> None:
    """A name, an earlier step of training, or the champion."""
    if not isinstance(value, dict):
        naming.find_base(by=plan.by, name=value, method=method, field=field)
    elif value.keys() == {"champion"}:
        naming.find_base(by=plan.by, name=value["champion"], method=method, field=field)
    elif value.keys() == {"step"}:
        _check_step(plan, field, value["step"], kind="train")
    else:
        raise Invalid({field: _('must be a name, {"step": number} or {"champion": name}.')})


def _check_step(plan: Plan, field: str, number: Any, *, kind: str) -> Spec:
    earlier = range(plan.number)
    if not isinstance(number, int) or isinstance(number, bool) or number not in earlier:
        message = _("names step %(step)r; only earlier steps, counted from 0, can be named.")
        raise Invalid({field: message % {"step": number}})
    named: Spec = plan.steps[number]
    if named.get("do", "train") != kind:
        message = _("names step %(step)s, which is no step of the kind “%(kind)s”.")
        raise Invalid({field: message % {"step": number, "kind": kind}})
    return named


def _check_config_and_seed(method: Any, spec: Spec) -> None:
    creating.check_config(method, spec.get("config", {}))
    creating.check_seed(spec.get("seed", 0))


def _belongs(step: RoundStep, run: Run) -> None:
    step.run = run
    step.save(update_fields=["run"])


def _run_is_done(step: RoundStep) -> Finished:
    run = step.run
    assert run is not None
    if run.status in (Run.Status.FAILED, Run.Status.CANCELLED):
        raise StepFailed(f"Run {run.pk} was {run.status}. {run.error}".strip())
    return run.status == Run.Status.DONE


# train

LAST_ROUND: Final = "last_round"
LONG_AGO: Final = datetime(1970, 1, 1, tzinfo=UTC)


def _check_train(plan: Plan, spec: Spec) -> None:
    if "method" not in spec:
        raise Invalid({"method": _("is missing.")})
    method = naming.method_for(plan.project, spec["method"])
    _check_config_and_seed(method, spec)
    datasets.check_filters(_filters_of(spec, last_round=LONG_AGO))
    _check_model(plan, "base", spec.get("base"), method)
    naming.check_reward(
        by=plan.by,
        reward=spec.get("reward", []),
        method=method,
        over_http=True,
        earlier_steps=plan.number,
    )


def _filters_of(spec: Spec, *, last_round: datetime) -> Any:
    filters = spec.get("filters", {})
    if isinstance(filters, dict) and filters.get("since") == LAST_ROUND:
        return {**filters, "since": last_round.isoformat()}
    return filters


def _last_round_of(step: RoundStep) -> datetime:
    """When the round before this one of the same schedule began."""
    of_schedule = Round.objects.exclude(schedule=None).filter(schedule=step.round.schedule_id)
    before = of_schedule.filter(number__lt=step.round.number).order_by("-number").first()
    return before.started_at if before else LONG_AGO


def _start_train(step: RoundStep, spec: Spec) -> None:
    filters = _filters_of(spec, last_round=_last_round_of(step))
    whole = {"base": None, "config": {}, **spec, "filters": filters}
    made = creating.create_run(by=step.round.created_by, project=step.round.project, over_http=True, **whole)
    _belongs(step, made)


# score

USES: Final = ("prioritise", "suggest")
MOST_LABELS: Final = 1_000_000
HOW_TO_ASK: Final = frozenset({"then", "by", "at_least", "budget", "double_share"})


def _check_scorer(plan: Plan, spec: Spec, name: str) -> None:
    """A job that scores with a reward model or a list of rewards."""
    method = naming.method_for(plan.project, name, purpose="job")
    _check_config_and_seed(method, spec)
    if bool(spec.get("base")) == bool(spec.get("reward")):
        raise Invalid({"base": _("Name a reward model as base, or give a reward list.")})
    if "base" in spec:
        _check_model(plan, "base", spec["base"], method)
    naming.check_reward(
        by=plan.by,
        reward=spec.get("reward", []),
        method=method,
        over_http=True,
        earlier_steps=plan.number,
    )


def _check_score(plan: Plan, spec: Spec) -> None:
    _check_scorer(plan, spec, jobs.SCORE[plan.project.modality])
    if spec.get("then") not in (None, *USES):
        raise Invalid({"then": _("must be one of %(names)s.") % {"names": ", ".join(USES)}})
    if "by" in spec and spec["by"] not in designs.NAMES:
        names = ", ".join(designs.NAMES)
        raise Invalid({"by": _("must be one of %(names)s.") % {"names": names}})
    if "at_least" in spec and not promoting.is_number(spec["at_least"], low=0):
        raise Invalid({"at_least": _("must be a number, at least 0.")})
    budget = spec.get("budget", 1)
    if not isinstance(budget, int) or isinstance(budget, bool) or not 1 <= budget <= MOST_LABELS:
        raise Invalid({"budget": _("must be between 1 and %(most)s.") % {"most": MOST_LABELS}})
    if "double_share" in spec and not promoting.is_number(spec["double_share"], low=0, high=1):
        raise Invalid({"double_share": _("must be a number from 0 to 1.")})
    for key in ("budget", "double_share"):
        if key in spec and spec.get("by") != "worth":
            raise Invalid({key: _("is for the criterion “worth”.")})


def _start_score(step: RoundStep, spec: Spec) -> None:
    asked = {key: value for key, value in spec.items() if key not in HOW_TO_ASK}
    _belongs(step, jobs.create_scoring(by=step.round.created_by, project=step.round.project, **asked))


def _follow_score(step: RoundStep) -> Finished:
    if not _run_is_done(step):
        return False
    assert step.run is not None
    if step.spec.get("then") == "prioritise":
        how = {key: step.spec[key] for key in HOW_TO_ASK - {"then"} if key in step.spec}
        step.result = asking.prioritise(run=step.run, **how)
    elif step.spec.get("then") == "suggest":
        step.result = {"suggested": jobs.suggest_scores(run=step.run)}
    return True


# evaluate


def _check_evaluate(plan: Plan, spec: Spec) -> None:
    _check_scorer(plan, spec, evaluating.EVALUATE[plan.project.modality])
    if not promoting.are_bounds(spec.get("limits", {})):
        raise Invalid({"limits": _("must be %(what)s.") % {"what": promoting.BOUNDS}})


def _start_evaluate(step: RoundStep, spec: Spec) -> None:
    asked = {key: value for key, value in spec.items() if key != "limits"}
    made = evaluating.create_evaluation(by=step.round.created_by, project=step.round.project, **asked)
    _belongs(step, made)


def _follow_evaluate(step: RoundStep) -> Finished:
    if not _run_is_done(step):
        return False
    assert step.run is not None
    step.result = {"figures": evaluating.report_of(step.run)["figures"]}
    if why := promoting.out_of_bounds(step.result["figures"], step.spec.get("limits", {})):
        raise StepFailed(f"The reward is not right enough: {why}")
    return True


# generate


def _check_generate(plan: Plan, spec: Spec) -> None:
    method = naming.method_for(plan.project, jobs.GENERATE[plan.project.modality], purpose="job")
    _check_config_and_seed(method, spec)
    _check_model(plan, "base", spec.get("base"), method)
    naming.check_reward(
        by=plan.by,
        reward=spec.get("reward", []),
        method=method,
        over_http=True,
        earlier_steps=plan.number,
    )
    if not isinstance(spec.get("judge", False), bool):
        raise Invalid({"judge": _("must be true or false.")})
    _check_count(spec, "times")


def _check_count(spec: Spec, key: str) -> None:
    count = spec.get(key, 1)
    if not isinstance(count, int) or isinstance(count, bool) or not 1 <= count <= 100:
        raise Invalid({key: _("must be a whole number from 1 to 100.")})


def _start_generate(step: RoundStep, spec: Spec) -> None:
    """Another seed in each round: a model that stays champion does not write the same answers again."""
    asked = {key: value for key, value in spec.items() if key not in ("judge", "times")}
    asked["prompts"] = jobs.project_prompts(step.round.project) * spec.get("times", 1)
    asked["seed"] = (spec.get("seed", 0) + step.round.number) % (creating.MAX_SEED + 1)
    _belongs(step, jobs.create_generation(by=step.round.created_by, project=step.round.project, **asked))


def _follow_generate(step: RoundStep) -> Finished:
    if not _run_is_done(step):
        return False
    assert step.run is not None
    if step.spec.get("judge"):
        step.result = jobs.add_answers(run=step.run)
    return True


# match


def _check_match(plan: Plan, spec: Spec) -> None:
    method = naming.method_for(plan.project, jobs.GENERATE[plan.project.modality], purpose="job")
    _check_config_and_seed(method, spec)
    for side in ("left", "right"):
        _check_model(plan, side, spec.get(side), method)
    if spec["left"] == spec["right"]:
        raise Invalid({"right": _("A model cannot be compared with itself; name another one.")})
    if not isinstance(spec.get("sequential", True), bool):
        raise Invalid({"sequential": _("must be true or false.")})
    _check_count(spec, "samples_per_prompt")


def _start_match(step: RoundStep, spec: Spec) -> None:
    asked = {key: value for key, value in spec.items() if key != "sequential"}
    step.match = matches.create_match(by=step.round.created_by, project=step.round.project, **asked)
    step.save(update_fields=["match"])


def _follow_match(step: RoundStep) -> Finished:
    match = step.match
    assert match is not None
    if match.status == Match.Status.FAILED:
        raise StepFailed(match.error)
    if match.status != Match.Status.JUDGING:
        return False
    verdict = matches.verdict_of(match)
    sequential = step.spec.get("sequential", True)
    if verdict.waiting and not (sequential and verdict.is_decided):
        return False
    if verdict.waiting:
        matches.retire(match)
    step.result = verdict.as_data()
    return True


# promote


def _check_promote(plan: Plan, spec: Spec) -> None:
    if not is_reference(spec.get("model")) or "step" not in spec["model"]:
        raise Invalid({"model": _('must be {"step": number}, the step that trains it.')})
    _check_step(plan, "model", spec["model"]["step"], kind="train")
    compared = _check_step(plan, "match", spec.get("match"), kind="match")
    if compared.get("left") != spec["model"]:
        raise Invalid({"match": _("must be a match whose left side is the model.")})
    if not promoting.is_number(spec.get("bar", 0.5), low=0, high=1):
        raise Invalid({"bar": _("must be a number from 0 to 1.")})
    if not isinstance(spec.get("go_on", False), bool):
        raise Invalid({"go_on": _("must be true or false.")})
    guardrails = spec.get("guardrails", {})
    promoting.check_guardrails(guardrails)
    evaluated = any(earlier.get("do") == "evaluate" for earlier in plan.steps[: plan.number])
    if "evaluation" in guardrails and not evaluated:
        raise Invalid({"guardrails.evaluation": _("needs an earlier step of the kind “evaluate”.")})


def _start_promote(step: RoundStep, spec: Spec) -> None:
    steps = {other.index: other for other in step.round.steps.all()}
    trained, compared = steps[spec["model"]["step"]], steps[spec["match"]]
    assert trained.run is not None
    assert compared.match is not None
    step.result = promoting.promote_if_better(
        step=step,
        run=trained.run,
        match=compared.match,
        interval=compared.result,
        bar=spec.get("bar", 0.5),
        guardrails=spec.get("guardrails", {}),
    )


JOB_KEYS: Final = {"base", "config", "reward", "seed"}
RUN_KEYS: Final = JOB_KEYS | {"method", "filters", "eval_fraction", "shuffle_labels"}
KINDS: Final[dict[str, Kind]] = {
    "train": Kind(frozenset(RUN_KEYS), _check_train, _start_train, _run_is_done),
    "score": Kind(frozenset(JOB_KEYS | HOW_TO_ASK), _check_score, _start_score, _follow_score),
    "evaluate": Kind(frozenset(JOB_KEYS | {"limits"}), _check_evaluate, _start_evaluate, _follow_evaluate),
    "generate": Kind(
        frozenset(JOB_KEYS | {"judge", "times"}), _check_generate, _start_generate, _follow_generate
    ),
    "match": Kind(
        frozenset({"left", "right", "samples_per_prompt", "config", "seed", "sequential"}),
        _check_match,
        _start_match,
        _follow_match,
    ),
    "promote": Kind(
        frozenset({"model", "match", "bar", "guardrails", "go_on"}),
        _check_promote,
        _start_promote,
        lambda step: True,
    ),
}
