"""Reward feedback learning: ReFL (arXiv:2304.05977), and from pictures ImageReFL.

1. Denoise without a gradient up to a late step, drawn at random; the step itself carries one.
2. The picture that it points at is decoded and scored: minus the reward, or what is missing to a ``goal``.
3. With ``start: pictures`` a preferred picture of the data is noised and denoised instead of pure noise, and
   the error of denoising it is added: the model keeps what real pictures look like. With ``uncertainty``
   what two neighbouring steps disagree about counts less (Ctrl-U).
"""

from typing import Any

import torch
from torch import Tensor

from training.tuning.config import PairKeys
from training.tuning.data import Group, plain_text
from training.tuning.errors import BadInput
from training.tuning.images.backprop import noised, point_at_clean
from training.tuning.images.data import Frame, open_image, to_pixels
from training.tuning.images.gradient import add_values, backward, open_gradient, score_latents, step_generator
from training.tuning.images.online import ImageOnline, Start
from training.tuning.images.prompts import preview_prompts
from training.tuning.images.schedules import Sampler, ddim
from training.tuning.images.trajectories import step as take
from training.tuning.losses.reward_gradient import refl_loss, uncertain_loss
from training.tuning.metrics import Means
from training.tuning.optim import make_optimizer, update
from training.tuning.pairs import make_pairs
from training.tuning.rewards.compose import Scored
from training.tuning.run import Run

Pictures = dict[str, Tensor]


def train(run: Run) -> None:
    """Train a policy on a reward. See the module for the steps."""
    config = run.config
    online = open_gradient(run)
    policy, sampler = online.policy.denoiser, ddim(online.schedule, eta=0.0)
    pictures = encode_pictures(online) if config.start == "pictures" else {}
    optimizer = make_optimizer(policy.parameters(), config)
    for step in online.steps(policy, optimizer):
        means = Means()
        first = min(round(config.earliest * sampler.steps), sampler.steps - 1)
        chance = step_generator(run, step)
        at = int(torch.randint(first, sampler.steps, (), generator=chance))
        plain = not pictures or (config.plain_every is not None and step % config.plain_every == 0)
        for part in online.starts(step):
            if plain:
                losses, scored = from_noise(online, sampler, part, at)
            else:
                losses, scored = from_pictures(online, sampler, part, pictures, first, at)
            backward(losses, part)
            add_values(means, online, scored, losses)
        metrics = means.result()
        metrics |= update(optimizer, config, step=step, total_steps=online.plan.total_steps)
        online.end_step(step, metrics)

    online.publish()


def from_noise(online: ImageOnline, sampler: Sampler, part: Start, at: int) -> tuple[Tensor, Scored]:
    """Losses (N,) of pictures that are denoised from nothing."""
    denoise = online.denoiser(online.policy.denoiser, part.prompts)
    clean = point_at_clean(denoise, sampler, part.noise, generators=part.generators, at=at)
    scored = score_latents(online, part.prompts, clean)
    return lost(online, scored), scored


def from_pictures(
    online: ImageOnline, sampler: Sampler, part: Start, pictures: Pictures, first: int, at: int
) -> tuple[Tensor, Scored]:
    """Losses (N,) of pictures of the data, noised to step ``first`` and denoised up to ``at``."""
    config, schedule = online.run.config, online.schedule
    denoise = online.denoiser(online.policy.denoiser, part.prompts)
    real = torch.stack([pictures[prompt] for prompt in part.prompts]).to(part.noise)
    noisy = noised(schedule, real, part.noise, first)
    if config.uncertainty:
        near = min(first + 1, sampler.steps - 1)
        clean = take(denoise, sampler, noisy, first).clean
        other = take(denoise, sampler, noised(schedule, real, part.noise, near), near).clean
        scored = score_latents(online, part.prompts, clean)
        apart = (scored.total - score_latents(online, part.prompts, other).total).abs()
        losses = uncertain_loss(lost(online, scored), apart)
    else:
        clean = point_at_clean(denoise, sampler, noisy, generators=part.generators, first=first, at=at)
        scored = score_latents(online, part.prompts, clean)
        losses = lost(online, scored)
    if config.picture_weight:
        away = take(denoise, sampler, noisy, first).noise - part.noise
        losses = losses + config.picture_weight * away.square().flatten(1).mean(dim=1)
    return losses, scored


def lost(online: ImageOnline, scored: Scored) -> Tensor:
    """Minus the rewards, or what is missing to the goal."""
    goal = online.run.config.goal
    return -scored.total if goal is None else refl_loss(scored.total, goal=goal)


def encode_pictures(online: ImageOnline) -> Pictures:
    """Latents of the preferred picture of every prompt, the first row's if it has several."""
    run, frame = online.run, Frame(online.height, online.width)
    found: Pictures = {}
    for group in run.train:
        prompt = plain_text(group.prompt)
        if prompt not in found and (best := preferred(group)) is not None:
            run.check_stop()
            picture = open_image(run.dir.media / str(group.candidates[best].image))
            found[prompt] = online.family.encode_images(to_pixels(frame.apply(picture))[None])[0]
    for group in run.train:
        if plain_text(group.prompt) in online.prompts and plain_text(group.prompt) not in found:
            problem = "no preferred picture to start from; start from noise, or leave the prompt out"
            raise BadInput(problem, file=run.dir.train_file, line=group.line)
    return found


def preferred(group: Group) -> int | None:
    """The picture that won most often, or the only one; None if there is none or nobody chose."""
    if len(group.candidates) == 1:
        return 0
    wins = [0.0] * len(group.candidates)
    for pair in make_pairs(group, PairKeys()):
        wins[pair.chosen] += pair.weight
        wins[pair.rejected] -= pair.weight
    return max(range(len(wins)), key=lambda at: wins[at]) if any(wins) else None


def inspect(run: Run) -> dict[str, Any]:
    """The prompts as the policy will see them."""
    return preview_prompts(run)
