"""Objectives of online methods: one function per paper, per token or per answer; the caller reduces.

Throughout, ``logps`` are the policy's log-probabilities with gradient, ``old`` those of the policy that
sampled, ``reference`` those of the start; ``advantages`` have been computed without gradient. All are losses:
to be minimised.
"""

import torch
from jaxtyping import Bool, Float
from torch import Tensor


def clipped_surrogate(
    logps: Float[Tensor, " *C"],
    old: Float[Tensor, " *C"],
    advantages: Float[Tensor, " *C"],
    *,
    low: float,
    high: float,
) -> Float[Tensor, " *C"]:
    """PPO's clipped objective, Eq. 7 of arXiv:1707.06347: -min(rho A, clip(rho, 1 - low, 1 + high) A).

    ``high`` above ``low`` is the "clip-higher" of DAPO (arXiv:2503.14476, Eq. 10).
    """
    ratio = torch.exp(logps - old)
    return -torch.minimum(ratio * advantages, ratio.clamp(1 - low, 1 + high) * advantages)


def clamped_surrogate(
    logps: Float[Tensor, " *C"], old: Float[Tensor, " *C"], advantages: Float[Tensor, " *C"], *, clip: float
) -> Float[Tensor, " *C"]:
    """-A clamp(rho, 1 - clip, 1 + clip), as the code of DPOK (arXiv:2305.16381) has it.

    Without PPO's minimum: outside of the range nothing is learnt, in whichever direction it was left.
    """
    return -advantages * torch.exp(logps - old).clamp(1 - clip, 1 + clip)


def sequence_surrogate(
    logps: Float[Tensor, " N"],
    old: Float[Tensor, " N"],
    lengths: Float[Tensor, " N"],
    advantages: Float[Tensor, " N"],
    *,
    low: float,
    high: float,
) -> Float[Tensor, " N"]:
    """GSPO (arXiv:2507.18071, Eq. 5-6): the clipped objective of s = (pi / pi_old)^(1 / |y|) of an answer.

    ``logps`` and ``old`` are sums over the answer's ``lengths`` tokens.
    """
    return clipped_surrogate(logps / lengths, old / lengths, advantages, low=low, high=high)


def clipped_importance(
    logps: Float[Tensor, " C"],
    old: Float[Tensor, " C"],
    advantages: Float[Tensor, " C"],
    *,
    low: float,
    high: float,
) -> Float[Tensor, " C"]:
    """CISPO (MiniMax-M1, arXiv:2506.13585, Eq. 4): -sg(clip(rho, 1 - low, 1 + high)) A log pi.

    The weight is clipped and not the gradient, so that no token stops learning.
    """
    weight = torch.exp(logps - old).clamp(1 - low, 1 + high).detach()
    return -weight * advantages * logps


def policy_gradient(logps: Float[Tensor, " *C"], advantages: Float[Tensor, " *C"]) -> Float[Tensor, " *C"]:
    """REINFORCE (Williams, 1992): -A log pi."""
    return -advantages * logps


def advantage_regression(
    logps: Float[Tensor, " C"],
    reference: Float[Tensor, " C"],
    advantages: Float[Tensor, " C"],
    *,
    beta: float,
) -> Float[Tensor, " C"]:
    """APA (arXiv:2306.02231): (log pi - log pi_init - A / beta)^2, per token.

    Its optimum is pi_init exp(A / beta), with the normaliser taken as 1.
    """
    return (logps - reference - advantages / beta) ** 2


def negative_aware(
    logps: Float[Tensor, " C"],
    old: Float[Tensor, " C"],
    correct: Bool[Tensor, " C"],
    success: Float[Tensor, " C"],
    *,
    floor: float,
) -> Float[Tensor, " C"]:
    """NFT (arXiv:2505.18116): supervised on right answers, and on wrong ones through an implicit policy.

    With rho = pi / pi_old and r = ``success``, the share of the prompt's answers that are right: -ln rho for
    right tokens, -ln max((1 - r rho) / (1 - r), floor) for wrong ones, the floor passed straight through.
    """
    ratio = torch.exp(logps - old)
    rate = success.clamp(0.02, 0.98)
    negative = (1 - rate * ratio) / (1 - rate)
    negative = negative + (negative.clamp(min=floor) - negative).detach()
    # The unused branch is set to one first, so that its gradient is no 0 · inf.
    return -torch.where(
        correct, logps - old, torch.log(torch.where(correct, torch.ones_like(ratio), negative))
    )


def prompt_weight(success: Float[Tensor, " *N"], *, kind: str) -> Float[Tensor, " *N"]:
    """NFT's weight of a prompt, by its share r of right answers: ``hard`` 1 - r, ``even`` sqrt((1 - r) / r).

    The second makes NFT's gradient that of GRPO on policy.
    """
    rate = success.clamp(0.02, 0.98)
    return 1 - rate if kind == "hard" else torch.sqrt((1 - rate) / rate)


def generator_divergence(
    logps: Float[Tensor, " C"], reference: Float[Tensor, " C"], *, kind: str
) -> Float[Tensor, " C"]:
    """DPH-RL (arXiv:2509.07430): f(u) of u = pi / pi_0 on tokens that pi_0 sampled.

    ``forward_kl``: u - 1 - ln u, whose mean under pi_0 is KL(pi_0 || pi). ``js_divergence``:
    u ln u - (u + 1) ln((u + 1) / 2).
    """
    gap = logps - reference
    ratio = torch.exp(gap)
    if kind == "forward_kl":
        return ratio - 1 - gap
    return ratio * gap - (ratio + 1) * torch.log((ratio + 1) / 2)


def kl_estimate(
    logps: Float[Tensor, " *C"], reference: Float[Tensor, " *C"], *, kind: str
) -> Float[Tensor, " *C"]:
    """Estimates of KL(pi || pi_ref) from tokens that pi sampled (Schulman, "Approximating KL", 2020).

    k1: the log-ratio, unbiased, of either sign. k2: half its square. k3: exp(-g) - 1 + g of the log-ratio g,
    unbiased and never negative (GRPO, arXiv:2402.03300, Eq. 4).
    """
    gap = logps - reference
    if kind == "k1":
        return gap
    return 0.5 * gap**2 if kind == "k2" else torch.exp(-gap) - 1 + gap


def clipped_value_loss(
    values: Float[Tensor, " C"], old: Float[Tensor, " C"], returns: Float[Tensor, " C"], *, clip: float
) -> Float[Tensor, " C"]:
    """PPO's value loss (as in the authors' code): half the larger of two squared errors.

    One is that of the values, one of the values kept within ``clip`` of the ``old``.
    """
    near = torch.minimum(torch.maximum(values, old - clip), old + clip)
    return 0.5 * torch.maximum((values - returns) ** 2, (near - returns) ** 2)
