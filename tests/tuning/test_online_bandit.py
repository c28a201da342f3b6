"""Online objectives on a bandit whose optimum is known: the tilted policy, pi_ref exp(R / beta).

Four answers of one token, logits as the only parameters, answers sampled from the policy with a generator.
"""

from collections.abc import Callable
from functools import partial

import pytest
import torch
from torch import Tensor

from training.tuning.losses.advantages import generalised_advantages, group_relative, leave_one_out
from training.tuning.losses.dpo import dpo_loss
from training.tuning.losses.policy_gradient import (
    clipped_surrogate,
    kl_estimate,
    policy_gradient,
)
from training.tuning.methods.copg import group_loss

REWARDS = torch.tensor([1.0, 0.2, -0.5, 0.4], dtype=torch.float64)
REFERENCE = torch.tensor([0.1, 0.4, 0.3, 0.2], dtype=torch.float64).log()
BETA = 0.5
TILTED = (REFERENCE + REWARDS / BETA).log_softmax(0)

Loss = Callable[[Tensor, Tensor, torch.Generator], Tensor]


def solve(loss: Loss, *, steps: int = 1500, samples: int = 64, rate: float = 0.02) -> Tensor:
    """The log-policy after training; the last third of the path is averaged, as samples are noisy."""
    generator = torch.Generator().manual_seed(0)
    logits = REFERENCE.clone().requires_grad_()
    optimizer = torch.optim.Adam([logits], lr=rate)
    path = []
    for step in range(steps):
        logp = logits.log_softmax(0)
        taken = torch.multinomial(logp.exp().detach(), samples, replacement=True, generator=generator)
        optimizer.zero_grad()
        loss(logp, taken, generator).backward()
        optimizer.step()
        if step > 2 * steps // 3:
            path.append(logits.detach().clone())
    return torch.stack(path).mean(0).log_softmax(0)


def distance(found: Tensor, wanted: Tensor = TILTED) -> float:
    return float((wanted.exp() * (wanted - found)).sum())


def regularised(logp: Tensor, taken: Tensor) -> Tensor:
    return REWARDS[taken] - BETA * (logp - REFERENCE)[taken].detach()


def rloo(logp: Tensor, taken: Tensor, generator: torch.Generator) -> Tensor:
    advantages = leave_one_out(regularised(logp, taken)[None])[0]
    return policy_gradient(logp[taken], advantages).mean()


def grpo(logp: Tensor, taken: Tensor, generator: torch.Generator, *, kind: str = "k2") -> Tensor:
    rewards = regularised(logp, taken) if kind == "k1" else REWARDS[taken]
    advantages = group_relative(rewards[None], scale="none")[0]
    now = logp[taken]
    loss = clipped_surrogate(now, now.detach(), advantages, low=0.2, high=0.2)
    return (loss + (0 if kind == "k1" else BETA * kl_estimate(now, REFERENCE[taken], kind=kind))).mean()


def ppo(logp: Tensor, taken: Tensor, generator: torch.Generator) -> Tensor:
    """One token, whose value is the mean of what the step saw."""
    rewards = regularised(logp, taken)
    values = rewards.mean().expand(1)
    advantages = generalised_advantages(list(rewards[:, None]), [values] * len(taken), gamma=1.0, lam=0.95)
    now = logp[taken]
    return clipped_surrogate(now, now.detach(), torch.cat(advantages), low=0.2, high=0.2).mean()


def online_dpo(logp: Tensor, taken: Tensor, generator: torch.Generator) -> Tensor:
    """Pairs of the policy's answers, labelled as Bradley and Terry's people would."""
    one, other = taken.chunk(2)
    says = torch.rand(len(one), generator=generator, dtype=torch.float64)
    first = says < torch.sigmoid(REWARDS[one] - REWARDS[other])
    chosen, rejected = torch.where(first, one, other), torch.where(first, other, one)
    moved = logp - REFERENCE
    return dpo_loss(moved[chosen], moved[rejected], beta=BETA).mean()


def contrastive(logp: Tensor, taken: Tensor, generator: torch.Generator) -> Tensor:
    groups = taken.view(-1, 8)
    copg = torch.vmap(partial(group_loss, beta=BETA))
    return copg((logp - REFERENCE)[groups], REWARDS[groups]).mean()


@pytest.mark.parametrize("loss", [rloo, grpo, ppo, online_dpo, contrastive], ids=lambda loss: loss.__name__)
def test_it_reaches_the_tilted_policy(loss: Loss) -> None:
    assert distance(REFERENCE) > 0.3
    assert distance(solve(loss)) < 5e-3


def test_rewards_with_the_divergence_in_them_reach_it_too() -> None:
    assert distance(solve(lambda *given: grpo(*given, kind="k1"))) < 5e-3


def test_the_third_estimate_as_a_loss_ends_elsewhere() -> None:
    """k3's gradient is that of KL(pi_ref || pi): the optimum has pi = beta pi_ref / (c - R), not the tilt."""
    start = REFERENCE.exp()
    low, high = float(REWARDS.max()) + 1e-9, float(REWARDS.max()) + 10
    for _ in range(200):
        middle = (low + high) / 2
        low, high = (middle, high) if (BETA * start / (middle - REWARDS)).sum() > 1 else (low, middle)
    wanted = (BETA * start / (high - REWARDS)).log()
    found = solve(lambda *given: grpo(*given, kind="k3"))
    assert distance(found, wanted) < 5e-3
    assert distance(found) > 10 * distance(found, wanted)
