"""What is asked next: a scoring by an ensemble puts the queue in an order, while people go on judging."""

from collections.abc import Collection, Iterator
from typing import Any, Final, NamedTuple

import numpy as np
from django.utils.translation import gettext as _
from scipy.special import softmax

from annotation.errors import Conflict, Invalid
from annotation.models import Comparison, Judgement, Project
from annotation.services import set_priorities
from annotation.services.strategies import HIGHEST
from training import acquisition, designs, routing
from training.models import Run
from training.services.jobs import frozen_rows
from training.services.results import comparison_of, open_result, rows_of

BATCH: Final = 500  # comparisons that are locked together: some twenty milliseconds


DOUBLE_SHARE: Final = 0.1  # of what people are asked, drawn at random, by `worth`


def prioritise(
    *,
    run: Run,
    by: str = "batch_information",
    at_least: float = 0.0,
    budget: int | None = None,
    double_share: float | None = None,
) -> dict[str, int]:
    """Order the open comparisons of a project by what an answer to them would teach; the first is what the
    members of an ensemble learn most from. `training.acquisition` says what the criteria are.

    Where two members drawn at random differ by less than ``at_least`` in the margin of the two best
    candidates, a question is not worth asking yet: it comes last. Counts: how many are `first`, `last`, and
    `without` an order, because they were not scored or are no longer open. Priorities are set in small
    batches, so that nobody waits.

    By `worth` (`training.routing`) people are first asked, ``budget`` times at most, where their answers are
    worth more than the judge's, with a ``double_share`` drawn from all others; the rest comes last.

    Conflict unless the run is a finished scoring by several members, or with
    features for the criteria of `designs.BY_FEATURES`, which take into account what was answered since.
    """
    if by not in designs.NAMES:
        raise Invalid({"by": _("must be one of %(names)s.") % {"names": ", ".join(designs.NAMES)}})
    if not run.gives_scores or run.status != Run.Status.DONE:
        raise Conflict(_("Run %(id)s has no scores.") % {"id": run.pk})
    if by != "worth" and (budget is not None or double_share is not None):
        field = "double_share" if budget is None else "budget"
        raise Invalid({field: _("is for the criterion “worth”.")})
    if by in designs.BY_FEATURES:
        if at_least:
            raise Invalid({"at_least": _("is for the criteria that read an ensemble.")})
        scored = {number: found for number, found, _scores in _features(run)}
        numbers = _open_among(run.project, scored)
        if by == "errors":
            ranked = _by_errors(run, numbers, scored)
        elif by == "worth":
            share = DOUBLE_SHARE if double_share is None else double_share
            ranked = _by_worth(run, numbers, scored, budget=budget, share=share)
        else:
            ranked = _by_features(run.project, numbers, scored, by=by)
        last = sorted(set(numbers) - set(ranked))
    else:
        scored = dict(_scored_by_members(run))
        numbers = _open_among(run.project, scored)
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


def _open_among(project: Project, scored: Collection[int]) -> list[int]:
    is_open = Comparison.objects.filter(project=project, open_slots__gt=0, pk__in=scored)
    return sorted(is_open.values_list("pk", flat=True))


def _by_features(
    project: Project, numbers: list[int], features: dict[int, acquisition.Floats], *, by: str
) -> list[int]:
    """The open ones in their order, after what people have answered about the others."""
    answers = [answer for answer in _answers(project, features) if answer.comparison not in set(numbers)]
    asked = [features[answer.comparison] for answer in answers]
    open_ones = [features[number] for number in numbers]
    if by == "design":
        order = designs.order_by_design(open_ones, asked)
    else:
        order = designs.order_by_last_layer(open_ones, asked, [answer.choice for answer in answers])
    return [numbers[at] for at in order]


def _by_errors(run: Run, numbers: list[int], features: dict[int, acquisition.Floats]) -> list[int]:
    """The open ones that resemble those where the scoring contradicts people."""
    scores = {number: found for number, _features_, found in _features(run)}
    answers = [one for one in _answers(run.project, features) if one.choice is not None]
    answers = [one for one in answers if one.comparison not in set(numbers)]
    chances = [float(softmax(scores[one.comparison])[one.choice]) for one in answers]
    order = designs.order_by_errors(
        [features[number] for number in numbers], [features[one.comparison] for one in answers], chances
    )
    return [numbers[at] for at in order]


def _by_worth(
    run: Run, numbers: list[int], features: dict[int, acquisition.Floats], *, budget: int | None, share: float
) -> list[int]:
    """The open ones that a judge has answered, where people's answers have been worth more than its own."""
    pairs = {number: found for number, found in features.items() if len(found) == 2}
    judge = _shares(_answers(run.project, pairs, kind=Judgement.Kind.JUDGE))
    people = _shares(_answers(run.project, pairs))
    both, mine = sorted(judge.keys() & people.keys()), set(numbers)
    waiting = [number for number in judge if number in mine and number not in people]
    if len(both) < routing.FEWEST:
        raise Conflict(
            _("People and a judge have both answered %(n)s pairs; at least %(fewest)s are needed.")
            % {"n": len(both), "fewest": routing.FEWEST}
        )
    scores = {number: found for number, _features_, found in _features(run)}
    scale = designs.scale_of(list(pairs.values()))
    groups = [pairs[number] * scale for number in (*both, *waiting)]
    margins = np.array([scores[number][0] - scores[number][1] for number in (*both, *waiting)])
    tags = routing.tags_of(groups, margins, seed=run.seed)
    known = routing.Known(
        directions=np.array([group[0] - group[1] for group in groups[: len(both)]]),
        people=np.array([people[number] for number in both]),
        judge=np.array([judge[number] for number in both]),
        tags=tags[: len(both)],
    )
    gains = tags[len(both) :] @ routing.learn_worth(known, seed=run.seed)
    routed = [waiting[at] for at in routing.route(gains, budget=budget)]
    others = sorted(set(waiting) - set(routed))
    return routing.with_doubled(routed, others, share=share, seed=run.seed)[:budget]


def _shares(answers: list["Answer"]) -> dict[int, float]:
    """The share of answers for the first of two candidates, a tie half."""
    found: dict[int, list[float]] = {}
    for one in answers:
        found.setdefault(one.comparison, []).append(0.5 if one.choice is None else float(one.choice == 0))
    return {number: sum(votes) / len(votes) for number, votes in found.items()}


class Answer(NamedTuple):
    comparison: int
    choice: int | None  # None: a tie


def _answers(project: Project, scored: Collection[int], kind: str = Judgement.Kind.REGULAR) -> list[Answer]:
    """What people, or models, have chosen, without those who found all bad."""
    judged = Judgement.objects.standing().filter(kind=kind, choice__isnull=False)
    rows = judged.filter(comparison__project=project).order_by("pk").values_list("comparison_id", "choice")
    return [
        Answer(number, choice if isinstance(choice, int) else None)
        for number, choice in rows
        if number in scored and (isinstance(choice, int) or choice == "tie")
    ]


def _features(run: Run) -> Iterator[tuple[int, acquisition.Floats, acquisition.Floats]]:
    """Comparison, features (K, D) and scores (K,) of its candidates, of all that were scored."""
    rows = frozen_rows(run)
    with open_result(run) as result:
        for row, scores in zip(rows, rows_of(result, "scores.jsonl"), strict=True):
            if "features" not in scores:
                raise Conflict(
                    _("Run %(id)s kept no features. Score with “features” in the config.") % {"id": run.pk}
                )
            number, found = comparison_of(row), np.array(scores["features"], dtype=float)
            own = np.array(scores["scores"], dtype=float)
            if number is not None and len(found) > 1 and np.isfinite(found).all() and np.isfinite(own).all():
                yield number, found, own


def _scored_by_members(run: Run) -> Iterator[tuple[int, acquisition.Floats]]:
    """Comparison and scores (M, K) of its candidates by every member, of all that were scored."""
    rows = frozen_rows(run)
    with open_result(run) as result:
        for row, scores in zip(rows, rows_of(result, "scores.jsonl"), strict=True):
            number = comparison_of(row)
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
