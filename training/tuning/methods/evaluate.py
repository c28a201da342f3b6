"""How right a reward is: held-out judgements, verified answers, and attacks (``evaluation/report.py``).

Rows of data/train.jsonl are groups with judgements or verified answers (``evaluation/rows.py``); the reward
is a reward model (``base``), or a list of rewards (``reward``). The result is ``report.json``, and its
``figures`` are logged under ``eval/``.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from training.tuning.data import Group
from training.tuning.errors import BadInput
from training.tuning.evaluation.report import Report, Score, make_report
from training.tuning.evaluation.rows import items_of
from training.tuning.methods import score
from training.tuning.rewards.compose import Rewards
from training.tuning.rewards.conditions import with_context
from training.tuning.run import Run
from training.tuning.rundir import write_json


def train(run: Run) -> None:
    """Score everything once, and report."""
    check_rows(run)
    rewards = score.open_scorers(run)
    run.dir.cut_back(-1)
    attacked = run.config.attacked_prompts
    publish_report(run, make_report(run.train, scorer(run, rewards), run.config, attacked=attacked))


def check_rows(run: Run) -> None:
    """Raise BadInput if no row says which of its candidates is better."""
    if not items_of(run.train):
        problem = "no row has a verified answer (meta.correct) or judgements that prefer a candidate"
        raise BadInput(problem, file=run.dir.train_file)


def scorer(run: Run, rewards: Rewards) -> Score:
    """Scores of the candidates of groups, in one go; NaN where there is none."""

    def scores(groups: Sequence[Group]) -> list[list[float]]:
        asked = [with_context(group, score.context_of(run)) for group in groups]
        totals = iter(score.score_groups(run, rewards, asked)[0].total.tolist())
        return [[next(totals) for _ in group.candidates] for group in groups]

    return scores


def publish_report(run: Run, report: Report) -> None:
    """``report.json``; ``metadata.json`` holds it too, for who reads no files."""
    named = {f"eval/{name}": value for name, value in report["figures"].items()}
    run.progress(report["scored"], report["scored"], named)

    def write(folder: Path) -> None:
        write_json(folder / "report.json", report)
        write_json(folder / "metadata.json", {"method": run.method.name, "report": report})

    run.publish(write)


def inspect(run: Run) -> dict[str, Any]:
    """The candidates as the reward model will see them."""
    check_rows(run)
    return score.inspect(run)
