"""Diffusion-DPO: tune an image model on comparisons of its pictures. arXiv:2311.12908; for flow models
Flow-DPO, arXiv:2501.13918.

1. Judgements become weighted pairs; pictures become latents and prompts embeddings, once.
2. Every group has, per epoch, one noise and one timestep for all its pictures; with ``draws`` only so many
   different ones.
3. The denoiser (or an adapter on it) and its reference predict the noise, or the velocity; their errors are
   what the loss compares: being better than the reference on the chosen picture, and worse on the rejected.
4. The reference is the denoiser before training: adapters off, a frozen copy, or its errors computed
   beforehand in the very same micro-batches.
"""

from typing import Any

from jaxtyping import Float
from torch import Tensor

from training.tuning.config import DiffusionDPOConfig, PersonalDPOConfig
from training.tuning.images.direct import Direct, Micro, Reading, inspect_direct
from training.tuning.images.groups import preferred
from training.tuning.images.preparation import betas
from training.tuning.losses.diffusion_dpo import diffusion_dpo_loss, implicit_reward
from training.tuning.metrics import Means, pair_metrics
from training.tuning.run import Run

NEEDS = "a pair"


def train(run: Run) -> None:
    """Train a policy on pairs of pictures. See the module for the steps."""
    config: DiffusionDPOConfig = run.config
    work = Direct(run, preferred(config), needs=NEEDS, reference=config.reference, draws=config.draws)

    learn_pairs(work, config)
    work.finish()


def learn_pairs(work: Direct, config: DiffusionDPOConfig | PersonalDPOConfig) -> None:
    """All steps on pairs, with evaluations; what is published comes after."""

    def measure(micro: Micro, source: str) -> tuple[dict[str, Tensor], Tensor]:
        reading = work.read(micro, source=source)
        beta = betas(config, work.policy.family, reading.batch.timesteps)[reading.batch.owner]
        return pair_values(reading, beta), reading.pairs.weight

    for step in work.begin():
        means = Means()
        micro_batches = work.micro_batches(step)
        total_weight = sum(work.train.weight(micro.groups) for micro in micro_batches)
        for micro in micro_batches:
            values, weight = measure(micro, "train")
            ((values["loss"] * weight).sum() / total_weight).backward()
            means.add(values, weight)
        work.end_step(step, means, lambda: work.evaluate(measure))


def inspect(run: Run) -> dict[str, Any]:
    """The rows as ``train`` will see them."""
    return inspect_direct(run, preferred(run.config))


def pair_values(reading: Reading, beta: Float[Tensor, " N"]) -> dict[str, Float[Tensor, " P"]]:
    """Each pair's loss, and what is logged of it. ``beta`` is that of every picture's timestep."""
    pairs = reading.pairs
    chosen, rejected = reading.policy[pairs.chosen], reading.policy[pairs.rejected]
    reference_chosen, reference_rejected = reading.reference[pairs.chosen], reading.reference[pairs.rejected]
    beta = beta[pairs.chosen]
    for_chosen = diffusion_dpo_loss(chosen, rejected, reference_chosen, reference_rejected, beta=beta)
    for_rejected = diffusion_dpo_loss(rejected, chosen, reference_rejected, reference_chosen, beta=beta)
    losses = pairs.target * for_chosen + (1 - pairs.target) * for_rejected
    rewards = pair_metrics(
        implicit_reward(chosen, reference_chosen, beta=beta),
        implicit_reward(rejected, reference_rejected, beta=beta),
        pairs.target,
    )
    return {
        "loss": losses,
        **rewards,
        # A diffusion model has no exact log-probability; minus the error takes its place.
        "logps/chosen": -chosen,
        "logps/rejected": -rejected,
        "errors/chosen": chosen,
        "errors/rejected": rejected,
        "errors/reference_chosen": reference_chosen,
        "errors/reference_rejected": reference_rejected,
    }
