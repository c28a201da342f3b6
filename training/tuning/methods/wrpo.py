"""Weighted-reward preference optimisation (Yang et al., arXiv:2412.03187): learn from stronger models'
answers that are unlike one's own.

1. Of each prompt's rated answers take the best that another model wrote, and the best and the worst of the
   model's own.
2. The reference is the model as it starts. 3. Per step: DPO with the two good answers sharing the chosen
side. The other model's share rises in a straight
   line from 0 to its final value over the run.
"""

from typing import Any

from torch import Tensor

from training.tuning.config import WRPOConfig
from training.tuning.data import Group, Text
from training.tuning.labels import make_scores
from training.tuning.losses.mixtures import wrpo_loss
from training.tuning.metrics import Means, accuracy
from training.tuning.pairs import Pair
from training.tuning.plan import MicroBatch
from training.tuning.processes import mine
from training.tuning.run import Run
from training.tuning.text.dataset import Choose, texts_of
from training.tuning.text.direct import Direct, inspect_direct
from training.tuning.text.logprobs import per_candidate
from training.tuning.text.tokens import Unusable

NEEDS = "ratings of an answer of another model and of two of the model's own (see own_source)"


def train(run: Run) -> None:
    """Train a policy on its own and other models' answers. See the module for the steps."""
    config: WRPOConfig = run.config
    work = Direct(run, choose(config), needs=NEEDS, reference=config.reference)

    def measure(micro: MicroBatch, source: str, alpha: float) -> tuple[dict[str, Tensor], Tensor]:
        reading = work.read(micro, source=source)
        log_ratio = per_candidate(reading.policy - reading.reference, reading.batch.counts)
        other, own, rejected = log_ratio.view(-1, 3).unbind(1)
        losses = wrpo_loss(other, own, rejected, beta=config.beta, alpha=alpha)
        logged = {"loss": losses, "rewards/source": config.beta * other, "rewards/chosen": config.beta * own}
        logged |= {
            "rewards/rejected": config.beta * rejected,
            "rewards/margin": config.beta * (own - rejected),
        }
        one = losses.new_ones(losses.shape)
        return logged | {"rewards/accuracy": accuracy((own - rejected).detach(), one)}, one

    for step in work.begin():
        means = Means()
        alpha = share(step, work.plan.total_steps, config)
        micro_batches = work.plan.step(step)
        groups = sum(len(micro) for micro in micro_batches)
        for micro in mine(micro_batches):
            metrics, weights = measure(micro, "train", alpha)
            metrics["loss"].sum().div(groups).backward()
            means.add(metrics, weights)
        work.end_step(step, means, lambda a=alpha: work.evaluate(lambda m, s: measure(m, s, a)))  # type: ignore[misc]
    work.finish()


def share(step: int, total_steps: int, config: Any) -> float:
    """α of a step in 1..total_steps: from 0 at the first to its final value at the last."""
    return float(config.final_alpha) * (step - 1) / max(1, total_steps - 1)


def choose(config: WRPOConfig) -> Choose:
    """The other models' best answer, the model's own best, and its own worst."""

    def chosen(group: Group) -> tuple[list[Text], list[Pair]]:
        scores, texts = make_scores(group, config), texts_of(group)
        rated = [(at, score) for at, score in enumerate(scores) if score is not None]
        own = [one for one in rated if group.candidates[one[0]].source == config.own_source]
        others = [one for one in rated if group.candidates[one[0]].source != config.own_source]
        if not others:
            raise Unusable("no rated answer of another model")
        if len({score for _, score in own}) < 2:
            raise Unusable("no two answers of the model itself with different ratings")
        best, worst = max(own, key=lambda one: one[1]), min(own, key=lambda one: one[1])
        places = [max(others, key=lambda one: one[1])[0], best[0], worst[0]]
        return [texts[place] for place in places], []

    return chosen


def inspect(run: Run) -> dict[str, Any]:
    """The data as ``train`` will see it."""
    return inspect_direct(run, choose(run.config), needs=NEEDS)
