"""Blind comparisons of two models: both answer the same prompts, people say which answer is better."""

import json
import random
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from django.db import transaction
from django.db.models import Exists, OuterRef, Q
from django.utils.translation import gettext as _
from django.utils.translation import gettext_noop

from annotation.errors import Invalid
from annotation.models import Comparison, Judgement, Lease, Project, User
from annotation.prompts import pictures_of
from annotation.quality.intervals import wilson
from annotation.services import add_comparisons, delete_untouched
from training.models import Checkpoint, Match, MatchComparison, Run
from training.sequential import confidence_sequence
from training.services.jobs import content_of, create_generation
from training.services.naming import name_of_base
from training.services.results import open_result, open_snapshot, rows_of


@transaction.atomic
def create_match(
    *,
    by: User,
    project: Project,
    left: str,
    right: str,
    prompts: Sequence[Any] | None = None,
    samples_per_prompt: int = 1,
    config: dict[str, Any] | None = None,
    seed: int = 0,
) -> Match:
    """Queue a blind comparison of two models; they are named as bases of runs are.

    Without `prompts` they answer those that were held out when the left (or right) checkpoint was trained,
    else the project's held-out prompts. The two sample independently: their seeds differ.
    """
    if left == right:
        raise Invalid({"right": _("A model cannot be compared with itself; name another one.")})
    chosen = list(prompts) if prompts is not None else held_out_prompts(project, [left, right])
    if not chosen:
        raise Invalid({"prompts": _(NO_PROMPTS)})
    config = {**(config or {}), "samples_per_prompt": samples_per_prompt}
    sides = {}
    for offset, (side, name) in enumerate((("left", left), ("right", right))):
        try:
            sides[f"{side}_run"] = create_generation(
                by=by, project=project, base=name, prompts=chosen, config=config, seed=seed + offset
            )
        except Invalid as error:
            renamed = {side if field == "base" else field: text for field, text in error.errors.items()}
            raise Invalid(renamed) from None
    return Match.objects.create(project=project, prompts=len(chosen), created_by=by, **sides)


NO_PROMPTS = gettext_noop(
    "There are no held-out prompts: train with an eval_fraction, import comparisons as held out, "
    "or give prompts."
)


def held_out_prompts(project: Project, names: Sequence[str]) -> list[Any]:
    """Prompts that neither model was trained on, each once."""
    for name in names:
        number = name.removeprefix("checkpoint:")
        if name != number and number.isdecimal():
            checkpoint = Checkpoint.objects.filter(pk=number, run__project=project).first()
            if checkpoint and (prompts := _eval_prompts(checkpoint)):
                return prompts
    held_out = Comparison.objects.filter(project=project, held_out=True).order_by("rank", "pk")
    each_once = dict(held_out.values_list("prompt_key", "prompt")).values()
    return [prompt for prompt in each_once if not pictures_of(prompt)]  # models here read none


def _eval_prompts(checkpoint: Checkpoint) -> list[Any]:
    if not checkpoint.run.snapshot.counts.get("eval_groups"):
        return []
    with open_snapshot(checkpoint.run) as archive:
        prompts = [row["prompt"] for row in rows_of(archive, "eval.jsonl")]
    return list({json.dumps(prompt, sort_keys=True): prompt for prompt in prompts}.values())


def advance_matches() -> int:
    """Turn finished generations into comparisons; how many matches went on."""
    count = 0
    waiting = Match.objects.filter(status=Match.Status.GENERATING)
    for pk in waiting.order_by("pk").values_list("pk", flat=True):
        with transaction.atomic():
            match = waiting.select_for_update(skip_locked=True, no_key=True).filter(pk=pk).first()
            count += match is not None and _advance(match)
    return count


def _advance(match: Match) -> bool:
    runs = [match.left_run, match.right_run]
    ended_badly = [run for run in runs if run.status in (Run.Status.FAILED, Run.Status.CANCELLED)]
    if ended_badly:
        run = ended_badly[0]
        match.error = f"Run {run.pk} ({name_of_base(run)}) was {run.status}. {run.error}".strip()
        match.status = Match.Status.FAILED
        match.save(update_fields=["status", "error"])
        return True
    if any(run.status != Run.Status.DONE for run in runs):
        return False
    groups, left_indices, identical = _pair_up(match)
    if not groups and not identical:
        match.status, match.error = Match.Status.FAILED, "No prompt could be answered by both models."
        match.save(update_fields=["status", "error"])
        return True
    comparisons = add_comparisons(project=match.project, groups=groups, held_out=True, shuffle_seed=match.pk)
    MatchComparison.objects.bulk_create(
        MatchComparison(match=match, comparison=comparison, left_index=index)
        for comparison, index in zip(comparisons, left_indices, strict=True)
    )
    match.identical, match.status = identical, Match.Status.JUDGING
    match.save(update_fields=["identical", "status"])
    return True


def _pair_up(match: Match) -> tuple[list[dict[str, Any]], list[int], int]:
    """The groups to judge, which candidate of each is the left model's, and how many pairs were identical."""
    generator = random.Random(f"sides of match {match.pk}")
    names = [name_of_base(run) for run in (match.left_run, match.right_run)]
    groups, left_indices, identical = [], [], 0
    with open_result(match.left_run) as left, open_result(match.right_run) as right:
        others = {row["meta"]["row"]: row for row in rows_of(right, "generations.jsonl")}
        for row in rows_of(left, "generations.jsonl"):
            other = others.get(row["meta"]["row"])
            if other is None:  # a prompt that the right model could not take
                continue
            for pair in zip(row["candidates"], other["candidates"], strict=True):
                contents = [content_of(left, pair[0]), content_of(right, pair[1])]
                if contents[0] == contents[1]:
                    identical += 1
                    continue
                candidates = [
                    {**content, "source": name} for content, name in zip(contents, names, strict=True)
                ]
                left_index = generator.randrange(2)
                left_indices.append(left_index)
                groups.append(
                    {
                        "prompt": row["prompt"],
                        "candidates": candidates[::-1] if left_index else candidates,
                        "meta": {"match": match.pk},
                    }
                )
    return groups, left_indices, identical


def win_rate(match: Match) -> dict[str, Any]:
    """How often people preferred the left model.

    `wins`, `losses`, `ties` and `both_bad` count judgements; `identical` pairs nobody had to see. A
    comparison's score is the mean of its judgements (win 1, loss 0, tie and both-bad ½), and ½ for an
    identical pair. `rate` is the mean over `n` comparisons, (`low`, `high`) its 95 % Wilson interval; all
    three are None while n is 0. Ties make the Wilson interval a little too wide, never too narrow.
    """
    return win_rates([match])[match.pk]


def win_rates(matches: Iterable[Match]) -> dict[int, dict[str, Any]]:
    """`win_rate` of each by its id, with two queries for all of them."""
    chosen = list(matches)
    sides = MatchComparison.objects.filter(match__in=chosen)
    left_of = {row[1]: row for row in sides.values_list("match_id", "comparison_id", "left_index")}
    judged = Judgement.objects.standing().filter(kind=Judgement.Kind.REGULAR, choice__isnull=False)
    answers: dict[int, list[tuple[int, Any, int]]] = {match.pk: [] for match in chosen}
    for comparison, choice in judged.filter(comparison__in=left_of).values_list("comparison_id", "choice"):
        owner, _index, left_index = left_of[comparison]
        answers[owner].append((comparison, choice, left_index))
    return {match.pk: _rate(match, answers[match.pk]) for match in chosen}


def _rate(match: Match, answers: Iterable[tuple[int, Any, int]]) -> dict[str, Any]:
    """The win rate from (comparison, choice, index of the left model's candidate)."""
    counts = {"wins": 0, "losses": 0, "ties": 0, "both_bad": 0}
    scores: dict[int, list[float]] = {}
    for comparison, choice, left_index in answers:
        if isinstance(choice, int):
            won = choice == left_index
            counts["wins" if won else "losses"] += 1
            scores.setdefault(comparison, []).append(float(won))
        else:
            counts["ties" if choice == "tie" else "both_bad"] += 1
            scores.setdefault(comparison, []).append(0.5)
    means = [sum(values) / len(values) for values in scores.values()] + [0.5] * match.identical
    found: dict[str, Any] = {**counts, "identical": match.identical, "n": len(means)}
    if not means:
        return {**found, "rate": None, "low": None, "high": None}
    interval = wilson(sum(means), len(means))
    return {**found, "rate": interval.value, "low": interval.low, "high": interval.high}


@dataclass(frozen=True)
class Verdict:
    """What a match shows so far. `low` and `high` hold at every moment at once, so that it may end as soon as
    they leave out one half; `waiting` counts the comparisons that still want judgements.
    """

    rate: float | None
    low: float | None
    high: float | None
    judged: int
    identical: int
    waiting: int

    @property
    def is_decided(self) -> bool:
        return self.low is not None and self.high is not None and not self.low <= 0.5 <= self.high

    def as_data(self) -> dict[str, Any]:
        return asdict(self)


def verdict_of(match: Match) -> Verdict:
    """The left model's share of wins and its confidence sequence (`training.sequential`).

    The scores of comparisons whose slots are all filled, in the order in which the last of them was: people
    meet them shuffled, so that they are in random order. Identical pairs are known from the start to be one
    half, and draw rate and interval towards it by their share.
    """
    comparisons = Comparison.objects.filter(pk__in=match.comparisons.values("comparison"))
    in_hands = Lease.objects.filter(comparison=OuterRef("pk"), state=Lease.State.OPEN)
    unfinished = comparisons.filter(Q(open_slots__gt=0) | Exists(in_hands))
    filled = comparisons.exclude(pk__in=unfinished).values_list("pk", flat=True)
    sides = dict(match.comparisons.filter(comparison__in=filled).values_list("comparison_id", "left_index"))
    judged = Judgement.objects.standing().filter(kind=Judgement.Kind.REGULAR, choice__isnull=False)
    scores: dict[int, list[float]] = {}
    rows = judged.filter(comparison__in=sides).order_by("-created_at", "-pk")
    for comparison, choice in rows.values_list("comparison_id", "choice"):
        score = float(choice == sides[comparison]) if isinstance(choice, int) else 0.5
        scores.setdefault(comparison, []).append(score)
    in_order = [sum(values) / len(values) for values in reversed(scores.values())]
    waiting = unfinished.count()
    if not in_order and not match.identical:
        return Verdict(None, None, None, 0, 0, waiting)
    whole = len(scores) + waiting + match.identical
    apart = (len(scores) + waiting) / whole

    def drawn(value: float) -> float:
        return apart * value + (1 - apart) / 2

    low, high = confidence_sequence(in_order)
    mean = sum(in_order) / len(in_order) if in_order else 0.5
    return Verdict(drawn(mean), drawn(low), drawn(high), len(scores), match.identical, waiting)


def retire(match: Match) -> int:
    """Take what nobody has judged or holds out of the queue, because the match is decided; how many."""
    waiting = match.comparisons.filter(comparison__open_slots__gt=0)
    return delete_untouched(comparisons=list(waiting.values_list("comparison_id", flat=True)))
