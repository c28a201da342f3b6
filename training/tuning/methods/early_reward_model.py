"""A reward model for unfinished pictures, for searches that give up early: TTSnap (arXiv:2511.22242).

1. Draw pictures of the prompts with the image model (``base``), and keep what the denoiser points at after a
   share of the steps, x̂_0, for every level.
2. The reward (the one model of the list) says what the finished pictures are worth. A copy of it learns to
   say the same of x̂_0, by squared error: from the cleanest level to the noisiest, each from the one before.
3. The result is the reward itself, with a model for each level beside it in ``early/``, which
   ``image_generate`` with ``search: best_of_n`` asks at its cuts.
"""

import copy
import math
import random
import shutil
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from training.tuning.config import EarlyRewardModelConfig
from training.tuning.errors import BadInput
from training.tuning.images.data import open_image, to_image
from training.tuning.images.families import Family
from training.tuning.images.generation import Request, plan_requests
from training.tuning.images.loading import load_for_sampling
from training.tuning.images.preparation import autocast
from training.tuning.images.prompts import open_prompts, preview_prompts
from training.tuning.images.reward import ImageReward, prepare
from training.tuning.images.reward_files import (
    EARLY,
    adapted,
    load_image_reward,
    merge_adapter,
    save_image_reward,
)
from training.tuning.images.samples import sampling_for
from training.tuning.images.schedules import ddim, schedule_of
from training.tuning.images.search.walk import Walk, one_generator, taken
from training.tuning.images.trajectories import Guidance, guided_denoiser, start_noise, told_guidance
from training.tuning.methods.image_reward_model import HOW_TO_LOAD
from training.tuning.optim import make_optimizer, update
from training.tuning.run import Run


def train(run: Run) -> None:
    """Draw, then teach level by level. See the module for the steps."""
    config: EarlyRewardModelConfig = run.config
    if len(run.reward) != 1 or run.reward[0].model is None:
        problem = "needs a reward list of one image reward model, whose judgement is learnt"
        raise BadInput(problem, file=run.dir.run_file, field="reward")
    teacher = load_image_reward(run.reward[0].model).to(run.device).requires_grad_(False)
    requests, drawn = draw_pictures(run)
    worth = torch.cat([outputs_of(run, teacher, drawn, [one], level=None) for one in requests])
    student = copy.deepcopy(teacher).requires_grad_(True)
    student = adapted(student, config.lora, seed=run.seed).to(run.device)
    if config.gradient_checkpointing:
        student.backbone.enable_gradient_checkpointing()
    levels = sorted(set(config.levels), reverse=True)
    per_level = config.max_steps or max(1, math.ceil(config.epochs * len(requests) / config.batch_size))
    optimizer = make_optimizer(student.parameters(), config)
    done = run.begin(student, optimizer, total_steps=per_level * len(levels))
    for step in run.steps(done):
        run.check_stop()
        stage, within = divmod(step - 1, per_level)
        if within == 0:
            optimizer.state.clear()  # every level begins anew, but for the weights
        rows = rows_of(run, len(requests), stage, within)
        said = outputs_of(run, student, drawn, [requests[row] for row in rows], level=levels[stage])
        loss = distillation_loss(said, worth[rows])
        loss.backward()
        for group in optimizer.param_groups:
            group["share"] = 1 - (1 - config.last_level_rate) * stage / len(levels)
        metrics = update(optimizer, config, step=within + 1, total_steps=per_level)
        run.log(step, {"loss": float(loss.detach()), "level": levels[stage]} | metrics)
        if within + 1 == per_level:
            keep(student, drawn / f"{levels[stage]:g}")
        run.end_step(step)

    def write(folder: Path) -> None:
        save_image_reward(teacher, folder)
        for level in levels:
            shutil.copytree(drawn / f"{level:g}", folder / EARLY / f"{level:g}")

    run.publish(write, how_to_load=HOW_TO_LOAD)
    shutil.rmtree(drawn)


def distillation_loss(said: Tensor, worth: Tensor) -> Tensor:
    """The mean over pictures (N, K) of (RM_t(x̂_0) − RM(x_0))²; ``worth`` is a constant."""
    return (said - worth.detach()).square().mean()


@torch.no_grad()
def draw_pictures(run: Run) -> tuple[list[Request], Path]:
    """Every picture, finished and as seen at each level, as files; what is there is not drawn again."""
    config: EarlyRewardModelConfig = run.config
    family = load_for_sampling(run.base, device=run.device)
    prompts = open_prompts(run, family, run.train)
    plan = plan_requests(prompts, samples_per_prompt=config.samples_per_prompt, seed=run.seed)
    requests = [one for own in plan for one in own]
    folder = run.dir.path / "cache" / "early"
    folder.mkdir(parents=True, exist_ok=True)
    for request in requests:
        if not file_of(folder, request, None).exists():  # written last
            run.check_stop()
            draw_one(run, family, request, folder)
    return requests, folder


def draw_one(run: Run, family: Family, request: Request, folder: Path) -> None:
    """One picture's files."""
    config: EarlyRewardModelConfig = run.config
    sampling = sampling_for(config, family)
    native = family.native_size
    height, width = sampling.height or native[0], sampling.width or native[1]
    schedule = schedule_of(family, steps=sampling.num_inference_steps, height=height, width=width)
    scale, guidance = sampling.guidance_scale, None
    if scale > 1 and not family.reads_guidance:
        guidance = Guidance(scale, family.encode_prompts([""]))
    told = told_guidance(family, family.encode_prompts([request.prompt]), scale=scale)
    denoise = guided_denoiser(family, family.denoiser, told, guidance=guidance, autocast=autocast(config))
    walk, generator = Walk.of(denoise, ddim(schedule, eta=config.eta)), one_generator(request.seed)
    latents = start_noise(family.latent_shape(height, width), [generator], family.device)
    calls = {max(1, round(level * walk.steps)): level for level in config.levels}
    for index in range(walk.steps):
        proposal = walk.propose(latents, index)
        if index + 1 in calls:
            save(family, proposal.clean, file_of(folder, request, calls[index + 1]))
        latents = taken(proposal, generator)
    save(family, latents, file_of(folder, request, None))


def save(family: Family, latents: Tensor, path: Path) -> None:
    """Decode one picture to a file, by rename."""
    partial = path.with_suffix(".part")
    to_image(family.decode_latents(latents)[0]).save(partial, format="PNG")
    partial.replace(path)


def file_of(folder: Path, request: Request, level: float | None) -> Path:
    """A picture's file at a level, or finished."""
    return folder / f"{request.seed:016x}-{'final' if level is None else f'{level:g}'}.png"


def outputs_of(
    run: Run, model: ImageReward, drawn: Path, requests: list[Request], *, level: float | None
) -> Tensor:
    """What a model says of these pictures at a level, (N, K), float32."""
    pictures = [open_image(file_of(drawn, one, level)) for one in requests]
    prompts = list(dict.fromkeys(one.prompt for one in requests))
    owner = torch.tensor([prompts.index(one.prompt) for one in requests], device=run.device)
    with torch.autocast(run.device.type, dtype=torch.bfloat16, enabled=run.config.precision == "bf16"):
        pixels = prepare(model.backbone, pictures).to(run.device)
        return model.outputs(pixels, owner, prompts).float()


def rows_of(run: Run, count: int, stage: int, within: int) -> list[int]:
    """The pictures of a step, from permutations of their own for each level and pass."""
    size = min(run.config.batch_size, count)
    passes, found = (within * size) // count, list[int]()
    for number in (passes, passes + 1):
        order = list(range(count))
        random.Random(f"{run.seed}/early/{stage}/{number}").shuffle(order)
        found += order
    start = within * size - passes * count
    return found[start : start + size]


def keep(student: ImageReward, folder: Path) -> None:
    """Write the model of a level, by rename."""
    partial = folder.with_name(f"{folder.name}.part")
    shutil.rmtree(partial, ignore_errors=True)
    save_image_reward(merge_adapter(copy.deepcopy(student)), partial)
    shutil.rmtree(folder, ignore_errors=True)
    partial.rename(folder)


def inspect(run: Run) -> dict[str, Any]:
    """The prompts as they will be drawn."""
    return preview_prompts(run)
