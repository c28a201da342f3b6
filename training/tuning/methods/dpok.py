"""DPOK: policy gradient with a KL divergence and a learned baseline (Fan et al., arXiv:2305.16381).

1. Read the prompts. Every denoising step with noise (DDIM with η) is an action with a density.
2. Per step: draw ``num_generations`` pictures of each prompt, keep their chains, and score them. The
   rewards count as they are.
3. ``value_updates`` passes: a small network learns what a chain will earn, from its noisy states.
4. ``updates`` passes: what a picture earned beyond that makes its steps likelier, and the KL divergence
   from the start holds them. Where a ratio leaves the clip range, its step stops learning.
"""

from typing import Any

import torch
from torch import Tensor, nn

from training.tuning.config import DPOKConfig
from training.tuning.images.online import Drawn, ImageOnline, Micro
from training.tuning.images.policy_gradient import reference_says
from training.tuning.images.prompts import preview_prompts
from training.tuning.images.schedules import Sampler, ddim
from training.tuning.images.trajectories import Proposal, propose, step
from training.tuning.images.values import LatentValue
from training.tuning.losses.policy_gradient import clamped_surrogate
from training.tuning.optim import make_optimizer, update
from training.tuning.run import Run


def train(run: Run) -> None:
    """Train a policy on a reward. See the module for the steps."""
    config: DPOKConfig = run.config
    online = ImageOnline(run, reference=config.beta > 0)
    sampler = ddim(online.schedule, eta=config.eta)
    value = value_of(online)
    optimizer = make_optimizer(
        online.policy.denoiser.parameters(),
        config,
        others=[(value.parameters(), config.value_learning_rate)],
    )
    trained = nn.ModuleDict({"policy": online.policy.denoiser, "value": value})
    for number in online.steps(trained, optimizer):
        drawn = online.draw(number, sampler)
        metrics = dict(drawn.metrics)
        total = online.plan.total_steps
        for again in range(config.value_updates):
            steps = online.chosen_steps(sampler.stochastic, key=f"{number}/value/{again}")
            metrics |= fit_value(online, value, sampler, drawn, steps)
            update(optimizer, config, step=number, total_steps=total)
        for again in range(config.updates):
            key = f"{number}/{again}"
            steps = online.chosen_steps(sampler.stochastic, key=key)
            for micros in online.minibatches(drawn, key=key):
                metrics |= backward(online, value, sampler, drawn, micros, steps)
                metrics |= update(optimizer, config, step=number, total_steps=total)
        online.end_step(number, metrics)

    online.publish()


def value_of(online: ImageOnline) -> LatentValue:
    """A baseline for the latents and prompts of the family, float32."""
    features = online.encoded.rows(online.prompts[:1])["embeddings"].shape[-1]
    channels = online.family.latent_shape(online.height, online.width)[0]
    return LatentValue(channels=channels, features=features).to(online.family.device)


def read_value(online: ImageOnline, value: LatentValue, sampler: Sampler, micro: Micro, index: int) -> Tensor:
    """What the pictures of a micro-batch will earn, (N,), seen before a step."""
    sigma = float(sampler.schedule.sigmas[index])
    return value(micro.chain.before(index), online.encoded.rows(micro.prompts), sigma)


def fit_value(
    online: ImageOnline, value: LatentValue, sampler: Sampler, drawn: Drawn, steps: list[int]
) -> dict[str, float]:
    """Gradients of the mean squared error of the values. Returns it."""
    rewards, total = drawn.rewards.flatten(), 0.0
    for micro in drawn.micros:
        for index in steps:
            errors = (read_value(online, value, sampler, micro, index) - rewards[micro.rows]).square()
            loss = errors.sum() / (len(rewards) * len(steps))
            loss.backward()
            total += float(loss.detach())
    return {"loss/value": total}


def backward(
    online: ImageOnline,
    value: LatentValue,
    sampler: Sampler,
    drawn: Drawn,
    micros: list[Micro],
    steps: list[int],
) -> dict[str, float]:
    """Gradients of the mean loss of these steps. Returns its parts."""
    config, rewards = online.run.config, drawn.rewards.flatten()
    count = sum(len(micro.prompts) for micro in micros) * len(steps)
    totals = {"loss": 0.0, "clip_share": 0.0, "kl": 0.0, "ratio_error": 0.0}
    for micro in micros:
        denoise = online.denoiser(online.policy.denoiser, micro.prompts)
        for index in steps:
            proposal = step(denoise, sampler, micro.chain.before(index), index)
            logps = proposal.log_prob(micro.chain.after(index))
            old = micro.chain.logps(index)
            with torch.no_grad():
                gains = rewards[micro.rows] - read_value(online, value, sampler, micro, index)
            losses = clamped_surrogate(logps, old, config.reward_weight * gains, clip=config.clip)
            if config.beta:
                said = reference_says(online, sampler, micro, index)
                other = propose(sampler, micro.chain.before(index), said, index)
                kl = divergence(proposal, other, kind=config.kl)
                losses = losses + config.beta * kl
                totals["kl"] += float(kl.detach().sum()) / count
            loss = losses.sum() / count
            loss.backward()
            away = (logps.detach() - old).exp().sub(1).abs()
            totals["loss"] += float(loss.detach())
            totals["clip_share"] += float((away > config.clip).sum()) / count
            totals["ratio_error"] = max(totals["ratio_error"], float(away.max()))
    return totals


def divergence(proposal: Proposal, reference: Proposal, *, kind: str) -> Tensor:
    """Of a step, (N,), as means over the numbers. step: KL(policy ‖ start) = κ² Δε² / 2 std², κ = dμ/dε.

    epsilon: Δε², as the authors' code has it, which weighs every step alike.
    """
    if kind == "step":
        return proposal.kl(reference)
    return (proposal.noise - reference.noise).square().flatten(1).mean(dim=1)


def inspect(run: Run) -> dict[str, Any]:
    """The prompts as the policy will see them."""
    return preview_prompts(run)
