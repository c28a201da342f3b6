"""Advantages: from the rewards of answers (or tokens) to what multiplies their log-probabilities."""

from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

Scale = Literal["group", "batch", "none"]


def leave_one_out(rewards: Float[Tensor, "G K"]) -> Float[Tensor, "G K"]:
    """RLOO (arXiv:2402.14740, Eq. 8): each reward minus the mean of the others of its group; K > 1."""
    count = rewards.shape[1]
    return (rewards - rewards.mean(dim=1, keepdim=True)) * count / (count - 1)


def group_relative(
    rewards: Float[Tensor, "G K"], *, scale: Scale = "group", epsilon: float = 1e-4
) -> Float[Tensor, "G K"]:
    """GRPO (arXiv:2402.03300, Sec. 4.1.2): rewards minus their group's mean, over its standard deviation.

    ``none`` leaves the division out (Dr. GRPO, arXiv:2503.20783: the division favours easy and hard prompts);
    ``batch`` divides by the standard deviation of all rewards. Unbiased deviations, as in the authors' code.
    """
    centred = rewards - rewards.mean(dim=1, keepdim=True)
    if scale == "none":
        return centred
    spread = rewards.std(dim=1, keepdim=True) if scale == "group" else rewards.std()
    return centred / (spread + epsilon)


def generalised_advantages(
    rewards: list[Float[Tensor, " T"]], values: list[Float[Tensor, " T"]], *, gamma: float, lam: float
) -> list[Float[Tensor, " T"]]:
    """GAE (arXiv:1506.02438, Eq. 16) of every answer: the sum of (gamma lam)^l delta_{t+l}.

    ``values[t]`` is of the state before token t, ``rewards[t]`` what token t brought; after the end
    comes nothing.
    """
    found = []
    for reward, value in zip(rewards, values, strict=True):
        following = torch.cat([value[1:], value.new_zeros(1)])
        delta = reward + gamma * following - value
        advantage = torch.zeros_like(delta)
        carried = delta.new_zeros(())
        for t in range(len(delta) - 1, -1, -1):
            carried = delta[t] + gamma * lam * carried
            advantage[t] = carried
        found.append(advantage)
    return found


def whitened(
    values: Float[Tensor, " *C"], *, shift_mean: bool = True, epsilon: float = 1e-8
) -> Float[Tensor, " *C"]:
    """Variance one over all elements; without ``shift_mean`` the mean stays (as PPO does with rewards)."""
    mean = values.mean()
    scaled = (values - mean) * torch.rsqrt(values.var(unbiased=False) + epsilon)
    return scaled if shift_mean else scaled + mean


def entropy_guided_weights(
    advantages: Float[Tensor, "G k"], entropies: Float[Tensor, "G k"], *, alpha: float, temperature: float
) -> Float[Tensor, "G k"]:
    """k · softmax((A + α H) / T) within each group: what an answer's loss is multiplied by, one on average.

    Answers that are good and of which the policy was not sure count most: entropy-guided sequence weighting.
    """
    return ((advantages + alpha * entropies) / temperature).softmax(dim=1) * advantages.shape[1]


def overlong_penalty(lengths: Float[Tensor, " N"], *, longest: int, buffer: int) -> Float[Tensor, " N"]:
    """DAPO's soft penalty (arXiv:2503.14476, Eq. 13).

    0 up to ``longest`` - ``buffer`` tokens, then falling to -1 at ``longest``.
    """
    return ((longest - buffer - lengths) / buffer).clamp(-1.0, 0.0)


def adapted_kl_weight(weight: float, *, kl: float, target: float, episodes: int, horizon: int) -> float:
    """The proportional controller of Ziegler et al. (arXiv:1909.08593, Sec. 2.2).

    weight · (1 + e · episodes / horizon) with e = kl / target - 1, kept within 0.2.
    """
    error = min(max(kl / target - 1, -0.2), 0.2)
    return weight * (1 + error * episodes / horizon)


def remembered_advantages(
    rewards: list[float], prompts: list[str], memory: dict[str, list[float]], *, size: int
) -> list[float]:
    """DDPO's advantages (arXiv:2305.13301, App. D): (r - mean) / (std + 1e-6) over a prompt's last rewards.

    ``memory`` keeps the last ``size`` rewards of each prompt, and is brought up to date; a prompt that has
    fewer is compared with all rewards of this batch. Population deviations, as in the authors' code.
    """
    for prompt, reward in zip(prompts, rewards, strict=True):
        memory[prompt] = [*memory.get(prompt, []), reward][-size:]
    batch = torch.tensor(rewards, dtype=torch.float64)
    statistics = {}
    for prompt in dict.fromkeys(prompts):
        own = torch.tensor(memory[prompt], dtype=torch.float64)
        known = own if len(own) >= size else batch
        statistics[prompt] = float(known.mean()), float(known.std(unbiased=False)) + 1e-6
    return [
        (reward - statistics[prompt][0]) / statistics[prompt][1]
        for prompt, reward in zip(prompts, rewards, strict=True)
    ]


def contrast_branches(advantages: Float[Tensor, "B b"], *, least: float) -> Float[Tensor, "B b"]:
    """Of the b pictures of each branching the best if its advantage is at least ``least``, and the worst if
    it is below -``least``; 0 for all others (B2-DiffuRL, arXiv:2503.11240, as in the authors' run_select.py).
    """
    places = torch.arange(advantages.shape[1], device=advantages.device)
    best = places == advantages.argmax(dim=1, keepdim=True)
    worst = places == advantages.argmin(dim=1, keepdim=True)
    teaches = (best & (advantages >= least)) | (worst & (advantages < -least))
    return torch.where(teaches, advantages, 0)
