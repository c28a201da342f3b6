"""Diffusion-DPO: tune an image model on comparisons of its pictures. arXiv:2311.12908.

1. Judgements become weighted pairs; pictures become latents and prompts embeddings, once.
2. Every group has, per epoch, one noise and one timestep for all its pictures.
3. The denoiser (or an adapter on it) and its reference predict the noise; their errors are what the
   loss compares: being better than the reference on the chosen picture, and worse on the rejected.
4. The reference is the denoiser before training: adapters off, a frozen copy, or its errors computed
   beforehand in the very same micro-batches.
"""

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from training.tuning.config import DiffusionDPOConfig
from training.tuning.errors import BadInput
from training.tuning.images.bases import copy_generation_defaults
from training.tuning.images.batches import PreparedGroups
from training.tuning.images.errors import denoising_errors
from training.tuning.images.loading import load_for_sampling, load_for_training
from training.tuning.images.pair_index import PairIndex
from training.tuning.images.policies import ImagePolicy
from training.tuning.images.preparation import (
    ReferenceErrors,
    autocast,
    choose_groups,
    prepare_groups,
    reference_errors,
    remove_cache,
)
from training.tuning.images.preview import preview
from training.tuning.images.samples import draw_samples
from training.tuning.losses.diffusion_dpo import diffusion_dpo_loss, implicit_reward
from training.tuning.metrics import Means, pair_metrics
from training.tuning.optim import make_optimizer, update
from training.tuning.pairs import make_pairs
from training.tuning.plan import Plan, make_plan, split
from training.tuning.run import Run

PIXELS = 2**20  # of pictures in one micro-batch: four of 512 × 512
EVAL_DRAWS = 4  # noises and timesteps at which a held-out group is measured
Errors = Float[Tensor, " N"]


def train(run: Run) -> None:
    config: DiffusionDPOConfig = run.config
    policy = load_for_training(
        run.base, lora=config.lora, keep_copy=config.reference == "live", seed=run.seed, device=run.device
    )
    if config.gradient_checkpointing:
        policy.denoiser.enable_gradient_checkpointing()
    train_set = prepare_groups(run, policy.family, run.train, part="train")
    eval_set = prepare_groups(run, policy.family, run.eval, part="eval")
    if not train_set.groups:
        raise BadInput(
            "no row gives a pair to train on; `inspect` lists the reasons", file=run.dir.train_file
        )
    plan = make_plan(train_set.sizes, config=config, seed=run.seed, budget=PIXELS, buckets=train_set.shapes)
    eval_plan = split(
        range(len(eval_set.groups)),
        eval_set.sizes,
        most=config.micro_batch_size,
        budget=PIXELS,
        buckets=eval_set.shapes,
    )
    # Before the first step and before resuming: the policy still is the reference.
    cached = (
        reference_errors(run, policy, train_set, planned(plan), part="train")
        if config.reference == "cached"
        else None
    )
    eval_reference = reference_errors(run, policy, eval_set, repeated(eval_plan), part="eval")

    optimizer = make_optimizer(policy.denoiser.parameters(), config)
    done = run.begin(policy.denoiser, optimizer, total_steps=plan.total_steps)
    if done == 0:
        draw_samples(run, policy.family, step=0, when="before")
    for step in run.steps(done):
        started = time.perf_counter()
        means = Means()
        total_weight = sum(train_set.weight(micro) for micro in plan.step(step))
        for number, micro in enumerate(plan.step(step)):
            batch, pairs = train_set.batch(micro, epoch=epoch_of(plan, step)), train_set.pairs(micro)
            errors = denoising_errors(policy.family, policy.denoiser, batch, autocast=autocast(config))
            if cached is not None:
                reference = cached[step, number].to(errors.device)
            else:
                with torch.no_grad(), policy.as_reference() as denoiser:
                    reference = denoising_errors(policy.family, denoiser, batch, autocast=autocast(config))
            losses, values = pair_losses(errors, reference, pairs, beta=config.beta)
            ((losses * pairs.weight).sum() / total_weight).backward()
            means.add(values, pairs.weight)
        metrics = means.result() | update(optimizer, config, step=step, total_steps=plan.total_steps)
        metrics |= train_set.speed(plan.step(step), seconds=time.perf_counter() - started)
        run.log(step, metrics)
        if eval_set.groups and run.due(config.eval_every, step):
            run.log_eval(step, evaluate(policy, eval_set, eval_plan, eval_reference, config))
        run.end_step(step)
    draw_samples(run, policy.family, step=run.total_steps, when="after")

    def write(folder: Path) -> None:
        policy.save(folder)
        copy_generation_defaults(run.base, folder)

    run.publish(write, how_to_load=HOW_TO_LOAD_ADAPTER if policy.adapter else HOW_TO_LOAD_PIPELINE)
    remove_cache(run)


def inspect(run: Run) -> dict[str, Any]:
    """The rows as ``train`` will see them."""
    family = load_for_sampling(run.base, device=run.device)
    _, reasons = choose_groups(run, family, run.train, part="train")
    return preview(
        run.train,
        reasons=reasons,
        pairs=lambda group: make_pairs(group, run.config),
        count_tokens=family.count_tokens,
    )


def pair_losses(
    errors: Errors, reference: Errors, pairs: PairIndex, *, beta: float
) -> tuple[Float[Tensor, " P"], dict[str, Float[Tensor, " P"]]]:
    """Each pair's loss, and what is logged of it."""
    chosen, rejected = errors[pairs.chosen], errors[pairs.rejected]
    reference_chosen, reference_rejected = reference[pairs.chosen], reference[pairs.rejected]
    for_chosen = diffusion_dpo_loss(chosen, rejected, reference_chosen, reference_rejected, beta=beta)
    for_rejected = diffusion_dpo_loss(rejected, chosen, reference_rejected, reference_chosen, beta=beta)
    losses = pairs.target * for_chosen + (1 - pairs.target) * for_rejected
    rewards = pair_metrics(
        implicit_reward(chosen, reference_chosen, beta=beta),
        implicit_reward(rejected, reference_rejected, beta=beta),
        pairs.target,
    )
    values = {
        # A diffusion model has no exact log-probability; minus the error takes its place.
        "logps/chosen": -chosen,
        "logps/rejected": -rejected,
        "errors/chosen": chosen,
        "errors/rejected": rejected,
        "errors/reference_chosen": reference_chosen,
        "errors/reference_rejected": reference_rejected,
    }
    return losses, {"loss": losses, **rewards, **values}


@torch.no_grad()
def evaluate(
    policy: ImagePolicy,
    groups: PreparedGroups,
    micro_batches: list[list[int]],
    reference: ReferenceErrors,
    config: DiffusionDPOConfig,
) -> dict[str, float]:
    """The training values, but for speed, on held-out groups: always at the same noises and timesteps."""
    means = Means()
    for key, micro, draw in repeated(micro_batches):
        batch, pairs = groups.batch(micro, epoch=draw), groups.pairs(micro)
        errors = denoising_errors(policy.family, policy.denoiser, batch, autocast=autocast(config))
        _, values = pair_losses(errors, reference[key].to(errors.device), pairs, beta=config.beta)
        means.add(values, pairs.weight)
    return means.result()


def epoch_of(plan: Plan, step: int) -> int:
    """Which time the data is gone through, from 0."""
    return (step - 1) // len(plan.batches)


def planned(plan: Plan) -> Iterator[tuple[tuple[int, int], list[int], int]]:
    """(step and number, groups, epoch) of all micro-batches of training."""
    for step in range(1, plan.total_steps + 1):
        for number, micro in enumerate(plan.step(step)):
            yield (step, number), micro, epoch_of(plan, step)


def repeated(micro_batches: list[list[int]]) -> Iterator[tuple[tuple[int, int], list[int], int]]:
    """(draw and number, groups, draw) of all micro-batches of an evaluation."""
    for draw in range(EVAL_DRAWS):
        for number, micro in enumerate(micro_batches):
            yield (draw, number), micro, draw


HOW_TO_LOAD_ADAPTER = """
from diffusers import DiffusionPipeline

pipeline = DiffusionPipeline.from_pretrained(BASE)  # the base model named above
pipeline.load_lora_weights("result", weight_name="pytorch_lora_weights.safetensors")
"""
HOW_TO_LOAD_PIPELINE = """
from diffusers import DiffusionPipeline

pipeline = DiffusionPipeline.from_pretrained("result")
"""
