"""Direct reward fine-tuning: DRaFT-K and DRaFT-LV (arXiv:2309.17400), AlignProp (arXiv:2310.03739).

1. Draw pictures of the step's prompts with the sampler that the result is used with.
2. The last ``last_steps`` denoising steps carry a gradient; those before are constants. DRaFT-LV noises the
   pictures again to the last step and averages over ``redraws``.
3. Minus the mean reward is the loss.
"""

from typing import Any

import torch

from training.tuning.images.backprop import draw_last_steps, redraw_last_step
from training.tuning.images.gradient import add_values, backward, open_gradient, score_latents, step_generator
from training.tuning.images.prompts import preview_prompts
from training.tuning.images.schedules import ddim
from training.tuning.images.trajectories import sample
from training.tuning.metrics import Means
from training.tuning.optim import make_optimizer, update
from training.tuning.run import Run

USUAL = (0.16, 0.1)  # AlignProp: 8 of 50 steps, standard deviation 5


def train(run: Run) -> None:
    """Train a policy on a reward. See the module for the steps."""
    config = run.config
    online = open_gradient(run)
    policy, sampler = online.policy.denoiser, ddim(online.schedule, eta=config.eta)
    optimizer = make_optimizer(policy.parameters(), config)
    for step in online.steps(policy, optimizer):
        means = Means()
        last = how_many(run, step, sampler.steps)
        for part in online.starts(step):
            denoise = online.denoiser(policy, part.prompts)
            if config.redraws:
                clean = sample(denoise, sampler, part.noise, generators=part.generators).final
                drawn = redraw_last_step(
                    denoise, sampler, clean, generators=part.generators, count=config.redraws
                )
            else:
                recompute = config.gradient_checkpointing and last > 1
                drawn = [
                    draw_last_steps(
                        denoise,
                        sampler,
                        part.noise,
                        generators=part.generators,
                        last=last,
                        recompute=recompute,
                    )
                ]
            for latents in drawn:
                scored = score_latents(online, part.prompts, latents)
                backward(-scored.total / len(drawn), part)
                add_values(means, online, scored, -scored.total)
        metrics = means.result() | {"steps_with_gradient": float(last)}
        metrics |= update(optimizer, config, step=step, total_steps=online.plan.total_steps)
        online.end_step(step, metrics)

    online.publish()


def how_many(run: Run, step: int, steps: int) -> int:
    """The number of last steps with a gradient, the same for all pictures of a step."""
    config = run.config
    most = steps if config.last_steps is None else min(config.last_steps, steps)
    generator = step_generator(run, step)
    if config.last_steps_by == "uniform":
        return int(torch.randint(1, most + 1, (), generator=generator))
    if config.last_steps_by == "normal":
        mean, std = (share * steps for share in USUAL)
        return min(steps, max(1, round(float(mean + std * torch.randn((), generator=generator)))))
    return most


def inspect(run: Run) -> dict[str, Any]:
    """The prompts as the policy will see them."""
    return preview_prompts(run)
