"""Around the loss of a reward model: heads, members' samples, doubtful labels, sources, normalisation."""

import math
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from training.tuning.config import RewardModelConfig
from training.tuning.data import Candidate, Group
from training.tuning.errors import BadInput
from training.tuning.losses.noise import min_norm_weights, peer_choice
from training.tuning.pairs import Pair
from training.tuning.plan import MicroBatch
from training.tuning.rewards.compose import Rewards
from training.tuning.text.batches import GroupBatch
from training.tuning.text.dataset import Example, texts_of
from training.tuning.text.models import HEAD, TextModel
from training.tuning.text.pairs import sides
from training.tuning.text.reward_objectives import Objective

Read = Callable[[MicroBatch], tuple[GroupBatch, list[Example]]]
NORMALISING = 512  # groups at most that scores are normalised on


# The head


def last_layers(model: nn.Module, outputs: int) -> list[nn.Linear]:
    """The layers that give the outputs: one, or one of every member's adapter."""
    return [
        module
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear)
        and not HEAD.isdisjoint(name.split("."))
        and module.weight.requires_grad
        and module.out_features == outputs
    ]


@torch.no_grad()
def start_head(model: nn.Module, *, outputs: int, start: str) -> None:
    """``zero``: every output of every candidate is 0 before the first step."""
    if start == "zero":
        for layer in last_layers(model, outputs):
            layer.weight.zero_()
            if layer.bias is not None:
                layer.bias.zero_()


@torch.no_grad()
def scale_head(model: nn.Module, moments: "Moments", *, outputs: int) -> None:
    """Let outputs start with variance 1, as arXiv:1909.08593 does before training."""
    spread = [value if value > 0 else 1.0 for value in moments.std]
    layers = last_layers(model, outputs)
    for number, layer in enumerate(layers):
        own = spread if len(layers) == 1 else [spread[number]]
        gain = layer.weight.new_tensor(own)
        layer.weight.div_(gain[:, None])
        if layer.bias is not None:
            layer.bias.div_(gain)


# Members


def bootstrap_weights(
    examples: Sequence[Example], members: int, *, seed: int, terms: Sequence[int]
) -> Tensor:
    """How often each member's sample holds each group, (B, M), by term: Poisson numbers of mean 1."""
    rows = []
    for example, count in zip(examples, terms, strict=True):
        own = [
            _poisson(random.Random(f"{seed}/bootstrap/{example.group.line}/{at}")) for at in range(members)
        ]
        rows += [own] * count
    return torch.tensor(rows, dtype=torch.float32)


def _poisson(rng: random.Random) -> int:
    threshold, number, product = math.exp(-1), 0, rng.random()
    while product > threshold:
        number, product = number + 1, product * rng.random()
    return number


# Weights that depend on a whole step


@torch.no_grad()
def peer_weights(
    model: TextModel, read: Read, micro_batches: Sequence[MicroBatch], *, rate: float
) -> list[Tensor]:
    """For each micro-batch which pairs each of two members learns from (B, 2): the other's choice.

    Scaled so that the mean stays 1.
    """
    margins, counts = [], []
    for micro in micro_batches:
        batch, examples = read(micro)
        chosen, rejected = sides(model.outputs(batch), examples)
        sign = torch.tensor(
            [1.0 if pair.target >= 0.5 else -1.0 for one in examples for pair in one.pairs],
            device=chosen.device,
        )
        margins.append((chosen - rejected) * sign[:, None])
        counts.append(len(sign))
    weights = peer_choice(torch.cat(margins), rate)
    return list((weights / weights.mean().clamp(min=1e-9)).split(counts))


def source_weights(
    model: TextModel, objective: Objective, read: Read, micro_batches: Sequence[MicroBatch]
) -> list[Tensor]:
    """For each micro-batch T · λ of each term's source, (B, 1): min-norm weights of the sources' gradients.

    The gradients are those in the head's weights, from features that are held fixed (arXiv:2312.07401).
    """
    head = [value for layer in last_layers(model.model, objective.outputs) for value in layer.parameters()]
    sums: dict[str, Tensor] = {}
    owners: list[list[str]] = []
    for micro in micro_batches:
        batch, examples = read(micro)
        with torch.no_grad():
            features = model.reads(batch)
        losses = objective.losses(model.score_head(features), examples)[:, 0]
        owners.append([source_of(one) for one in examples for _ in objective.weights(one)])
        weight = losses.new_tensor([value for one in examples for value in objective.weights(one)])
        for source in sorted(set(owners[-1])):
            inside = torch.tensor([owner == source for owner in owners[-1]], device=losses.device)
            gradients = torch.autograd.grad((losses * weight)[inside].sum(), head, retain_graph=True)
            flat = torch.cat([gradient.flatten() for gradient in gradients])
            sums[source] = sums[source] + flat if source in sums else flat
    names = sorted(sums)
    share = dict(
        zip(names, min_norm_weights(torch.stack([sums[name] for name in names])).tolist(), strict=True)
    )
    return [torch.tensor([[len(names) * share[name]] for name in own]) for own in owners]


def source_of(example: Example) -> str:
    """``meta.source`` of a row. BadInput without one."""
    source = example.group.meta.get("source")
    if not isinstance(source, str):
        raise BadInput(
            "sources: min_norm needs the source of every row", line=example.group.line, field="meta.source"
        )
    return source


# Labels that other rewards contradict


def corrected(examples: list[Example], rewards: Rewards, config: RewardModelConfig) -> list[Example]:
    """The examples with their pairs corrected by the strength that ``rewards`` find (arXiv:2401.06080).

    ``margin``: every pair leads by its strength μ, the mean of the members' margins. ``flip``: the share
    ``noise_rate`` of pairs with the lowest strength is turned round where that is negative. ``smooth``: those
    pairs' labels count 9 to 1.
    """
    strengths = [pair_strengths(example, rewards) for example in examples]
    flat = sorted(value for own in strengths for value in own)
    limit = flat[max(0, round(config.noise_rate * len(flat)) - 1)]
    changed = []
    for example, own in zip(examples, strengths, strict=True):
        pairs = [
            _correct(pair, value, config.correction, limit)
            for pair, value in zip(example.pairs, own, strict=True)
        ]
        changed.append(replace(example, pairs=pairs))
    return changed


def _correct(pair: Pair, strength: float, how: str, limit: float) -> Pair:
    if how == "margin":
        return replace(pair, lead=strength)
    if how == "flip" and strength <= limit and strength < 0:
        return replace(pair, target=1 - pair.target)
    if how == "smooth" and strength <= limit:
        return replace(pair, target=0.9 * pair.target + 0.1 * (1 - pair.target))
    return pair


def pair_strengths(example: Example, rewards: Rewards) -> list[float]:
    """By how much the rewards favour what each pair's votes chose."""
    texts = texts_of(example.group)
    scores = rewards.score([example.group.prompt] * len(texts), texts, unusable=0.0).tolist()
    found = []
    for pair in example.pairs:
        margin = scores[pair.chosen] - scores[pair.rejected]
        found.append(margin if pair.target >= 0.5 else -margin)
    return found


# Normalisation


@dataclass(frozen=True)
class Moments:
    """Mean and standard deviation (population) of each output over reference answers."""

    mean: list[float]
    std: list[float]


@torch.no_grad()
def moments(model: TextModel, batches: Sequence[tuple[GroupBatch, Any]]) -> Moments:
    """Over all candidates of batches."""
    outputs = torch.cat([model.outputs(batch) for batch, _ in batches]).double()
    return Moments(outputs.mean(dim=0).tolist(), outputs.std(dim=0, unbiased=False).tolist())


def reference_groups(groups: Sequence[Group], on: str) -> list[Group]:
    """Groups whose candidates scores are normalised on: as they are, or the rows' reference answers."""
    if on == "candidates":
        return [group for group in groups if group.candidates][:NORMALISING]
    found = []
    for group in groups[:NORMALISING]:
        answers = [Candidate(text=text) for text in _reference_texts(group)]
        if answers:
            found.append(Group(prompt=group.prompt, candidates=answers, line=group.line))
    if not found:
        raise BadInput("normalise_on: references needs rows with a reference", field="reference")
    return found


def _reference_texts(group: Group) -> list[str]:
    given = group.reference if isinstance(group.reference, list) else [group.reference]
    return [text for text in given if isinstance(text, str) and text.strip()]
