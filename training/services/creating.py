"""Runs: asked for, started, cancelled, tried again. Jobs are in `jobs`, the workers' side in `executing`."""

from collections.abc import Sequence
from functools import partial
from typing import Any

from django.conf import settings
from django.contrib.postgres.aggregates import BoolOr
from django.db import transaction
from django.db.models import Q
from django.db.models.functions import Now
from django.utils.text import get_text_list
from django.utils.translation import gettext as _
from django.utils.translation import gettext_noop
from pydantic import ValidationError

from annotation.errors import Conflict, Invalid
from annotation.models import Comparison, Judgement, Project, User
from training import datasets
from training.models import Run, Snapshot
from training.services import naming, queue
from training.tuning.registry import Method

MAX_SEED = 2**63 - 1


@transaction.atomic
def create_run(
    *,
    by: User,
    project: Project,
    method: str,
    base: str | None,
    config: dict[str, Any],
    reward: Sequence[Any] = (),
    filters: dict[str, Any] | None = None,
    eval_fraction: float = 0.0,
    seed: int = 0,
    shuffle_labels: bool = False,
    start: bool = True,
    over_http: bool = False,
) -> Run:
    """A training run on what was judged until now. Raises Invalid with field paths ("config.beta").

    `base` is a registered name or "checkpoint:<id>". With `start` it runs as soon as its data is frozen;
    otherwise it becomes a draft whose data can be looked at, until `start_run`.
    """
    chosen = naming.method_for(project, method)
    given = check_config(chosen, config)
    check_seed(seed)
    naming.check_reward(by=by, reward=list(reward), method=chosen, over_http=over_http)
    source = naming.find_base(by=by, name=base, method=chosen)
    wanted = datasets.check_filters(filters or {})
    if not 0 <= eval_fraction < 1:
        raise Invalid({"eval_fraction": _("must be at least 0 and less than 1.")})
    check_feedback(project, chosen, config=given)
    prompts_only = chosen.feedback == ("prompt",)
    if prompts_only and (wanted or shuffle_labels):
        message = _("%(name)s uses the prompts alone: leave filters of judgements out.") % {
            "name": chosen.name
        }
        raise Invalid({"filters": message})
    snapshot = Snapshot.objects.create(
        project=project,
        cutoff=queue.database_now(),
        filters=wanted,
        eval_fraction=eval_fraction,
        seed=seed,
        shuffle_labels=shuffle_labels,
        prompts_only=prompts_only,
    )
    run = Run.objects.create(
        project=project,
        method=chosen.name,
        reward=list(reward),
        config=given,
        seed=seed,
        snapshot=snapshot,
        start_when_ready=start,
        status=Run.Status.PREPARING,
        device_kind=settings.RUN_DEVICE_KIND,
        created_by=by,
        **source,
    )
    transaction.on_commit(partial(_prepare, run.pk), robust=True)
    return run


@transaction.atomic
def start_run(*, run: Run) -> None:
    """Queue a draft. Conflict if it is none."""
    drafts = Run.objects.filter(pk=run.pk, status=Run.Status.DRAFT)
    if not queue.enqueue(drafts):
        raise Conflict(_("Run %(pk)s is no draft; it was started before.") % {"pk": run.pk})
    run.refresh_from_db()


@transaction.atomic
def cancel_run(*, run: Run) -> None:
    """Cancel at once what does not run yet; ask the worker of a running one. Conflict if it has ended."""
    this = Run.objects.filter(pk=run.pk)
    waiting = [Run.Status.DRAFT, Run.Status.PREPARING, Run.Status.QUEUED]
    early = this.filter(status__in=waiting)
    if not queue.end(run, Run.Status.CANCELLED, among=early, cancel_requested_at=Now()):
        running = this.filter(status=Run.Status.RUNNING)
        if (
            not running.filter(cancel_requested_at=None).update(cancel_requested_at=Now())
            and not running.exists()
        ):
            raise Conflict(_("Run %(pk)s has ended; there is nothing to cancel.") % {"pk": run.pk})
    run.refresh_from_db()


@transaction.atomic
def retry_run(*, run: Run) -> None:
    """Queue a failed or cancelled run again; it goes on from its newest checkpoint. Conflict otherwise."""
    this = Run.objects.filter(pk=run.pk, status__in=[Run.Status.FAILED, Run.Status.CANCELLED])
    fresh: dict[str, Any] = {"error": "", "lost_attempts": 0, "preparations": 0}
    fresh |= {"cancel_requested_at": None, "finished_at": None, "queued_at": None, "not_before": None}
    frozen = Snapshot.objects.filter(runs=run.pk).exclude(frozen_at=None).exists()
    if not this.update(**fresh, status=Run.Status.DRAFT if frozen else Run.Status.PREPARING):
        raise Conflict(_("Run %(pk)s neither failed nor was cancelled.") % {"pk": run.pk})
    if frozen:
        queue.enqueue(Run.objects.filter(pk=run.pk))
    else:
        transaction.on_commit(partial(_prepare, run.pk), robust=True)
    run.refresh_from_db()


def check_config(method: Method, config: dict[str, Any]) -> dict[str, Any]:
    """The method's whole config, with today's defaults. Invalid with paths such as config.lora.r."""
    if not isinstance(config, dict):
        raise Invalid({"config": _("must be an object.")})
    try:
        return method.config.model_validate(config).model_dump(mode="json")
    except ValidationError as error:
        raise Invalid(dict(_field_error(item) for item in error.errors())) from None


def check_seed(seed: int) -> None:
    """Raise Invalid unless it is a seed that every part understands."""
    if isinstance(seed, bool) or not isinstance(seed, int) or not 0 <= seed <= MAX_SEED:
        raise Invalid({"seed": _("must be a whole number from 0 to %(most)s.") % {"most": MAX_SEED}})


PARTS = {
    "aspect": ("aspect", gettext_noop("Nobody compared candidates in any aspect in this project.")),
    "rating_margin": ("rating", gettext_noop("Nobody rated candidates in this project.")),
    "turns": ("turn", gettext_noop("Nobody compared candidates turn by turn in this project.")),
}


def check_feedback(project: Project, method: Method, *, config: dict[str, Any]) -> None:
    """Raise Invalid, in a sentence, if nothing that was collected can be used by the method."""
    collected = feedback_of(project)
    for key, (kind, sentence) in PARTS.items():
        if config.get(key) not in (None, False):
            if kind not in collected:
                raise Invalid({f"config.{key}": _(sentence)})
            return
    if collected & set(method.feedback):
        return
    wants = get_text_list([_(FEEDBACK_WORDS[kind]) for kind in method.feedback], _("or"))
    judged = sorted(collected - {"prompt"})
    has = ", ".join(_(FEEDBACK_WORDS[kind]) for kind in judged) or _("nothing of the kind yet")
    raise Invalid(
        {
            "method": _("%(name)s learns from %(wanted)s; this project has %(found)s.")
            % {"name": method.name, "wanted": wants, "found": has}
        }
    )


FEEDBACK_WORDS = {
    "choice": gettext_noop("choices between candidates"),
    "ranking": gettext_noop("rankings"),
    "rating": gettext_noop("ratings"),
    "step": gettext_noop("marked steps"),
    "span": gettext_noop("marked spans"),
    "thumbs": gettext_noop("thumbs up or down"),
    "correction": gettext_noop("corrections"),
    "aspect": gettext_noop("choices by aspect"),
    "turn": gettext_noop("choices by turn"),
    "demonstration": gettext_noop("answers without judgement"),
    "prompt": gettext_noop("prompts"),
    "candidates": gettext_noop("candidates"),
}


def feedback_of(project: Project) -> set[str]:
    """Which kinds of feedback the project has collected, in the words of the methods' `feedback`.

    `aspect` and `turn`, choices by aspect and by turn, are for methods whose config asks for these.
    """
    comparisons = Comparison.objects.filter(project=project, held_out=False)
    judged = Judgement.objects.standing().filter(comparison__in=comparisons)
    asked = {
        kind: BoolOr(Q(answers__has_key=key))
        for kind, key in {
            "ranking": "ranking",
            "rating": "ratings",
            "thumbs": "thumbs",
            "correction": "corrections",
            "aspect": "aspects",
            "turn": "turns",
        }.items()
    }
    for kind in ("step", "span"):
        asked[kind] = BoolOr(Q(answers__marks__contains=[{"type": kind}]))
    said = judged.exclude(answers={}).aggregate(**asked)
    found = {kind for kind, present in said.items() if present}
    if judged.filter(choice__isnull=False, comparison__candidates__index=1).exists():
        found.add("choice")
    if comparisons.exists():
        found.add("prompt")
    return found


def _field_error(item: Any) -> tuple[str, str]:
    field = ".".join(["config", *(str(part) for part in item["loc"])])
    return field, _("unknown key") if item["type"] == "extra_forbidden" else item["msg"].removeprefix(
        "Value error, "
    )


def _prepare(run_id: int) -> None:
    from training import tasks

    tasks.prepare_run.delay(run_id=run_id)
