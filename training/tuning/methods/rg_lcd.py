"""Reward-guided latent consistency distillation: RG-LCD (Li et al., arXiv:2403.11027).

1. Noise the preferred picture of each prompt to a level of the solver. The student says what picture it sees.
2. The original model, with guidance, moves one step along its path; the picture that the student's moving
   average sees from there is the target. The student learns it, less ``beta`` times the reward of its own.
3. The reward's gradient comes from a proxy: a small reward model of latents, which then learns to rank the
   student's, the target's and the real picture as the rewards do. Or from the rewards themselves.
4. The result draws in few steps: with diffusers' ``LCMScheduler`` and a guidance of 1.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from training.tuning.config import RGLCDConfig
from training.tuning.errors import BadInput
from training.tuning.images.consistency import Said, jumps, picture, solved
from training.tuning.images.data import to_image
from training.tuning.images.gradient import score_latents
from training.tuning.images.online import ImageOnline, Start
from training.tuning.images.preparation import autocast
from training.tuning.images.prompts import preview_prompts
from training.tuning.images.renoising import levels_of
from training.tuning.images.values import LatentValue
from training.tuning.losses.latent_proxy import ranking_distillation
from training.tuning.losses.pseudo_huber import pseudo_huber
from training.tuning.methods.dpok import value_of
from training.tuning.methods.refl import Pictures, encode_pictures
from training.tuning.optim import make_optimizer, update
from training.tuning.run import Run


@dataclass(frozen=True)
class Seen:
    """Pictures of some prompts, without gradient: the student's, the target's and the real ones."""

    prompts: list[str]
    latents: list[Tensor]


def train(run: Run) -> None:
    """Distil a student. See the module for the steps."""
    config: RGLCDConfig = run.config
    online = ImageOnline(run, reference=True)
    if online.family.reads_guidance:
        raise BadInput("a model that is distilled already has no guidance to learn", file=run.base)
    if config.through == "pixels":
        online.rewards.differentiable()
    pictures, policy = encode_pictures(online), online.policy
    proxy = value_of(online) if config.through == "proxy" else None
    target = policy.copy_trained()
    others = [(proxy.parameters(), config.latent_reward_learning_rate)] if proxy else []
    optimizer = make_optimizer(policy.denoiser.parameters(), config, others=others)
    trained = nn.ModuleDict({"policy": policy.denoiser, "proxy": proxy}) if proxy else policy.denoiser
    total_steps = online.plan.total_steps
    for step in online.steps(trained, optimizer, keep=target):
        totals, seen = dict.fromkeys(("loss", "distance", "reward"), 0.0), []
        for part in online.starts(step):
            distances, rewards, kept = read(online, part, pictures, target, proxy)
            losses = distances - config.beta * rewards
            (losses.sum() / part.total).backward()
            for name, values in (("loss", losses), ("distance", distances), ("reward", rewards)):
                totals[name] += float(values.detach().sum()) / part.total
            seen.append(kept)
        metrics = totals | update(optimizer, config, step=step, total_steps=total_steps)
        if proxy is not None:
            metrics |= teach(online, proxy, seen)
            update(optimizer, config, step=step, total_steps=total_steps)
        policy.mix_trained(target, share=1 - config.target_kept)
        online.end_step(step, metrics)

    online.publish()


def read(
    online: ImageOnline, part: Start, pictures: Pictures, target: dict[str, Tensor], proxy: LatentValue | None
) -> tuple[Tensor, Tensor, Seen]:
    """Distances and rewards of the student's pictures, (N,), and the pictures themselves."""
    config: RGLCDConfig = online.run.config
    levels, policy, prompts = levels_of(online.family), online.policy, part.prompts
    real = torch.stack([pictures[prompt] for prompt in prompts]).to(part.noise)
    ways = jumps(config.solver_steps, timesteps=online.family.train_timesteps)
    chosen = [ways[int(torch.randint(len(ways), (), generator=one))] for one in part.generators]
    start, end = (torch.tensor([way[side] for way in chosen], device=real.device) for side in (0, 1))
    low, high = config.guidance_low, config.guidance_high
    guidance = torch.stack([low + (high - low) * torch.rand((), generator=one) for one in part.generators])
    alpha, sigma = levels.at(start, real)
    noisy = alpha * real + sigma * part.noise
    student = picture(levels, says(online, policy.denoiser, prompts), noisy, start)
    with torch.no_grad():
        with policy.as_reference() as teacher:
            clean, empty = (
                levels.clean(noisy, says(online, teacher, told)(noisy, start), start)
                for told in (prompts, [""] * len(prompts))
            )
        nearer = solved(levels, noisy, clean, empty, guidance=guidance, start=start, end=end)
        with policy.as_trained(target) as follower:
            goal = picture(levels, says(online, follower, prompts), nearer, end)
    if config.distance == "huber":
        distances = pseudo_huber(student, goal, scale=config.huber)
    else:
        distances = (student - goal).square().flatten(1).mean(dim=1)
    if proxy is None:
        rewards = score_latents(online, prompts, student).total
    else:
        frozen = {name: value.detach() for name, value in proxy.named_parameters()}
        rewards = functional_call(proxy, frozen, (student, online.encoded.rows(prompts), 0.0))
    return distances, rewards, Seen(prompts, [student.detach(), goal, real])


def says(online: ImageOnline, module: nn.Module, prompts: list[str]) -> Said:
    """What a denoiser predicts at these prompts, float32."""
    rows, half = online.encoded.rows(prompts), autocast(online.run.config)

    def said(noisy: Tensor, timesteps: Tensor) -> Tensor:
        with torch.autocast(noisy.device.type, dtype=half, enabled=half is not None):
            return online.family.predict(module, noisy, timesteps, rows).float()

    return said


def teach(online: ImageOnline, proxy: LatentValue, seen: list[Seen]) -> dict[str, float]:
    """Gradients of the proxy's mean error about the rewards' rankings. Returns it."""
    number, total = sum(len(one.prompts) for one in seen), 0.0
    for one in seen:
        rows = online.encoded.rows(one.prompts)
        said = torch.stack([proxy(latents, rows, 0.0) for latents in one.latents])
        with torch.no_grad():
            decoded = [online.family.decode_latents(latents) for latents in one.latents]
            images = [to_image(pixels) for version in decoded for pixels in version]
            scored = online.rewards.parts(one.prompts * len(decoded), images).total
        loss = ranking_distillation(said, scored.to(said).view(said.shape)).sum() / number
        loss.backward()
        total += float(loss.detach())
    return {"proxy/loss": total}


def inspect(run: Run) -> dict[str, Any]:
    """The prompts as the student will see them."""
    return preview_prompts(run)
