"""Image reward model: learn to score pictures as people compare them. arXiv:2305.01569 (PickScore).

1. Judgements become weighted pairs; a tie is half a vote for each side.
2. A backbone and a head (see ``images/reward.py``) score every picture of a group for its prompt.
3. Bradley-Terry: the probability that people prefer one picture is σ(difference of the scores); where ties
   have a probability of their own, it is that of Rao and Kupper or of Davidson. Each aspect has an output and
   pairs of its own; each member of an ensemble has an output and all pairs. From labels of single pictures:
   the cross-entropy of σ(score), which is Bradley-Terry against a picture whose score is 0.
4. The result is the checkpoint that agreed best with the held-out judgements.
"""

import time
from collections import defaultdict
from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from training.tuning.config import ImageRewardModelConfig
from training.tuning.data import Group, plain_text
from training.tuning.errors import BadInput
from training.tuning.images.data import open_image
from training.tuning.images.groups import upright_size
from training.tuning.images.pair_index import PairIndex, index_labels, index_pairs
from training.tuning.images.preview import preview
from training.tuning.images.reward import ImageReward, prepare
from training.tuning.images.reward_files import merge_adapter, reward_for_training, save_image_reward
from training.tuning.labels import make_labels
from training.tuning.losses import ties
from training.tuning.losses.bradley_terry import bradley_terry_loss
from training.tuning.metrics import Means, accuracy, pair_metrics, wilson
from training.tuning.optim import make_optimizer, update
from training.tuning.pairs import Pair, make_pairs, why_no_pairs
from training.tuning.plan import make_plan, split
from training.tuning.rewards.transforms import one_score
from training.tuning.run import Run
from training.tuning.views import in_aspect

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
    weights = [
        sum(float(index.weight.sum()) for _, index in index_views([group], config, device=run.device))
        for group in groups
    ]
    plan = make_plan([len(group.candidates) for group in groups], config=config, seed=run.seed, budget=IMAGES)
    optimizer = make_optimizer(model.parameters(), config)
    done = run.begin(model, optimizer, total_steps=plan.total_steps)
    for step in run.steps(done):
        started, images = time.perf_counter(), 0
        means = Means()
        total_weight = sum(weights[number] for micro in plan.step(step) for number in micro)
        for micro in plan.step(step):
            scores = score(run, model, [groups[number] for number in micro])
            chosen = [groups[number] for number in micro]
            loss = torch.zeros((), device=run.device)
            for output, index in index_views(chosen, config, device=run.device):
                losses, values = pair_losses(scores[:, output], index, config)
                loss = loss + (losses * index.weight).sum() / total_weight
                means.add(values, index.weight)
            loss.backward()
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
        pairs=lambda group: (
            [pair for _, own in views(group, run.config)[: len(run.config.aspects) or 1] for pair in own]
            if run.config.learn_from == "pairs"
            else []
        ),
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
        if run.config.learn_from == "labels" and not make_labels(group, run.config):
            found.append("nobody called a picture good or bad")
        elif run.config.learn_from == "pairs" and not any(pairs for _, pairs in views(group, run.config)):
            aspects = run.config.aspects
            found.append(f"no choice in {', '.join(aspects)}" if aspects else why_no_pairs(group))
        elif limits and model.backbone.count_tokens(plain_text(group.prompt)) > min(limits):
            found.append(f"prompt longer than {min(limits)} tokens")
        else:
            found.append(None)
    return found


def score(run: Run, model: ImageReward, groups: Sequence[Group]) -> Float[Tensor, "N K"]:
    """The outputs for all candidates of these groups, one group after another."""
    files = [run.dir.media / str(candidate.image) for group in groups for candidate in group.candidates]
    pixels = prepare(model.backbone, [open_image(file) for file in files])
    owner = [number for number, group in enumerate(groups) for _ in group.candidates]
    with torch.autocast(run.device.type, dtype=torch.bfloat16, enabled=run.config.precision == "bf16"):
        return model.outputs(
            pixels.to(run.device),
            torch.tensor(owner, device=run.device),
            [plain_text(group.prompt) for group in groups],
        )


def pair_losses(
    scores: Float[Tensor, " N"], pairs: PairIndex, config: ImageRewardModelConfig
) -> tuple[Float[Tensor, " P"], dict[str, Float[Tensor, " P"]]]:
    """Each pair's loss, and what is logged of it."""
    scores = with_zero(scores / config.temperature)
    chosen, rejected = scores[pairs.chosen], scores[pairs.rejected]
    if config.ties in ties.MODELS:
        win, tie = (partial(loss, nu=config.tie_rate) for loss in ties.MODELS[config.ties])
        margin, lost = chosen - rejected, 1 - pairs.target - pairs.tie
        losses = pairs.target * win(margin) + lost * win(-margin) + pairs.tie * tie(margin)
    else:
        losses = bradley_terry_loss(chosen, rejected, pairs.target)
    return losses, {"loss": losses, **pair_metrics(chosen, rejected, pairs.target + pairs.tie / 2)}


def with_zero(scores: Float[Tensor, " N"]) -> Float[Tensor, " N+1"]:
    """The scores, and that of the picture which labelled ones are compared to."""
    return F.pad(scores, (0, 1))


@torch.no_grad()
def evaluate(run: Run, model: ImageReward) -> dict[str, float]:
    """On the held-out votes: loss and accuracy; on the majority's choices: accuracy with its 95 %
    interval.
    """
    config: ImageRewardModelConfig = run.config
    majority = config.model_copy(update={"pairs": "majority", "ties": "drop", "both_bad": "drop"})
    sizes = [len(group.candidates) for group in run.eval]
    aspects: defaultdict[int, Means] = defaultdict(Means)
    means, right, count = Means(), 0.0, 0
    for micro in split(range(len(sizes)), sizes, most=config.micro_batch_size, budget=IMAGES):
        groups = [run.eval[index] for index in micro]
        scores = score(run, model, groups)
        for output, votes in index_views(groups, config, device=run.device):
            _, values = pair_losses(scores[:, output], votes, config)
            named = {name.removeprefix("rewards/"): value for name, value in values.items()}
            means.add(named, votes.weight)
            if config.aspects:
                part = {f"accuracy/{config.aspects[output]}": named["accuracy"]}
                aspects[output].add(part, votes.weight)
        total = one_score(scores, model.info)
        for output, choices in index_views(groups, majority, device=run.device)[: len(config.aspects) or 1]:
            own = with_zero(scores[:, output] if config.aspects else total)
            agrees = accuracy(own[choices.chosen] - own[choices.rejected], choices.target)
            right, count = right + agrees.sum().item(), count + len(agrees)
    metrics = means.result()
    for one in aspects.values():
        metrics |= one.result()
    if count:
        low, high = wilson(right, float(count))
        metrics |= {"accuracy_majority": right / count, "accuracy_low": low, "accuracy_high": high}
    return metrics


def views(group: Group, config: ImageRewardModelConfig) -> list[tuple[int, list[Pair]]]:
    """For every output of the head the pairs of a group that it learns from."""
    if config.aspects:
        return [(at, make_pairs(in_aspect(group, name), config)) for at, name in enumerate(config.aspects)]
    pairs = make_pairs(group, config)
    return [(member, pairs) for member in range(config.members)]


def index_views(
    groups: Sequence[Group], config: ImageRewardModelConfig, *, device: torch.device
) -> list[tuple[int, PairIndex]]:
    """For every output the pairs of these groups, as positions among all their candidates."""
    sizes = [len(group.candidates) for group in groups]
    if config.learn_from == "labels":
        labels = [make_labels(group, config) for group in groups]
        index = index_labels(labels, sizes, majority=config.pairs == "majority", device=device)
        return [(member, index) for member in range(config.members)]
    by_output = zip(*(views(group, config) for group in groups), strict=True)
    return [(own[0][0], index_pairs([pairs for _, pairs in own], sizes, device=device)) for own in by_output]


HOW_TO_LOAD = """
from training.tuning.images.reward_files import load_image_reward
from training.tuning.images.data import open_image

model = load_image_reward("result")
print(model.scores("a prompt", [open_image("one.png"), open_image("other.png")]))
"""
