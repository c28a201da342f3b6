"""From judgements to weighted pairs. Torch-free; the same for text and images.

A judgement counts 1 vote, times its strength if the config says ``strength: weight``, times the weight of its
annotator and of the judgement itself if the config has any. For two candidates a and b let n_a and n_b be the
votes for each, and t those of ties where ties count. Then one pair comes out, its ``chosen`` the side with
more votes, and

=========  ======================  ==========================================
``pairs``  weight                  target, the probability of ``chosen``
=========  ======================  ==========================================
each       n_a + n_b + t           (n_chosen + t / 2) / weight
soft       1                       the same
majority   1                       1, or 1/2 if nothing won the vote and ties count
=========  ======================  ==========================================

A loss ℓ of a margin m is then weight · (target · ℓ(m) + (1 − target) · ℓ(−m)); with ``each`` that is the sum
over judgements. Where the config gives ties a probability of their own (Rao-Kupper, Davidson), the target is
n_chosen / weight and ``tie`` is t / weight.
"""

from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any, Literal

from training.tuning.config import PairKeys, VoteKeys
from training.tuning.data import Group, Judgement
from training.tuning.errors import BadInput

# Gold, repeat and qualification judgements measure annotators; they are not votes.
VOTING_KINDS = frozenset({"regular", "review", "judge"})
PEOPLE = frozenset({"regular", "review"})
# The ties that make a third outcome, beside those that are dropped or count half.
TIE_MODELS = frozenset({"rao_kupper", "davidson"})
Apart = Literal["strength", "annotator_group", "annotator"]


@dataclass(frozen=True)
class Pair:
    """Candidates ``chosen`` and ``rejected`` of one group; see the module for the numbers.

    ``strength`` (0 of a tie), ``annotator_group`` and ``annotator`` are those of the votes, if the pairs were
    kept apart by them. ``lead`` is by how much the preferred score shall be higher, if something has found
    that out.
    """

    chosen: int
    rejected: int
    weight: float = 1.0
    target: float = 1.0
    tie: float = 0.0
    strength: float = 1.0
    annotator_group: str | None = None
    annotator: str | None = None
    lead: float = 0.0


def make_pairs(
    group: Group,
    keys: PairKeys,
    *,
    apart: Sequence[Apart] = (),
    only: Callable[[Judgement], bool] | None = None,
) -> list[Pair]:
    """The pairs of one group, in the order of its candidates. Empty if its judgements prefer nothing.

    Votes that differ in what ``apart`` names make pairs of their own (sensible with ``pairs: each``);
    ``only`` leaves judgements out.
    """
    count = len(group.candidates)
    buckets: dict[tuple[float, str, str], list[tuple[Judgement, float]]] = defaultdict(list)
    for judgement, weight in zip(group.judgements, judgement_weights(group, keys), strict=True):
        if judgement.kind not in VOTING_KINDS or weight == 0 or (only and not only(judgement)):
            continue
        tied = not _preferences_exist(judgement, count)
        strength = (0.0 if tied else float(judgement.strength or 1)) if "strength" in apart else 1.0
        label = judgement.annotator_group or "" if "annotator_group" in apart else ""
        name = "" if judgement.annotator is None or "annotator" not in apart else str(judgement.annotator)
        buckets[strength, label, name].append((judgement, weight))
    pairs = []
    for (strength, label, name), judgements in sorted(buckets.items(), key=lambda bucket: bucket[0]):
        about = {"strength": strength, "annotator_group": label or None, "annotator": name or None}
        pairs += _pairs_of(judgements, count, keys, about)
    return pairs


def judgement_weights(group: Group, keys: VoteKeys) -> list[float]:
    """How much each judgement of a group counts: by annotator, and by the row's own ``meta.weights``; a
    judge's nothing where a person has spoken and ``judges`` only fill.
    """
    weights = [keys.annotator_weights.get(str(judgement.annotator), 1.0) for judgement in group.judgements]
    if keys.judges == "fill" and any(one.kind in PEOPLE for one in group.judgements):
        spoken = zip(group.judgements, weights, strict=True)
        weights = [0.0 if judgement.kind == "judge" else weight for judgement, weight in spoken]
    if not keys.row_weights:
        return weights
    own = group.meta.get("weights")
    if not isinstance(own, list) or len(own) != len(weights) or not all(map(_is_weight, own)):
        raise BadInput(
            f"row_weights needs a list with one number from 0 on for each of the {len(weights)} judgements",
            field="meta.weights",
        )
    return [weight * float(value) for weight, value in zip(weights, own, strict=True)]


def _is_weight(value: object) -> bool:
    return isinstance(value, int | float) and value >= 0


def _pairs_of(
    judgements: list[tuple[Judgement, float]], count: int, keys: PairKeys, about: dict[str, Any]
) -> list[Pair]:
    votes: dict[tuple[int, int], float] = defaultdict(float)
    tied: dict[tuple[int, int], float] = defaultdict(float)
    for judgement, weight in judgements:
        strength = float(judgement.strength or 1) if keys.strength == "weight" else 1.0
        for winner, loser in _preferences(judgement, count):
            votes[winner, loser] += weight * strength
        # A tie has no strength: it is one vote, shared.
        for first, second in _ties(judgement, count, keys):
            tied[first, second] += weight
    pairs = []
    for first, second in combinations(range(count), 2):
        pair = _settle(
            first, second, votes[first, second], votes[second, first], tied[first, second], keys, about
        )
        if pair is not None:
            pairs.append(pair)
    return pairs


def why_no_pairs(group: Group) -> str:
    """The reason, for the count of dropped rows, that a group gave no pairs."""
    if len(group.candidates) < 2:
        return "fewer than two candidates"
    voting = [judgement for judgement in group.judgements if judgement.kind in VOTING_KINDS]
    if not voting:
        return "no judgements"
    if all(judgement.choice is None and judgement.ranking is None for judgement in voting):
        return "no choice or ranking"
    if any(_preferences_exist(judgement, len(group.candidates)) for judgement in voting):
        return "only judgements of weight 0"
    return "only ties or both-bad"


def _settle(
    first: int,
    second: int,
    for_first: float,
    for_second: float,
    ties: float,
    keys: PairKeys,
    about: dict[str, Any],
) -> Pair | None:
    total = for_first + for_second + ties
    if total == 0:
        return None
    chosen, rejected, most = (
        (first, second, for_first) if for_first >= for_second else (second, first, for_second)
    )
    modelled = keys.ties in TIE_MODELS
    if keys.pairs == "majority":
        if for_first != for_second and most > ties:
            return Pair(chosen, rejected, **about)
        if modelled:
            return Pair(chosen, rejected, target=0.0, tie=1.0, **about)
        half = "half" in (keys.ties, keys.both_bad)
        return Pair(chosen, rejected, target=0.5, **about) if half else None
    weight = total if keys.pairs == "each" else 1.0
    if modelled:
        return Pair(chosen, rejected, weight=weight, target=most / total, tie=ties / total, **about)
    return Pair(chosen, rejected, weight=weight, target=(most + ties / 2) / total, **about)


def _preferences(judgement: Judgement, count: int) -> Iterator[tuple[int, int]]:
    if judgement.ranking is not None:
        for better, worse in combinations(judgement.ranking, 2):
            yield from ((winner, loser) for winner in better for loser in worse)
    elif isinstance(judgement.choice, int):
        yield from ((judgement.choice, other) for other in range(count) if other != judgement.choice)


def _preferences_exist(judgement: Judgement, count: int) -> bool:
    return next(_preferences(judgement, count), None) is not None


def _ties(judgement: Judgement, count: int, keys: PairKeys) -> Iterator[tuple[int, int]]:
    """Pairs (smaller index first) that this judgement calls equal, if such pairs count."""
    if judgement.ranking is not None:
        if keys.ties != "drop":
            for tier in judgement.ranking:
                yield from combinations(sorted(tier), 2)
    elif (judgement.choice == "tie" and keys.ties != "drop") or (
        judgement.choice == "both_bad" and keys.both_bad == "half"
    ):
        yield from combinations(range(count), 2)
