"""How right an image reward is: what ``evaluate`` reports of pictures (``evaluation/report.py``).

Openers and lengths are about words, and are left out.
"""

from collections.abc import Sequence
from typing import Any

from training.tuning.data import Group
from training.tuning.errors import BadInput
from training.tuning.evaluation.report import Score, make_report
from training.tuning.images.scores import open_picture_rewards, score_rows
from training.tuning.methods import image_score
from training.tuning.methods.evaluate import check_rows, publish_report
from training.tuning.run import Run


def train(run: Run) -> None:
    """Score everything once, and report."""
    check_rows(run)
    if bool(run.base) == bool(run.reward):
        problem = "name an image reward model as base, or give a reward list"
        raise BadInput(problem, file=run.dir.run_file, field="base")
    score = with_rewards(run) if run.reward else with_model(run)
    run.dir.cut_back(-1)
    publish_report(run, make_report(run.train, score, run.config))


def with_model(run: Run) -> Score:
    """The reward model's scores, batch by batch."""
    model = image_score.load(run).to(run.device)

    def scores(groups: Sequence[Group]) -> list[list[float]]:
        found: list[list[float]] = []
        for start in range(0, len(groups), run.config.batch_size):
            found += image_score.model_scores(run, model, groups[start : start + run.config.batch_size])
            run.progress(len(found), len(groups), {})
        return found

    return scores


def with_rewards(run: Run) -> Score:
    """What a list of rewards adds up to."""
    rewards = open_picture_rewards(run)

    def scores(groups: Sequence[Group]) -> list[list[float]]:
        scored = score_rows(run, rewards, groups, on_batch=lambda done: run.progress(done, len(groups), {}))
        totals = iter(scored.total.tolist())
        return [[next(totals) for _ in group.candidates] for group in groups]

    return scores


def inspect(run: Run) -> dict[str, Any]:
    """The rows as ``train`` will see them."""
    check_rows(run)
    return image_score.inspect(run)
