"""A reward that was learnt is not the one that was meant: optimise it hard, and they part.

A bandit of 60 arms with hidden utilities. Pairs come from a prior that draws some arms rarely, a quarter of
their labels are flipped. Five tabular Bradley-Terry models are fitted, each to a bootstrap sample; the policy
is the closed form p ∝ prior · exp(r / β), so that nothing but the reward differs.
"""

import functools

import pytest
import torch
from torch import Tensor

from training.tuning.losses.bradley_terry import bradley_terry_loss
from training.tuning.rewards.transforms import aggregate

ARMS, PAIRS, FLIPPED, MEMBERS, WORLDS = 60, 400, 0.25, 5, 24
BETAS = (8.0, 4.0, 2.0, 1.0, 0.5, 0.25, 0.1, 0.02)
PULL = 0.02  # towards each member's random start, as an early stop would do


def fit(first: Tensor, second: Tensor, wins: Tensor, generator: torch.Generator) -> Tensor:
    """Scores (ARMS,) of one member, from a bootstrap sample of the pairs and a start of its own."""
    sample = torch.randint(len(wins), (len(wins),), generator=generator)
    start = torch.randn(ARMS, generator=generator)
    scores = start.clone().requires_grad_()
    optimizer = torch.optim.LBFGS([scores], max_iter=60)

    def closure() -> float:
        optimizer.zero_grad()
        chosen, rejected = scores[first[sample]], scores[second[sample]]
        loss = bradley_terry_loss(chosen, rejected, wins[sample]).sum()
        loss = loss + PULL * ((scores - start) ** 2).sum()
        loss.backward()
        return float(loss.detach())

    optimizer.step(closure)
    return scores.detach()


def world(seed: int) -> dict[str, Tensor]:
    """By aggregate, (proxy, gold) expected under the policy of every β: (len(BETAS), 2)."""
    generator = torch.Generator().manual_seed(seed)
    gold = torch.randn(ARMS, generator=generator)
    prior = torch.randn(ARMS, generator=generator).softmax(0)
    first, second = torch.multinomial(prior, 2 * PAIRS, replacement=True, generator=generator).view(2, -1)
    first, second = first[first != second], second[first != second]
    right = torch.rand(len(first), generator=generator) < torch.sigmoid(gold[first] - gold[second])
    flipped = torch.rand(len(first), generator=generator) < FLIPPED
    wins = (right ^ flipped).float()
    fits = [normalised(fit(first, second, wins, generator), prior) for _ in range(MEMBERS)]
    members = torch.stack(fits, dim=1)
    rewards = {how: aggregate(members, how=how, penalty=0.5) for how in ("mean", "min", "mean_variance")}
    rewards |= {"mean_std": aggregate(members, how="mean_std", penalty=1.0), "single": members[:, 0]}
    return {
        how: torch.stack([expected(prior, own, gold, beta) for beta in BETAS]) for how, own in rewards.items()
    }


def normalised(scores: Tensor, prior: Tensor) -> Tensor:
    """Mean 0 and variance 1 over the prior's samples, as each member is before they are put together."""
    centred = scores - prior @ scores
    return centred / (prior @ centred**2).sqrt()


def expected(prior: Tensor, reward: Tensor, gold: Tensor, beta: float) -> Tensor:
    """Mean reward and mean utility under the tilted policy."""
    policy = (prior.log() + reward / beta).softmax(0)
    return torch.stack([policy @ reward, policy @ gold])


@functools.cache
def curves() -> dict[str, Tensor]:
    """Means over worlds."""
    found = [world(seed) for seed in range(WORLDS)]
    return {how: torch.stack([one[how] for one in found]).mean(dim=0) for how in found[0]}


def test_a_single_reward_is_over_optimised() -> None:
    """Its own score rises with every step of pressure, while the utility peaks and falls by a quarter."""
    proxy, gold = curves()["single"].unbind(dim=1)
    assert (proxy.diff() > 0).all()
    peak = int(gold.argmax())
    assert peak < len(BETAS) - 1
    assert gold[-1] < 0.75 * gold[peak]


@pytest.mark.system("s000-090")
@pytest.mark.parametrize("how", ["mean", "min", "mean_variance"])
def test_ensembles_hold_where_a_single_reward_falls(how: str) -> None:
    """At the hardest pressure, and at its best, the utility is well above the single reward's."""
    single, own = curves()["single"][:, 1], curves()[how][:, 1]
    assert own[-1] > single[-1] + 0.2
    assert own.max() > single.max() + 0.1


@pytest.mark.system("s001-035")
def test_pessimism_about_disagreement_holds() -> None:
    """mean − deviation: above the single reward at every pressure from β = ½ on, and twice it at the end."""
    single, own = curves()["single"][:, 1], curves()["mean_std"][:, 1]
    assert (own[4:] > single[4:] + 0.05).all()
    assert own[-1] > 2 * single[-1]


def test_the_proxy_of_the_pessimist_is_nearer_the_truth() -> None:
    """What the worst-case reward promises at the end is wrong by less than half of the single one's error."""
    errors = {how: abs(float(curves()[how][-1, 0] - curves()[how][-1, 1])) for how in ("single", "min")}
    assert errors["min"] < errors["single"] / 2
