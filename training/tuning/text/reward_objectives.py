"""What a reward model learns from a group, and the losses of a batch: one objective for each ``loss``.

An objective has ``outputs`` (numbers that the head gives), ``link`` (what is trained beside the model, or
None), ``choose`` (answers and pairs of a group, or Unusable), ``weights`` (of an example's terms) and
``losses``: from outputs (N, T) of a batch's candidates the losses (B, M) of its terms, a column per member.
"""

from collections.abc import Callable, Sequence
from itertools import product
from typing import Any, Protocol, runtime_checkable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from training.tuning.config import PairKeys, RewardModelConfig
from training.tuning.data import Group, Judgement, Text
from training.tuning.losses import ties
from training.tuning.losses.attributes import rating_loss
from training.tuning.losses.bradley_terry import bradley_terry_loss, centring
from training.tuning.losses.general_preference import general_preference_loss
from training.tuning.losses.ordinal import ordinal_loss
from training.tuning.losses.rankings import best_of_k_loss, plackett_luce_loss
from training.tuning.pairs import VOTING_KINDS, Apart, Pair, make_pairs, why_no_pairs
from training.tuning.text.dataset import Example, texts_of
from training.tuning.text.pairs import sides
from training.tuning.text.personal import TASTES, PersonalObjective, VariationalObjective
from training.tuning.text.tokens import Unusable

LEVELS = 3  # of strength


@runtime_checkable
class Objective(Protocol):
    """See the module."""

    outputs: int
    link: nn.Module | None

    def choose(self, group: Group) -> tuple[list[Text], list[Pair]]: ...

    def weights(self, example: Example) -> list[float]: ...

    def losses(self, outputs: Tensor, examples: Sequence[Example]) -> Tensor: ...


def objective_of(config: RewardModelConfig, groups: Sequence[Group]) -> Objective:
    """The objective that the config names; ``groups`` say which attributes there are."""
    if config.loss in RANKINGS:
        return RankObjective(config)
    if config.loss == "regression":
        return RatingObjective(config.attributes or attributes_of(groups))
    if config.loss == "variational":
        return VariationalObjective(config, groups)
    if config.loss in TASTES:
        return PersonalObjective(config, groups)
    return PairObjective(config)


class PairObjective:
    """Pairs: Bradley-Terry, with ties, ordinal, or general preferences."""

    def __init__(self, config: RewardModelConfig) -> None:
        self.config = config
        general = config.loss == "general_preference"
        self.outputs = config.dimensions if general else config.members
        self.link: nn.Module | None = Cuts(LEVELS) if config.loss == "ordinal" else None
        self.apart: tuple[Apart, ...] = ("strength",) if config.margin or config.loss == "ordinal" else ()

    def choose(self, group: Group) -> tuple[list[Text], list[Pair]]:
        """All candidates, and the pairs by the config's rule."""
        pairs = make_pairs(group, self.config, apart=self.apart)
        if not pairs:
            raise Unusable(why_no_pairs(group))
        return texts_of(group), pairs

    def weights(self, example: Example) -> list[float]:
        """Of the pairs."""
        return [pair.weight for pair in example.pairs]

    def losses(self, outputs: Tensor, examples: Sequence[Example]) -> Tensor:
        """(B, M): of every pair by every member; general preferences have one column."""
        chosen, rejected = sides(outputs, examples)
        pairs = [pair for example in examples for pair in example.pairs]
        target = outputs.new_tensor([pair.target for pair in pairs])
        if self.config.loss == "general_preference":
            temperature = self.config.preference_temperature
            return general_preference_loss(chosen, rejected, target, temperature=temperature)[:, None]
        columns = zip(chosen.unbind(dim=1), rejected.unbind(dim=1), strict=True)
        return torch.stack([self._of_scores(one, other, target, pairs) for one, other in columns], dim=1)

    def _of_scores(self, chosen: Tensor, rejected: Tensor, target: Tensor, pairs: list[Pair]) -> Tensor:
        config = self.config
        if self.link is not None:
            level = torch.tensor([round(pair.strength) for pair in pairs], device=chosen.device)
            forward = ordinal_loss(chosen - rejected, level, self.link())
            return target * forward + (1 - target) * ordinal_loss(chosen - rejected, -level, self.link())
        if config.ties in ties.MODELS:
            win, tie = ties.MODELS[config.ties]
            tied = target.new_tensor([pair.tie for pair in pairs])
            margin, nu = chosen - rejected, config.tie_rate
            losses = target * win(margin, nu=nu) + (1 - target - tied) * win(-margin, nu=nu)
            losses = losses + tied * tie(margin, nu=nu)
        else:
            lead = target.new_tensor([config.margin * pair.strength + pair.lead for pair in pairs])
            losses = bradley_terry_loss(
                chosen, rejected, target, lead=lead, label_smoothing=config.label_smoothing
            )
        return losses + config.centring * centring(chosen, rejected) if config.centring else losses


class Cuts(nn.Module):
    """Trained places 0 < c_1 < … < c_L on the line of score differences, 1 apart at the start."""

    def __init__(self, levels: int) -> None:
        super().__init__()
        self.raw = nn.Parameter(torch.full((levels,), 0.5413))  # softplus gives 1

    def forward(self) -> Tensor:
        return F.softplus(self.raw).cumsum(dim=0)


class RankObjective:
    """Rankings, and choices among k, as a whole: Plackett-Luce, or cross-entropy of the best."""

    def __init__(self, config: RewardModelConfig) -> None:
        self.config = config
        self.outputs = config.members
        self.link: nn.Module | None = None

    def choose(self, group: Group) -> tuple[list[Text], list[Pair]]:
        """All candidates; the pairs are for accuracy alone."""
        if not rankings_of(group):
            raise Unusable(why_no_pairs(group))
        keys = PairKeys(ties="half" if self.config.ties == "half" else "drop")
        return texts_of(group), make_pairs(group, keys)

    def weights(self, example: Example) -> list[float]:
        """One of every ranking, or of a group's votes as many as there are."""
        rankings = rankings_of(example.group)
        return [1.0] * len(rankings) if self.config.loss == "plackett_luce" else [float(len(rankings))]

    def losses(self, outputs: Tensor, examples: Sequence[Example]) -> Tensor:
        """(B, M): of every ranking, or of every group's votes."""
        widest = max(len(example.tokens.blocks) for example in examples)
        places, rows = [], []
        offset = 0
        for example in examples:
            count = len(example.tokens.blocks)
            own = list(range(offset, offset + count)) + [offset] * (widest - count)
            for row in RANKINGS[self.config.loss](rankings_of(example.group), count):
                places.append(own)
                rows.append(row + [-1] * (widest - count))
            offset += count
        scores = outputs[torch.tensor(places, device=outputs.device)]  # (R, K, M)
        values = torch.tensor(rows, device=outputs.device)
        columns = [self._of_scores(column, values) for column in scores.unbind(dim=2)]
        return torch.stack(columns, dim=1)

    def _of_scores(self, scores: Tensor, values: Tensor) -> Tensor:
        if self.config.loss == "plackett_luce":
            return plackett_luce_loss(scores, values)
        present = values >= 0
        return best_of_k_loss(scores, values.clamp(min=0).to(scores.dtype), present)


def rankings_of(group: Group) -> list[list[list[int]]]:
    """The tiers, best first, of every vote that prefers something."""
    votes = [judgement for judgement in group.judgements if judgement.kind in VOTING_KINDS]
    tiers = [_tiers(judgement, len(group.candidates)) for judgement in votes]
    return [found for found in tiers if len(found) > 1]


def _tiers(judgement: Judgement, count: int) -> list[list[int]]:
    if judgement.ranking is not None:
        return [tier for tier in judgement.ranking if tier]
    if isinstance(judgement.choice, int):
        return [[judgement.choice], [at for at in range(count) if at != judgement.choice]]
    return []


def _tier_numbers(rankings: list[list[list[int]]], count: int) -> list[list[int]]:
    """A row for each ranking: the tier of every candidate, −1 if it was not ranked."""
    rows = []
    for ranking in rankings:
        numbers = {at: number for number, tier in enumerate(ranking) for at in tier}
        rows.append([numbers.get(at, -1) for at in range(count)])
    return rows


def _vote_shares(rankings: list[list[list[int]]], count: int) -> list[list[float]]:
    """One row: the share of votes that found each candidate the best, those of a tie divided."""
    shares = [0.0] * count
    for ranking in rankings:
        for at in ranking[0]:
            shares[at] += 1 / len(ranking[0]) / len(rankings)
    return [shares]


RANKINGS: dict[str, Callable[[list[list[list[int]]], int], list[list[Any]]]] = {
    "plackett_luce": _tier_numbers,
    "best_of_k": _vote_shares,
}


class RatingObjective:
    """Ratings of attributes, an output each; what nobody rated is masked."""

    def __init__(self, names: list[str]) -> None:
        self.names = names
        self.outputs = len(names)
        self.link: nn.Module | None = None

    def choose(self, group: Group) -> tuple[list[Text], list[Pair]]:
        """All candidates, and, for accuracy alone, what choices say of them."""
        if not self._entries(group):
            raise Unusable(f"no rating of {', '.join(self.names)}")
        return texts_of(group), make_pairs(group, PairKeys(ties="half"))

    def weights(self, example: Example) -> list[float]:
        """One of every candidate's attribute that somebody rated."""
        return [1.0] * len(self._entries(example.group))

    def losses(self, outputs: Tensor, examples: Sequence[Example]) -> Tensor:
        """(B, 1): of every candidate's attribute that somebody rated."""
        rows, columns, values = [], [], []
        offset = 0
        for example in examples:
            for candidate, attribute, rating in self._entries(example.group):
                rows.append(offset + candidate)
                columns.append(attribute)
                values.append(rating)
            offset += len(example.tokens.blocks)
        return rating_loss(outputs[rows, columns], outputs.new_tensor(values))[:, None]

    def ratings(self, group: Group) -> list[list[float | None]]:
        """The mean over annotators, by candidate and attribute; None where nobody rated."""
        rows = range(len(group.candidates))
        return [[_mean_rating(group, row, name) for name in self.names] for row in rows]

    def _entries(self, group: Group) -> list[tuple[int, int, float]]:
        table = self.ratings(group)
        places = product(range(len(table)), range(len(self.names)))
        return [(row, at, value) for row, at in places if (value := table[row][at]) is not None]


def _mean_rating(group: Group, candidate: int, name: str) -> float | None:
    found = []
    for judgement in group.judgements:
        ratings = judgement.ratings if judgement.kind in VOTING_KINDS else None
        value = (ratings[candidate] or {}).get(name) if ratings else None
        if isinstance(value, int | float):
            found.append(float(value))
    return sum(found) / len(found) if found else None


def attributes_of(groups: Sequence[Group]) -> list[str]:
    """The attributes with a number anywhere in the data, by name."""
    return sorted(
        {
            name
            for group in groups
            for judgement in group.judgements
            for ratings in judgement.ratings or []
            for name, value in (ratings or {}).items()
            if isinstance(value, int | float)
        }
    )
