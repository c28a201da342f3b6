"""Rows of an evaluation: which candidates are right, who says so, and which rows belong together. Torch-free.

``meta`` may hold ``correct`` (indices of the verified answers; left out: what most people chose), ``subset``
(figures are given for each), ``id`` (``ref:…`` and ``tied:…`` join the two halves of a tie, as in
RewardBench 2), and ``family`` (one question in several words or languages, candidates in the same order,
with ``language`` as the version's name).
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from training.tuning.config import PairKeys
from training.tuning.data import Group
from training.tuning.errors import BadInput
from training.tuning.pairs import Pair, make_pairs

# What most annotators said: a tied vote has no majority.
MAJORITY = PairKeys(pairs="majority", ties="half", both_bad="half")
SOFT = PairKeys(pairs="each", ties="half", both_bad="half")
TIES = ("tied", "ref")


@dataclass(frozen=True)
class Item:
    """A row with its scores. ``right``: indices of the right candidates, none where nobody knows."""

    group: Group
    right: tuple[int, ...]
    verified: bool
    scores: tuple[float, ...] = ()

    @property
    def subset(self) -> str:
        return str(self.group.meta.get("subset", ""))

    @property
    def wrong(self) -> tuple[int, ...]:
        return tuple(at for at in range(len(self.group.candidates)) if at not in self.right)

    @property
    def tie(self) -> tuple[str, str] | None:
        """("tied" or "ref", the question) of a row that belongs to a tie."""
        half, colon, question = str(self.group.meta.get("id", "")).partition(":")
        return (half, question) if colon and half in TIES else None

    def pairs(self) -> list[tuple[int, int]]:
        """(right, wrong): of verified answers every one, else what most people said of each pair."""
        if self.verified:
            return [(good, bad) for good in self.right for bad in self.wrong]
        return [(pair.chosen, pair.rejected) for pair in make_pairs(self.group, MAJORITY) if decided(pair)]

    def votes(self) -> Iterator[tuple[int, int, float, float]]:
        """(chosen, rejected, share of votes for chosen, votes) of each pair."""
        if self.verified:
            yield from ((good, bad, 1.0, 1.0) for good, bad in self.pairs())
        else:
            for pair in make_pairs(self.group, SOFT):
                yield pair.chosen, pair.rejected, pair.target, pair.weight


def items_of(groups: Sequence[Group]) -> list[Item]:
    """The rows that say something: verified answers, or judgements."""
    found = []
    for group in groups:
        verified = "correct" in group.meta
        right = _verified(group) if verified else _preferred(group)
        item = Item(group, right, verified)
        if len(group.candidates) > 1 and item.pairs():
            found.append(item)
    return found


def decided(pair: Pair) -> bool:
    return pair.target != 0.5


def _verified(group: Group) -> tuple[int, ...]:
    given = group.meta["correct"]
    count = len(group.candidates)
    usable = isinstance(given, list) and all(type(one) is int and 0 <= one < count for one in given)
    if not usable or not 0 < len(set(given)) < count:
        raise BadInput(
            f"must be a list with the indices of the right ones among the {count} candidates; at least one "
            "is right and one is wrong",
            line=group.line,
            field="meta.correct",
        )
    return tuple(sorted(set(given)))


def _preferred(group: Group) -> tuple[int, ...]:
    """The candidate that most people preferred to each of the others, if there is one."""
    pairs = [pair for pair in make_pairs(group, MAJORITY) if decided(pair)]
    for at in range(len(group.candidates)):
        if sum(pair.chosen == at for pair in pairs) == len(group.candidates) - 1:
            return (at,)
    return ()
