"""Negative preference optimisation without data (Self-NPO; Wang et al., arXiv:2505.11777).

The result is not drawn with: it is what a model is guided away from (``image_generate``, ``guide_away``).

1. Read the prompts. A teacher follows the trained model as a moving average.
2. Per step: the teacher begins to draw pictures from noise, without the prompt, stops after a random number
   of steps k, and says what picture it sees in x_k. That unfinished guess is the target.
3. Noise x_k further to a random level and let the model, told the prompt, find the target: so it learns what
   is dull, and knows less of the prompt.

The authors' script starts from noised pictures; here it is noise alone, and no data, as the paper says.
"""

import random
from typing import Any

import torch
from torch import Tensor

from training.tuning.config import SelfNPOConfig
from training.tuning.errors import BadInput
from training.tuning.images.online import ImageOnline, Start
from training.tuning.images.preparation import autocast
from training.tuning.images.prompts import preview_prompts
from training.tuning.images.renoising import Levels, levels_of, renoised
from training.tuning.images.schedules import Sampler, ddim
from training.tuning.images.trajectories import draw_noise, guided_denoiser, sample, step, told_guidance
from training.tuning.losses.pseudo_huber import pseudo_huber
from training.tuning.optim import make_optimizer, update
from training.tuning.run import Run


def train(run: Run) -> None:
    """Train a negative model. See the module for the steps."""
    config: SelfNPOConfig = run.config
    online = ImageOnline(run, reference=False)
    policy, sampler = online.policy, ddim(online.schedule, eta=0.0)
    if sampler.steps < 2:
        problem = "drawing must stop on the way: take two steps at least"
        raise BadInput(problem, field="config.num_inference_steps")
    levels, teacher = levels_of(online.family), policy.copy_trained()
    optimizer = make_optimizer(policy.denoiser.parameters(), config)
    for number in online.steps(policy.denoiser, optimizer, keep=teacher):
        until = random.Random(f"{run.seed}/until/{number}").randrange(1, sampler.steps)
        total = 0.0
        for part in online.starts(number):
            losses = losses_of(online, sampler, levels, teacher, part, until=until)
            (losses.sum() / part.total).backward()
            total += float(losses.detach().sum()) / part.total
        metrics = {"loss": total, "stopped_after": float(until)}
        metrics |= update(optimizer, config, step=number, total_steps=online.plan.total_steps)
        policy.mix_trained(teacher, share=1 - config.teacher_kept)
        online.end_step(number, metrics)

    online.publish()


def losses_of(
    online: ImageOnline,
    sampler: Sampler,
    levels: Levels,
    teacher: dict[str, Tensor],
    part: Start,
    *,
    until: int,
) -> Tensor:
    """Of some pictures that the teacher stops after ``until`` steps, (N,)."""
    config, family = online.run.config, online.family
    noisy, target = guess(online, sampler, teacher, part, until=until)
    alpha, sigma = (float(table[until]) for table in (sampler.schedule.alphas, sampler.schedule.sigmas))
    noisier = levels.noisier_than(alpha, sigma)
    draws = [int(torch.randint(len(noisier), (), generator=one)) for one in part.generators]
    timesteps = torch.tensor([noisier[at] for at in draws], device=noisy.device)
    to_alpha, to_sigma = levels.at(timesteps, noisy)
    noise = draw_noise(noisy, part.generators)
    again = renoised(noisy, noise, alpha=alpha, sigma=sigma, to_alpha=to_alpha, to_sigma=to_sigma)
    told = told_guidance(family, online.encoded.rows(part.prompts), scale=1.0)
    half = autocast(config)
    with torch.autocast(again.device.type, dtype=half, enabled=half is not None):
        said = family.predict(online.policy.denoiser, again, timesteps, told)
    return pseudo_huber(levels.clean(again, said.float(), timesteps), target, scale=config.huber)


@torch.no_grad()
def guess(
    online: ImageOnline, sampler: Sampler, teacher: dict[str, Tensor], part: Start, *, until: int
) -> tuple[Tensor, Tensor]:
    """x_k after ``until`` steps without prompt, and x̂_0 as the teacher sees it there."""
    empty = told_guidance(online.family, online.encoded.without(part.prompts), scale=1.0)
    with online.policy.as_trained(teacher) as module:
        denoise = guided_denoiser(online.family, module, empty, autocast=autocast(online.run.config))
        noisy = sample(denoise, sampler, part.noise, generators=part.generators, end=until).final
        return noisy, step(denoise, sampler, noisy, until).clean


def inspect(run: Run) -> dict[str, Any]:
    """The prompts as the model will see them."""
    return preview_prompts(run)
