"""Evaluations of rewards: what they are asked about, and what came of it."""

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Final

from django.utils import timezone
from django.utils.translation import gettext as _

from annotation.errors import Conflict, Invalid
from annotation.models import GoldAnswer, Project, User
from annotation.services.groups import check_filters, read_groups
from annotation.splitting import canonical
from training import datasets
from training.models import Checkpoint, Run
from training.services.jobs import create_job
from training.services.results import open_snapshot, rows_of
from training.services.workspace import named_model

EVALUATE: Final = {"text": "evaluate", "image": "image_evaluate"}
MARKS: Final = ("subset", "id", "family", "language")
GROUP: Final = ("prompt", "candidates", "judgements", "reference", "meta")


def create_evaluation(
    *,
    by: User,
    project: Project,
    base: str | None = None,
    groups: Sequence[dict[str, Any]] | None = None,
    config: dict[str, Any] | None = None,
    reward: Sequence[Any] = (),
    seed: int = 0,
) -> Run:
    """A run that says how right a reward model (`base`) or a list of rewards is; `report_of` reads it.

    Without `groups` it is asked about every judged or known answer of the project on prompts that none of
    the models named was trained on. Rows with `chosen` and `rejected`, as benchmarks have them, will do.
    """
    if bool(base) == bool(reward):
        raise Invalid({"base": _("Name a reward model as base, or give a reward list.")})
    seen: Counter[str] = Counter()
    if groups is None:
        names = [base or "", *(str(entry.get("model", "")) for entry in reward if isinstance(entry, dict))]
        rows: Iterable[dict[str, Any]] = _unseen(project, names, seen)
    else:
        rows = (as_group(row, number) for number, row in enumerate(groups))
    listed = list(rows)
    if not listed:
        message = _(
            "There is nothing to ask: no judgements or known answers on prompts that the reward was not "
            "trained on. Train with an eval_fraction, or give rows."
        )
        raise Invalid({"groups": message})
    run = create_job(
        by=by,
        project=project,
        name=EVALUATE[project.modality],
        base=base,
        rows=listed,
        config=config,
        reward=reward,
        seed=seed,
    )
    run.snapshot.counts |= {"left_out": seen.total()}
    run.snapshot.save(update_fields=["counts"])
    return run


def as_group(row: dict[str, Any], number: int) -> dict[str, Any]:
    """A group row; of a benchmark's row with `chosen` and `rejected` (texts or lists) its candidates with the
    verified ones in `meta.correct`.
    """
    if "chosen" not in row:
        # A key in the storage would be copied into the run.
        for at, candidate in enumerate(row.get("candidates", [])):
            if not isinstance(candidate, dict) or not candidate.keys() <= {"text", "source"}:
                raise Invalid({f"groups.{number}.candidates.{at}": _("holds a text, and nothing else.")})
        return row
    if unknown := sorted(row.keys() - {"prompt", "chosen", "rejected", *MARKS}):
        raise Invalid({f"groups.{number}.{unknown[0]}": _("unknown key.")})
    sides = [row.get(side) for side in ("chosen", "rejected")]
    chosen, rejected = ([side] if isinstance(side, str) else side for side in sides)
    if not isinstance(chosen, list) or not isinstance(rejected, list) or not chosen or not rejected:
        raise Invalid({f"groups.{number}": _("needs answers in “chosen” and in “rejected”.")})
    meta = {name: row[name] for name in MARKS if name in row}
    return {
        "prompt": row.get("prompt"),
        "candidates": [{"text": text} for text in [*chosen, *rejected]],
        "meta": {"correct": list(range(len(chosen))), **meta},
    }


def _unseen(project: Project, names: Sequence[str], seen: Counter[str]) -> Iterator[dict[str, Any]]:
    """Judged groups, and those with known answers, on prompts that no checkpoint named was trained on."""
    trained = _trained_prompts(names)
    known = dict(
        GoldAnswer.objects.filter(project=project, choice__isnull=False).values_list("comparison", "choice")
    )
    reviews = "overrule" if project.review_overrules else "beside"
    filters = check_filters({"held_out": True, "reviews": reviews})
    groups = read_groups(project=project, before=timezone.now(), filters=filters, with_numbers=True)
    for group in datasets.without_empty_answers(datasets.without_pictured_prompts(groups, []), []):
        right = known.get(group.pop("number"))
        is_known = isinstance(right, int)
        if not group["judgements"] and not is_known:
            continue
        if canonical(group["prompt"]) in trained:
            seen["prompts"] += 1
            continue
        row = {key: group[key] for key in GROUP if key in group}
        yield row | {"meta": {**_marks(group), **({"correct": [right]} if is_known else {})}}


def _marks(group: dict[str, Any]) -> dict[str, Any]:
    """Of what the rows were imported with, only what an evaluation reads."""
    return {name: group["meta"][name] for name in (*MARKS, "correct") if name in group.get("meta", {})}


def _trained_prompts(names: Iterable[str]) -> set[str]:
    """Every prompt that these models, or what they grew from, were trained on in this product."""
    found: set[str] = set()
    for name in names:
        number = name.removeprefix("checkpoint:")
        checkpoint = named_model(name)[1] if name != number and number.isdecimal() else None
        while checkpoint is not None:
            run = checkpoint.run
            with open_snapshot(run) as archive:
                found |= {canonical(row["prompt"]) for row in rows_of(archive, "train.jsonl")}
            checkpoint = run.base_checkpoint
    return found


def report_of(run: Run) -> dict[str, Any]:
    """What an evaluation found (`training/tuning/evaluation/report.py`). Conflict if it has not."""
    checkpoint = Checkpoint.objects.filter(run=run, run__method__in=EVALUATE.values()).first()
    report: dict[str, Any] | None = checkpoint.metadata.get("report") if checkpoint else None
    if report is None:
        raise Conflict(_("Run %(pk)s has no report.") % {"pk": run.pk})
    return report


def evaluations_of(checkpoint: Checkpoint) -> list[Run]:
    """Finished evaluations of a reward model, newest first, with their results."""
    runs = Run.objects.filter(
        base_checkpoint=checkpoint, method__in=EVALUATE.values(), status=Run.Status.DONE
    )
    return list(runs.select_related("checkpoint", "snapshot").order_by("-pk"))
