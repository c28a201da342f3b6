"""ShortFT: a reward's gradient through a whole chain that is made short (Guo et al., arXiv:2507.22604).

1. Split the noise levels into parts. Each has LoRA weights of its own, on top of those of the parts before.
2. In each part a model of few steps that keeps to the trajectory (or the pipeline without an adapter) jumps
   from the first level to the last, and the trained model steps on. The gradient passes through all calls.
3. In stage i of training the parts before i are drawn with all their steps, and held; those from i on jump,
   and learn. The result is drawn with all its steps and no jump.

The authors' repository is empty. Jumps and full gradients are in the paper's abstract; levels, stacked parts
and stages in one published summary alone. That stages are equally long, and that a jump uses no trained
weight, was read nowhere.
"""

from typing import Any

from training.tuning.config import ShortFTConfig
from training.tuning.images.backprop import draw_last_steps
from training.tuning.images.gradient import add_values, backward, score_latents, with_gradient
from training.tuning.images.prompts import preview_prompts
from training.tuning.images.schedules import ddim
from training.tuning.images.shortcuts import ShortcutOnline, stage_of
from training.tuning.metrics import Means
from training.tuning.optim import make_optimizer, update
from training.tuning.run import Run


def train(run: Run) -> None:
    """Train a policy on a reward. See the module for the steps."""
    config: ShortFTConfig = run.config
    online = with_gradient(ShortcutOnline(run, reference=False))
    policy, total_steps = online.policy.denoiser, online.plan.total_steps
    optimizer = make_optimizer(policy.parameters(), config)
    for step in online.steps(policy, optimizer):
        means = Means()
        stage = stage_of(step, total_steps=total_steps, count=config.parts) if config.staged else 0
        chain = online.chain(stage)
        for part in online.starts(step):
            latents = draw_last_steps(
                online.short_denoiser(part.prompts, chain),
                ddim(chain.schedule, eta=0.0),
                part.noise,
                generators=part.generators,
                last=chain.last,
                recompute=config.gradient_checkpointing,
            )
            scored = score_latents(online, part.prompts, latents)
            backward(-scored.total, part)
            add_values(means, online, scored, -scored.total)
        with online.parts.held(stage):
            metrics = update(optimizer, config, step=step, total_steps=total_steps)
        metrics |= means.result() | {"stage": stage + 1.0, "calls": float(chain.schedule.steps)}
        online.end_step(step, metrics)

    online.publish()


def inspect(run: Run) -> dict[str, Any]:
    """The prompts as the policy will see them."""
    return preview_prompts(run)
