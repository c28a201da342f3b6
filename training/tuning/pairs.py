"""From judgements to weighted pairs. Torch-free; the same for text and images.

For two candidates a and b let n_a and n_b be the votes for each (a judgement of strength s counts s votes if
the config says ``strength: weight``), and t the votes of ties where ties count half. Then one pair comes out,
its ``chosen`` the side with more votes, and

=========  ======================  ==========================================
``pairs``  weight                  target, the probability of ``chosen``
=========  ======================  ==========================================
each       n_a + n_b + t           (n_chosen + t / 2) / weight
soft       1                       the same
majority   1                       1, or 1/2 if nothing won the vote and ties count
=========  ======================  ==========================================

A loss ℓ of a margin m is then weight · (target · ℓ(m) + (1 − target) · ℓ(−m)); with ``each`` that is the sum
over judgements.
"""

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import combinations

from training.tuning.config import PairKeys
from training.tuning.data import Group, Judgement

# Gold, repeat and qualification judgements measure annotators; they are not votes.
VOTING_KINDS = frozenset({"regular", "review", "judge"})


@dataclass(frozen=True)
class Pair:
    """Candidates ``chosen`` and ``rejected`` of one group; see the module for ``weight`` and ``target``."""

    chosen: int
    rejected: int
    weight: float = 1.0
    target: float = 1.0


def make_pairs(group: Group, keys: PairKeys) -> list[Pair]:
    """The pairs of one group, in the order of its candidates. Empty if its judgements prefer nothing."""
    votes: dict[tuple[int, int], float] = defaultdict(float)
    tied: dict[tuple[int, int], float] = defaultdict(float)
    for judgement in group.judgements:
        if judgement.kind not in VOTING_KINDS:
            continue
        strength = float(judgement.strength or 1) if keys.strength == "weight" else 1.0
        for winner, loser in _preferences(judgement, len(group.candidates)):
            votes[winner, loser] += strength
        # A tie has no strength: it is one vote, shared.
        for first, second in _ties(judgement, len(group.candidates), keys):
            tied[first, second] += 1.0
    pairs = []
    for first, second in combinations(range(len(group.candidates)), 2):
        pair = _settle(first, second, votes[first, second], votes[second, first], tied[first, second], keys)
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
    return "only ties or both-bad"


def _settle(
    first: int, second: int, for_first: float, for_second: float, ties: float, keys: PairKeys
) -> Pair | None:
    total = for_first + for_second + ties
    if total == 0:
        return None
    chosen, rejected, most = (
        (first, second, for_first) if for_first >= for_second else (second, first, for_second)
    )
    if keys.pairs == "majority":
        if for_first != for_second and most > ties:
            return Pair(chosen, rejected)
        return Pair(chosen, rejected, target=0.5) if "half" in (keys.ties, keys.both_bad) else None
    weight = total if keys.pairs == "each" else 1.0
    return Pair(chosen, rejected, weight=weight, target=(most + ties / 2) / total)


def _preferences(judgement: Judgement, count: int) -> Iterator[tuple[int, int]]:
    if judgement.ranking is not None:
        for better, worse in combinations(judgement.ranking, 2):
            yield from ((winner, loser) for winner in better for loser in worse)
    elif isinstance(judgement.choice, int):
        yield from ((judgement.choice, other) for other in range(count) if other != judgement.choice)


def _ties(judgement: Judgement, count: int, keys: PairKeys) -> Iterator[tuple[int, int]]:
    """Pairs (smaller index first) that this judgement calls equal, if such pairs count."""
    if judgement.ranking is not None:
        if keys.ties == "half":
            for tier in judgement.ranking:
                yield from combinations(sorted(tier), 2)
    elif (judgement.choice == "tie" and keys.ties == "half") or (
        judgement.choice == "both_bad" and keys.both_bad == "half"
    ):
        yield from combinations(range(count), 2)
