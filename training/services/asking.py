"""What is asked next: a scoring by an ensemble puts the queue in an order, while people go on judging."""

from collections.abc import Iterator
from typing import Any, Final

import numpy as np
from django.utils.translation import gettext as _

from annotation.errors import Conflict, Invalid
from annotation.models import Comparison
from annotation.services import set_priorities
from annotation.services.strategies import HIGHEST
from training import acquisition
from training.models import Run
from training.services.jobs import frozen_rows
from training.services.results import open_result, rows_of

BATCH: Final = 500  # comparisons that are locked together: some twenty milliseconds


def prioritise(*, run: Run, by: str = "batch_information", at_least: float = 0.0) -> dict[str, int]:
    """Order the open comparisons of a project by what an answer to them would teach; the first is what the
    members of an ensemble learn most from. `training.acquisition` says what the criteria are.

    Where two members drawn at random differ by less than ``at_least`` in the margin of the two best
    candidates, a question is not worth asking yet: it comes last. Counts: how many are `first`, `last`, and
    `without` an order, because they were not scored or are no longer open. Priorities are set in small
    batches, so that nobody waits. Conflict unless the run is a finished scoring by several members.
    """
    if by not in acquisition.CRITERIA:
        raise Invalid({"by": _("must be one of %(names)s.") % {"names": ", ".join(acquisition.CRITERIA)}})
    if not run.gives_scores or run.status != Run.Status.DONE:
        raise Conflict(_("Run %(id)s has no scores.") % {"id": run.pk})
    scored = dict(_scored_by_members(run))
    is_open = Comparison.objects.filter(project=run.project, open_slots__gt=0, pk__in=scored)
    numbers = sorted(is_open.values_list("pk", flat=True))
    worth = [number for number in numbers if _differs(scored[number], at_least)]
    ranked = [worth[at] for at in acquisition.order([scored[number] for number in worth], by=by)]
    last = sorted(set(numbers) - set(worth))
    priorities = {number: HIGHEST - at * HIGHEST // len(ranked) for at, number in enumerate(ranked)}
    priorities |= dict.fromkeys(last, 0)
    for start in range(0, len(numbers), BATCH):
        part = numbers[start : start + BATCH]
        still = Comparison.objects.filter(project=run.project, pk__in=part).values_list("pk", flat=True)
        set_priorities(project=run.project, priorities={number: priorities[number] for number in still})
    waiting = Comparison.objects.filter(project=run.project, open_slots__gt=0).count()
    return {"first": len(ranked), "last": len(last), "without": max(0, waiting - len(numbers))}


def _differs(scores: acquisition.Floats, at_least: float) -> bool:
    return acquisition.expected_difference(acquisition.best_margin(scores)) >= at_least


def _scored_by_members(run: Run) -> Iterator[tuple[int, acquisition.Floats]]:
    """Comparison and scores (M, K) of its candidates by every member, of all that were scored."""
    rows = frozen_rows(run)
    with open_result(run) as result:
        for row, scores in zip(rows, rows_of(result, "scores.jsonl"), strict=True):
            number = row.get("meta", {}).get("comparison")
            members = _members(scores)
            if members is None:
                raise Conflict(
                    _(
                        "Run %(id)s knows of one opinion only. Score with an ensemble: a reward model that "
                        "was trained with several members, or several reward models."
                    )
                    % {"id": run.pk}
                )
            if number is not None and len(members[0]) > 1 and np.isfinite(members).all():
                yield number, members


def _members(row: dict[str, Any]) -> acquisition.Floats | None:
    """Scores by member and candidate: of an ensemble, or of the entries of a reward list."""
    if "disagreement" in row:
        members = np.array(row["outputs"], dtype=float).T
    elif len(row.get("parts", {})) > 1:
        members = np.array(list(row["parts"].values()), dtype=float)
    else:
        return None
    return members if members.ndim == 2 else np.full((2, 2), np.nan)
