"""What the pages read: constant numbers of queries, explicit order, nothing written."""

import json
import math
import shlex
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from django.db.models import Count, Max, Q, QuerySet
from django.utils.text import get_text_list
from django.utils.translation import gettext as _

from annotation.models import Comparison, Judgement, Project
from annotation.services import REVIEWS_COUNTED, reviews_waiting
from training import services
from training.lineage import taken_back
from training.models import BaseModel, Checkpoint, Match, Round, Run, RunQuerySet
from training.schema_forms import changes_of
from training.services.naming import REWARD_MODELS
from training.tuning.registry import METHODS, Method, get_method

ETA_WINDOW = 20  # logged rows
MATCHES_SHOWN = 50
WORKING = (Run.Status.PREPARING, Run.Status.QUEUED, Run.Status.RUNNING)


# Methods


@dataclass(frozen=True)
class MethodChoice:
    """A method and whether the project's feedback lets it be used."""

    method: Method
    allowed: bool
    needs: str


def method_choices(project: Project) -> list[MethodChoice]:
    """The training methods for the project's material; those that its feedback allows first."""
    collected = services.feedback_of(project)
    words = services.creating.FEEDBACK_WORDS
    choices = [
        MethodChoice(
            method=method,
            allowed=bool(collected & set(method.feedback))
            or any(
                kind in collected and key in method.config.model_fields
                for key, (kind, _sentence) in services.creating.PARTS.items()
            ),
            needs=get_text_list([_(words[kind]) for kind in method.feedback], _("or")),
        )
        for method in METHODS
        if method.purpose == "train" and method.modality == project.modality
    ]
    return sorted(choices, key=lambda choice: not choice.allowed)


def base_choices(project: Project, *, scorers: bool) -> list[tuple[str, list[tuple[str, str]]]]:
    """Groups of (name, label) that a run may start from: registered models, then the project's own results.

    Reward models start from reward models only, and nothing else does (`scorers`).
    """
    registered = BaseModel.objects.filter(modality=project.modality).order_by("name")
    own = Checkpoint.objects.filter(run__project=project).of_models().order_by("-pk").select_related("run")
    made = [one for one in own if scorers or one.run.method not in REWARD_MODELS]
    groups = [
        (_("Registered models"), [(model.name, model.name) for model in registered]),
        (_("Made here"), [(f"checkpoint:{one.pk}", checkpoint_label(one)) for one in made]),
    ]
    return [(label, choices) for label, choices in groups if choices]


def reward_choices(project: Project) -> list[tuple[str, list[tuple[str, str]]]]:
    """Groups of (name, label) of what can score: registered models, then the project's reward models and, as
    implicit rewards, its tuned ones.
    """
    return base_choices(project, scorers=True)


def checkpoint_label(checkpoint: Checkpoint) -> str:
    return f"checkpoint:{checkpoint.pk} – {_(get_method(checkpoint.run.method).title)}, " + _(
        "run %(id)s"
    ) % {"id": checkpoint.run_id}


def training_counts(project: Project) -> dict[str, int]:
    """What a run would train on now: standing regular judgements, not on held-out comparisons."""
    judged = Judgement.objects.standing().filter(
        comparison__project=project, comparison__held_out=False, kind=Judgement.Kind.REGULAR
    )
    return judged.aggregate(
        judgements=Count("pk"),
        people=Count("annotator", distinct=True),
        comparisons=Count("comparison", distinct=True),
    )


# Runs


def runs_of(project: Project) -> QuerySet[Run]:
    """Training runs and jobs, newest first, with all that a row of the list shows; the arena's if failed."""
    seen = Q(left_of_turn=None, right_of_turn=None) | Q(status=Run.Status.FAILED)
    rows = Run.objects.filter(seen, project=project).order_by("-created_at", "-pk")
    return rows.select_related("base", "snapshot", "checkpoint", "created_by")


def run_rows() -> RunQuerySet:
    """For the page of one run."""
    return Run.objects.select_related(
        "project", "base", "base_checkpoint__run", "snapshot", "checkpoint", "created_by", "round_step__round"
    )


def command_of(run: Run) -> str:
    """The command that starts the same run again; values that are the method's defaults are left out."""
    parts = ["python", "manage.py", "train", "--project", str(run.project_id), "--method", run.method]
    parts += ["--base", services.name_of_base(run)]
    for path, value in changes_of(get_method(run.method).config.model_json_schema(), run.config).items():
        parts += ["--set", f"{path}={value if isinstance(value, str) else as_json(value)}"]
    if run.snapshot.filters:
        parts += ["--filters", as_json(run.snapshot.filters)]
    if run.snapshot.eval_fraction:
        parts += ["--eval-fraction", f"{run.snapshot.eval_fraction:g}"]
    if run.seed:
        parts += ["--seed", str(run.seed)]
    if run.snapshot.shuffle_labels:
        parts.append("--shuffle-labels")
    return shlex.join([*parts, "--follow"])


def eta_seconds(rows: Sequence[dict[str, Any]], *, total: int | None) -> float | None:
    """Seconds that the trainer needs for the remaining steps at its latest pace; None if that is unknown.

    `rows` are logged rows in order; `time` starts at 0 in every attempt, so only the last attempt counts.
    """
    timed = [row for row in rows if isinstance(row.get("time"), int | float)][-ETA_WINDOW:]
    pace: float | None = None
    for earlier, later in zip(reversed(timed[:-1]), reversed(timed), strict=False):
        if later["time"] < earlier["time"]:
            break
        if later["step"] > earlier["step"]:
            pace = (timed[-1]["time"] - earlier["time"]) / (timed[-1]["step"] - earlier["step"])
    if pace is None or total is None:
        return None
    return max(0.0, pace * (total - timed[-1]["step"]))


def latest_metrics(run: Run) -> list[dict[str, Any]]:
    """The newest logged rows in their order: enough for a pace."""
    rows = run.metrics.order_by("-step", "-pk").values_list("step", "values")[:ETA_WINDOW]
    return [{"step": step, **values} for step, values in reversed(rows)]


@dataclass(frozen=True)
class Estimate:
    """How long a run would take: its optimizer steps, and seconds if a run like it was done before."""

    steps: int
    seconds: float | None
    like: Run | None


def estimate_of(run: Run) -> Estimate | None:
    """From the previewed data and the pace of the newest finished run of the same method and base."""
    groups, config = (run.preview or {}).get("groups"), run.config
    if not groups or run.is_job or not config.get("batch_size"):
        return None
    steps = config.get("max_steps") or math.ceil(groups * config["epochs"] / config["batch_size"])
    same = Run.objects.filter(
        project=run.project_id, method=run.method, base=run.base_id, base_checkpoint=run.base_checkpoint_id
    )
    earlier = same.filter(status=Run.Status.DONE, step__gt=0).order_by("-pk").first()
    took = seconds_of(earlier) if earlier else None
    if earlier is None or took is None or earlier.config.get("batch_size") != config["batch_size"]:
        return Estimate(steps, None, None)
    return Estimate(steps, took / earlier.step * steps, earlier)


def seconds_of(run: Run) -> float | None:
    """From the start of the last attempt to the end."""
    if run.started_at is None or run.finished_at is None:
        return None
    return (run.finished_at - run.started_at).total_seconds()


@dataclass
class Sample:
    """What the model wrote or drew for one prompt before and after training; None: not yet."""

    prompt: Any
    before: dict[str, Any] | None = None
    after: dict[str, Any] | None = None
    seed: int | None = None


def samples_of(run: Run) -> list[Sample]:
    """The run's samples, side by side by prompt and in their order."""
    found: dict[tuple[str, Any], Sample] = {}
    for row in run.samples:
        key = (as_json(row.get("prompt")), row.get("seed"))
        sample = found.setdefault(key, Sample(prompt=row.get("prompt"), seed=row.get("seed")))
        if row.get("when") == "before":
            sample.before = row
        else:
            sample.after = row
    return list(found.values())


@dataclass
class Figure:
    """A metric's first and last value, for the table that stands beside the charts."""

    name: str
    first: float
    last: float
    best: float


def figures_of(rows: Iterable[dict[str, Any]]) -> list[Figure]:
    """Every metric that is a number, in order of appearance."""
    found: dict[str, Figure] = {}
    for row in rows:
        for name, value in row.items():
            if name in ("step", "time") or isinstance(value, bool) or not isinstance(value, int | float):
                continue
            figure = found.setdefault(name, Figure(name, value, value, value))
            figure.last = value
            smaller = "loss" in name
            figure.best = min(figure.best, value) if smaller else max(figure.best, value)
    return list(found.values())


def evaluations_of(run: Run) -> list[Run]:
    """Of the reward model that a run made, newest first."""
    has_some = run.method in REWARD_MODELS and hasattr(run, "checkpoint")
    return services.evaluations_of(run.checkpoint) if has_some else []


def report_on(run: Run, evaluations: Sequence[Run]) -> dict[str, Any] | None:
    """An evaluation's own report; a reward model's newest one."""
    reported = [run] if run.is_evaluation and hasattr(run, "checkpoint") else evaluations
    return reported[0].checkpoint.metadata.get("report") if reported else None


# Models


@dataclass
class Branch:
    """A model and what was trained from it."""

    name: str
    base: BaseModel | None = None
    checkpoint: Checkpoint | None = None
    parent: str = ""
    compares: bool = False  # with its base, in a blind match
    taken_back: int = 0  # people who have since deleted what they said and it learnt from
    accuracy: dict[str, Any] = field(default_factory=dict)
    matches: list[tuple[Match, dict[str, Any]]] = field(default_factory=list)  # newest first, with win rates
    branches: list["Branch"] = field(default_factory=list)


def lineage_of(project: Project) -> list[Branch]:
    """Registered models of the project's material, each with the checkpoints that grew from it."""
    roots = {
        model.name: Branch(name=model.name, base=model)
        for model in BaseModel.objects.filter(modality=project.modality).order_by("name")
    }
    known = dict(roots)
    marks = taken_back(project)
    own = Checkpoint.objects.filter(run__project=project).of_models().order_by("pk")
    for checkpoint in own.select_related("run__base", "run__snapshot"):
        name = f"checkpoint:{checkpoint.pk}"
        parent = services.name_of_base(checkpoint.run)
        compares = checkpoint.run.method not in REWARD_MODELS and bool(parent)
        branch = Branch(name=name, checkpoint=checkpoint, parent=parent, compares=compares)
        branch.accuracy, branch.taken_back = accuracy_of(checkpoint), marks.get(checkpoint.pk, 0)
        known[name] = branch
        known.get(parent, Branch(name="")).branches.append(branch)
        if parent not in known:  # of another project
            roots[name] = branch
    newest = list(matches_of(project)[:MATCHES_SHOWN])
    rates = services.win_rates(newest)
    for match in newest:
        if left := known.get(services.name_of_base(match.left_run)):
            left.matches.append((match, rates[match.pk]))
    return list(roots.values())


def accuracy_of(checkpoint: Checkpoint) -> dict[str, Any]:
    """The checkpoint's accuracy on held-out judgements, with its interval where there is one."""
    metrics = checkpoint.metadata.get("metrics", {})
    if (rate := metrics.get("eval/accuracy_majority")) is not None:
        low, high = metrics.get("eval/accuracy_low"), metrics.get("eval/accuracy_high")
        return {"rate": rate, "low": low, "high": high, "against": _("the majority")}
    for name in ("eval/accuracy", "eval/rewards/accuracy"):
        if (rate := metrics.get(name)) is not None:
            return {"rate": rate, "low": None, "high": None, "against": _("single judgements")}
    return {}


def trust_in(reward: Checkpoint) -> tuple[Run, dict[str, Any]]:
    """The run that says most about a reward model, and the accuracy that it found: the newest evaluation,
    else the training itself.
    """
    for run in services.evaluations_of(reward):
        if found := run.checkpoint.metadata.get("report", {}).get("agreement"):
            return run, found
    return reward.run, accuracy_of(reward)


# Matches


def matches_of(project: Project) -> QuerySet[Match]:
    """Newest first, with both models."""
    rows = Match.objects.filter(project=project).order_by("-pk")
    return rows.select_related("left_run__base", "right_run__base", "created_by")


def match_progress(match: Match) -> dict[str, int]:
    """How many of the match's comparisons are fully judged, and how many judgements are missing."""
    judged = Q(comparison__open_slots=0)
    return match.comparisons.aggregate(
        comparisons=Count("pk"), judged=Count("pk", filter=judged), open=Count("pk", filter=~judged)
    )


# The five answers


def newest_reward_model(project: Project) -> Checkpoint | None:
    found = Checkpoint.objects.filter(run__project=project, run__method__in=REWARD_MODELS)
    return found.order_by("-pk").select_related("run").first()


def newest_match(project: Project) -> Match | None:
    """The newest one that somebody has judged, else the newest."""
    judged = matches_of(project).filter(comparisons__comparison__judgements__undone_at=None).distinct()
    return (
        judged.filter(comparisons__comparison__judgements__isnull=False).first()
        or matches_of(project).first()
    )


def work_in_hand(project: Project) -> list[Run]:
    """Runs that somebody or something works on or waits for, the running ones first."""
    order = {Run.Status.RUNNING: 0, Run.Status.PREPARING: 1, Run.Status.QUEUED: 2}
    found = Run.objects.filter(project=project, status__in=WORKING).order_by("queued_at", "pk")
    return sorted(found, key=lambda run: order[Run.Status(run.status)])


@dataclass(frozen=True)
class Needs:
    """What waits for a person."""

    drafts: int
    failed: int
    newest_failed: int | None
    open_comparisons: int
    reviews: int
    rounds: list[Round]

    @property
    def more_reviews(self) -> bool:
        """They are not counted on beyond this."""
        return self.reviews >= REVIEWS_COUNTED


def needs_of(project: Project, *, since: datetime) -> Needs:
    runs = Run.objects.filter(project=project).aggregate(
        drafts=Count("pk", filter=Q(status=Run.Status.DRAFT)),
        failed=Count("pk", filter=Q(status=Run.Status.FAILED, finished_at__gte=since)),
        newest_failed=Max("pk", filter=Q(status=Run.Status.FAILED, finished_at__gte=since)),
    )
    waiting = Comparison.objects.filter(project=project).open().count()
    newest = Round.objects.filter(project=project).exclude(schedule=None)
    newest = newest.order_by("schedule", "-number").distinct("schedule")
    ended_badly = [one for one in newest if one.status in (Round.Status.STOPPED, Round.Status.FAILED)]
    return Needs(**runs, open_comparisons=waiting, reviews=reviews_waiting(project), rounds=ended_badly)


def as_json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)
