"""DiffusionNFT: reinforcement on the forward process (Zheng et al., arXiv:2509.16117).

1. Read the prompts. The old policy, which draws, follows the trained one as a moving average.
2. Per step: draw ``num_generations`` pictures of each prompt without noise on the way, and score them. The
   advantage compares a picture with those of its prompt; r says from 0 to 1 how good it is.
3. ``updates`` times: noise the pictures again, and move the prediction towards them by r, away by 1 - r,
   both as seen from the old policy; a weak pull back to the start. No chain is kept, and any sampler will do.
"""

from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Bool
from torch import Tensor

from training.tuning.images.forward import clean_scale, noised, predict
from training.tuning.images.online import Drawn, ImageOnline
from training.tuning.images.prompts import preview_prompts
from training.tuning.images.schedules import ddim
from training.tuning.losses.advantages import Scale, group_relative
from training.tuning.losses.forward_process import diffusion_nft_loss, kept_share, mean_square, optimality
from training.tuning.optim import make_optimizer, update
from training.tuning.run import Run


def train(run: Run) -> None:
    """Train a policy on a reward. See the module for the steps."""
    learn(ImageOnline(run, reference=run.config.anchor > 0))


def learn(
    online: ImageOnline,
    *,
    scale: Scale = "batch",
    teaches: Callable[[Drawn], Bool[Tensor, " G"]] | None = None,
) -> None:
    """The steps of a run. ``scale``: what advantages are divided by. ``teaches``: which of a step's prompts
    are learnt from; None: all.
    """
    config = online.run.config
    sampler = ddim(online.schedule, eta=0.0)
    policy = online.policy
    old = policy.copy_trained()
    optimizer = make_optimizer(policy.denoiser.parameters(), config)
    for step in online.steps(policy.denoiser, optimizer, keep=old):
        with policy.as_trained(old) as module:
            drawn = online.draw(step, sampler, module=module)
        metrics = dict(drawn.metrics)
        kept = torch.ones(len(drawn.rewards), dtype=torch.bool)
        if teaches is not None:
            kept = teaches(drawn).cpu()
            metrics["teaching"] = float(kept.float().mean())
        for number in range(config.updates):
            metrics |= backward(online, drawn, old, key=f"{step}/{number}", scale=scale, kept=kept)
            metrics |= update(optimizer, config, step=step, total_steps=online.plan.total_steps)
        stays = kept_share(
            step,
            start=config.old_start,
            rate=config.old_rate,
            delay=config.old_delay,
            most=config.old_most,
        )
        policy.mix_trained(old, share=1 - stays)
        online.end_step(step, metrics | {"old_kept": stays})

    online.publish()


def backward(
    online: ImageOnline,
    drawn: Drawn,
    old: dict[str, Tensor],
    *,
    key: str,
    scale: Scale = "batch",
    kept: Bool[Tensor, " G"],
) -> dict[str, float]:
    """Gradients of the mean loss over all pictures of the kept prompts; returns what is logged."""
    config, policy, family = online.run.config, online.policy, online.family
    optimal = optimality(group_relative(drawn.rewards, scale=scale), limit=config.advantage_clip).flatten()
    counts = kept.to(optimal).repeat_interleave(drawn.rewards.shape[1])
    number = max(1.0, float(counts.sum()))
    total = {"loss": 0.0, "anchor": 0.0}
    for here in noised(online, drawn, key=key):
        if not bool(counts[here.rows].any()):
            continue
        with torch.no_grad(), policy.as_trained(old) as module:
            before, _ = predict(online, module, here)
        said, target = predict(online, policy.denoiser, here)
        errors_of = None
        if config.normalise:
            errors_of = clean_scale(family, here.groups.timesteps[here.groups.owner])
        losses = diffusion_nft_loss(
            said, before, target, optimal[here.rows], beta=config.beta, scale=errors_of
        ) * (config.advantage_clip / config.beta if config.normalise else 1.0)
        if config.anchor > 0:
            with torch.no_grad(), policy.as_reference() as module:
                start, _ = predict(online, module, here)
            away = mean_square(said - start)
            total["anchor"] += float((counts[here.rows] * away.detach()).sum()) / number
            losses = losses + config.anchor * away
        loss = (counts[here.rows] * losses).sum() / number
        loss.backward()
        total["loss"] += float(loss.detach())
    return total


def inspect(run: Run) -> dict[str, Any]:
    """The prompts as the policy will see them."""
    return preview_prompts(run)
