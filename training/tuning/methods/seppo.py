"""SePPO: tune an image model on winners alone, against samples of its earlier selves. arXiv:2410.05255.

1. Of every row the pictures that were called good; losers are not needed.
2. The reference of a step is one of the last policies that were kept, one every ``keep_every`` steps; the
   first is the model before training. It draws a picture for every prompt of the step.
3. Diffusion-DPO of winners against these; but where the reference fits the winner better than the policy
   does, its picture is learnt too instead of unlearnt.
"""

import random
from functools import partial
from typing import Any

import torch
from torch import Tensor

from training.tuning.config import SePPOConfig
from training.tuning.data import Group
from training.tuning.images.direct import Direct, Micro, inspect_direct
from training.tuning.images.drawing import draw_latents
from training.tuning.images.errors import NoisyGroups, denoising_errors
from training.tuning.images.groups import Choose, Chosen
from training.tuning.images.preparation import autocast
from training.tuning.labels import make_labels
from training.tuning.losses.diffusion_dpo import implicit_reward
from training.tuning.losses.seppo import anchor_sign, seppo_loss
from training.tuning.metrics import Means
from training.tuning.run import Run

NEEDS = "a picture that was preferred"
Copy = dict[str, Tensor]


def train(run: Run) -> None:
    """Train a policy on winners. See the module for the steps."""
    config: SePPOConfig = run.config
    work = Direct(run, winners(config), needs=NEEDS, reference=None)
    slots = [work.policy.copy_trained() for _ in range(config.references)]
    keep = {f"{slot}.{name}": value for slot, copy in enumerate(slots) for name, value in copy.items()}
    for step in work.begin(keep):
        means = Means()
        micro_batches = work.micro_batches(step)
        pictures = sum(len(work.train.groups[at].files) for micro in micro_batches for at in micro.groups)
        reference = slots[chosen_slot(step, config, seed=run.seed)]
        for micro in micro_batches:
            losses = winner_losses(work, micro, "train", reference, means)
            (losses.sum() / pictures).backward()
        work.end_step(step, means, partial(evaluate, work, reference))
        if step % config.keep_every == 0:
            work.policy.mix_trained(slots[step // config.keep_every % config.references], share=1.0)
    work.finish()


def inspect(run: Run) -> dict[str, Any]:
    """The rows as ``train`` will see them."""
    return inspect_direct(run, winners(run.config))


def winners(config: SePPOConfig) -> Choose:
    """The pictures of a row that more votes called good than bad."""

    def choose(group: Group) -> Chosen | str:
        good = [label for label in make_labels(group, config) if label.good > label.bad]
        return Chosen([label.candidate for label in good]) if good else "no picture was preferred"

    return choose


def chosen_slot(step: int, config: SePPOConfig, *, seed: int) -> int:
    """Which of the kept policies is the reference of a step, each with the same probability; the slots are
    filled one after another, and then from the first on again.
    """
    filled = min(config.references, 1 + (step - 1) // config.keep_every)
    return random.Random(f"{seed}/reference/{step}").randrange(filled)


def winner_losses(work: Direct, micro: Micro, source: str, reference: Copy, means: Means) -> Tensor:
    """Losses of a micro-batch's winners (N,); the metrics go into ``means``."""
    config, policy = work.run.config, work.policy
    winners = work.noisy(micro, source=source)
    keys = [f"{name}/{micro.draw}" for name in work.names(micro, source=source)]
    with torch.no_grad(), policy.as_trained(reference) as module:
        drawn = draw_latents(work.run, policy.family, module, winners, keys=keys)
        batch = NoisyGroups(
            torch.cat([winners.latents, drawn]),
            torch.cat([winners.owner, torch.arange(len(drawn), device=drawn.device)]),
            winners.noise,
            winners.timesteps,
            winners.conditioning,
        )
        before = denoising_errors(policy.family, module, batch, autocast=autocast(config))
    errors = denoising_errors(policy.family, policy.denoiser, batch, autocast=autocast(config))
    count = len(winners.owner)
    chosen, sample = errors[:count], errors[count:][winners.owner]
    reference_chosen, reference_sample = before[:count], before[count:][winners.owner]
    losses = seppo_loss(chosen, sample, reference_chosen, reference_sample, beta=config.beta)
    values = {
        "loss": losses,
        "rewards/chosen": implicit_reward(chosen, reference_chosen, beta=config.beta),
        "rewards/sample": implicit_reward(sample, reference_sample, beta=config.beta),
        "errors/chosen": chosen,
        "pushed_down": (anchor_sign(chosen, reference_chosen) + 1) / 2,
    }
    means.add(values, torch.ones_like(losses))
    return losses


def evaluate(work: Direct, reference: Copy) -> dict[str, float]:
    """The training values on held-out winners, against the same reference."""
    means = Means()
    for micro in work.eval_micro_batches:
        winner_losses(work, micro, "eval", reference, means)
    return means.result()
