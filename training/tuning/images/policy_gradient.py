"""Policy gradients through the steps of chains: each denoising step is an action with a known density."""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from training.tuning.images.online import ImageOnline, Micro
from training.tuning.images.schedules import Latents, Sampler
from training.tuning.images.trajectories import Chain, Denoise, propose, step
from training.tuning.losses.policy_gradient import clipped_surrogate

Facts = dict[str, Float[Tensor, " N"]]


def surrogate(
    denoise: Denoise,
    sampler: Sampler,
    chain: Chain,
    index: int,
    advantages: Float[Tensor, " N"],
    *,
    clip: float,
    reference: Latents | None = None,
    beta: float = 0.0,
    held: Float[Tensor, " N"] | None = None,
) -> tuple[Float[Tensor, " N"], Facts]:
    """PPO's clipped objective of one step of the chains, plus β KL(policy ‖ reference) of that step, (N,).

    ``reference`` is what the reference says of the latents before the step. The KL is the exact one of two
    Gaussians with one std, Δmean²/2 std², as a mean over the numbers; in a flow that is
    |dt|/2 · (g(1-t)/2t + 1/g)² Δv² (arXiv:2505.05470, Sec. 3). Pictures with advantage 0 are left out of it.
    ``held``: how much the KL of each picture counts.
    """
    proposal = step(denoise, sampler, chain.before(index), index)
    logps, old = proposal.log_prob(chain.after(index)), chain.logps(index)
    losses = clipped_surrogate(logps, old, advantages, low=clip, high=clip)
    facts = {"ratio": (logps - old).exp().detach(), "kl": torch.zeros_like(old)}
    if reference is not None:
        kl = proposal.kl(propose(sampler, chain.before(index), reference, index))
        weights = (advantages != 0).to(kl) if held is None else held * (advantages != 0)
        losses = losses + beta * kl * weights
        facts["kl"] = kl.detach() * weights
    return losses, facts


def backward(
    online: ImageOnline,
    sampler: Sampler,
    micros: Sequence[Micro],
    advantages: Float[Tensor, " N"],
    steps: Sequence[int],
    *,
    clip: float,
    beta: float = 0.0,
    held: Float[Tensor, " N"] | None = None,
    anchor: dict[str, Tensor] | None = None,
) -> dict[str, float]:
    """Gradients of the mean loss over these steps of the pictures that teach something. Returns its parts.

    A micro-batch in which no picture has an advantage is not read. ``held``: how much the KL of each picture
    counts; ``anchor``: weights that it is taken from in place of the start.
    """
    count = max(1, sum(int((advantages[micro.rows] != 0).sum()) for micro in micros) * len(steps))
    totals = {"loss": 0.0, "clip_share": 0.0, "ratio_error": 0.0} | ({"kl": 0.0} if beta else {})
    for micro in micros:
        own = advantages[micro.rows]
        if not bool((own != 0).any()):
            continue
        denoise = online.denoiser(online.policy.denoiser, micro.prompts)
        for index in steps:
            losses, facts = surrogate(
                denoise,
                sampler,
                micro.chain,
                index,
                own,
                clip=clip,
                reference=reference_says(online, sampler, micro, index, anchor=anchor) if beta else None,
                beta=beta,
                held=None if held is None else held[micro.rows],
            )
            loss = losses.sum() / count
            loss.backward()
            away = (facts["ratio"] - 1).abs()
            totals["loss"] += float(loss.detach())
            totals["clip_share"] += float(((away > clip) & (own != 0)).sum()) / count
            totals["ratio_error"] = max(totals["ratio_error"], float(away.max()))
            if beta:
                totals["kl"] += float(facts["kl"].sum()) / count
    return totals


@torch.no_grad()
def reference_says(
    online: ImageOnline,
    sampler: Sampler,
    micro: Micro,
    index: int,
    *,
    anchor: dict[str, Tensor] | None = None,
) -> Tensor:
    """What the start of training, or ``anchor``, predicts before a step, with guidance and no gradient."""
    policy = online.policy
    with policy.as_reference() if anchor is None else policy.as_trained(anchor) as module:
        denoise = online.denoiser(module, micro.prompts)
        said: Tensor = denoise(micro.chain.before(index), float(sampler.schedule.times[index]))
    return said
