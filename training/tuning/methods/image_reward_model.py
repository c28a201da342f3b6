"""Image reward model: learn to score pictures as people compare them. arXiv:2305.01569 (PickScore).

1. Judgements become weighted pairs; a tie is half a vote for each side.
2. A backbone and a head (see ``images/reward.py``) score every picture of a group for its prompt.
3. Bradley-Terry: the probability that people prefer one picture is σ(difference of the scores).
4. The result is the checkpoint that agreed best with the held-out judgements.
"""

import time
from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from training.tuning.config import ImageRewardModelConfig
from training.tuning.data import Group, plain_text
from training.tuning.errors import BadInput
from training.tuning.images.data import open_image
from training.tuning.images.groups import upright_size
from training.tuning.images.pair_index import PairIndex, index_pairs
from training.tuning.images.preview import preview
from training.tuning.images.reward import ImageReward, prepare
from training.tuning.images.reward_files import merge_adapter, reward_for_training, save_image_reward
from training.tuning.losses.bradley_terry import bradley_terry_loss
from training.tuning.metrics import Means, accuracy, pair_metrics, wilson
from training.tuning.optim import make_optimizer, update
from training.tuning.pairs import make_pairs, why_no_pairs
from training.tuning.plan import make_plan, split
from training.tuning.run import Run

IMAGES = 64  # pictures in one forward pass


def train(run: Run) -> None:
    config: ImageRewardModelConfig = run.config
    model = make_model(run).to(run.device)
    if config.gradient_checkpointing:
        model.backbone.enable_gradient_checkpointing()
    groups = [group for group, why in zip(run.train, reasons(run, model), strict=True) if why is None]
    if not groups:
        raise BadInput(
            "no row gives a pair to train on; `inspect` lists the reasons", file=run.dir.train_file
        )
    weights = [sum(pair.weight for pair in make_pairs(group, config)) for group in groups]
    plan = make_plan([len(group.candidates) for group in groups], config=config, seed=run.seed, budget=IMAGES)
    optimizer = make_optimizer(model.parameters(), config)
    done = run.begin(model, optimizer, total_steps=plan.total_steps)
    for step in run.steps(done):
        started, images = time.perf_counter(), 0
        means = Means()
        total_weight = sum(weights[number] for micro in plan.step(step) for number in micro)
        for micro in plan.step(step):
            scores = score(run, model, [groups[number] for number in micro])
            index = index_groups([groups[number] for number in micro], config, device=run.device)
            losses, values = pair_losses(scores, index)
            ((losses * index.weight).sum() / total_weight).backward()
            means.add(values, index.weight)
            images += len(scores)
        metrics = means.result() | update(optimizer, config, step=step, total_steps=plan.total_steps)
        metrics["images_per_second"] = images / (time.perf_counter() - started)
        run.log(step, metrics)
        if run.eval and run.due(config.eval_every, step):
            best_by = config.metric_for_best if config.keep_best else None
            run.log_eval(step, evaluate(run, model), best_by=best_by)
        run.end_step(step)
    run.load_best(model)
    run.publish(lambda folder: save_image_reward(merge_adapter(model), folder), how_to_load=HOW_TO_LOAD)


def inspect(run: Run) -> dict[str, Any]:
    """The rows as ``train`` will see them."""
    model = make_model(run)
    return preview(
        run.train,
        reasons=reasons(run, model),
        pairs=partial(make_pairs, keys=run.config),
        count_tokens=model.backbone.count_tokens,
    )


def make_model(run: Run) -> ImageReward:
    """The model before training."""
    names = (candidate.image for group in run.train for candidate in group.candidates)
    first = next((run.dir.media / str(name) for name in names), None)
    size = max(upright_size(first)) if first else 64
    return reward_for_training(run.base, run.config, seed=run.seed, picture_size=size)


def reasons(run: Run, model: ImageReward) -> list[str | None]:
    """For every training row why it cannot be used, or None if it can."""
    limits = [limit for limit in (run.config.max_length, model.backbone.longest_prompt) if limit is not None]
    found: list[str | None] = []
    for group in run.train:
        if not make_pairs(group, run.config):
            found.append(why_no_pairs(group))
        elif limits and model.backbone.count_tokens(plain_text(group.prompt)) > min(limits):
            found.append(f"prompt longer than {min(limits)} tokens")
        else:
            found.append(None)
    return found


def score(run: Run, model: ImageReward, groups: Sequence[Group]) -> Float[Tensor, " N"]:
    """The scores of all candidates of these groups, one group after another, (N,)."""
    files = [run.dir.media / str(candidate.image) for group in groups for candidate in group.candidates]
    pixels = prepare(model.backbone, [open_image(file) for file in files])
    owner = [number for number, group in enumerate(groups) for _ in group.candidates]
    with torch.autocast(run.device.type, dtype=torch.bfloat16, enabled=run.config.precision == "bf16"):
        return model(
            pixels.to(run.device),
            torch.tensor(owner, device=run.device),
            [plain_text(group.prompt) for group in groups],
        )


def pair_losses(
    scores: Float[Tensor, " N"], pairs: PairIndex
) -> tuple[Float[Tensor, " P"], dict[str, Float[Tensor, " P"]]]:
    """Each pair's loss, and what is logged of it."""
    chosen, rejected = scores[pairs.chosen], scores[pairs.rejected]
    losses = bradley_terry_loss(chosen, rejected, pairs.target)
    return losses, {"loss": losses, **pair_metrics(chosen, rejected, pairs.target)}


@torch.no_grad()
def evaluate(run: Run, model: ImageReward) -> dict[str, float]:
    """On the held-out votes: loss and accuracy; on the majority's choices: accuracy with its 95 %
    interval.
    """
    config: ImageRewardModelConfig = run.config
    majority = config.model_copy(update={"pairs": "majority", "ties": "drop", "both_bad": "drop"})
    sizes = [len(group.candidates) for group in run.eval]
    means, right, count = Means(), 0.0, 0
    for micro in split(range(len(sizes)), sizes, most=config.micro_batch_size, budget=IMAGES):
        groups = [run.eval[index] for index in micro]
        scores = score(run, model, groups)
        votes = index_groups(groups, config, device=run.device)
        _, values = pair_losses(scores, votes)
        means.add({name.removeprefix("rewards/"): value for name, value in values.items()}, votes.weight)
        choices = index_groups(groups, majority, device=run.device)
        agrees = accuracy(scores[choices.chosen] - scores[choices.rejected], choices.target)
        right, count = right + agrees.sum().item(), count + len(agrees)
    metrics = means.result()
    if count:
        low, high = wilson(right, float(count))
        metrics |= {"accuracy_majority": right / count, "accuracy_low": low, "accuracy_high": high}
    return metrics


def index_groups(
    groups: Sequence[Group], config: ImageRewardModelConfig, *, device: torch.device
) -> PairIndex:
    """The pairs of these groups, as positions among all their candidates."""
    pairs = [make_pairs(group, config) for group in groups]
    return index_pairs(pairs, [len(group.candidates) for group in groups], device=device)


HOW_TO_LOAD = """
from training.tuning.images.reward_files import load_image_reward
from training.tuning.images.data import open_image

model = load_image_reward("result")
print(model.scores("a prompt", [open_image("one.png"), open_image("other.png")]))
"""
