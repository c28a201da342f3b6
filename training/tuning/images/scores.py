"""Scores of pictures by a list of rewards, for whole files of rows."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path

from training.tuning.data import Group
from training.tuning.errors import BadInput
from training.tuning.images.data import open_image
from training.tuning.rewards.compose import Rewards, Scored, open_rewards
from training.tuning.rewards.sources import Measured, join
from training.tuning.run import Run


def open_picture_rewards(run: Run) -> Rewards:
    """The run's list of rewards, ready to score pictures."""
    rewards = open_rewards(run.reward, modality="image", device=run.device, precision=run.config.precision)
    if rewards.needs_references:
        raise BadInput("a comparison with reference answers is for text", field="reward")
    return rewards


def score_rows(
    run: Run,
    rewards: Rewards,
    groups: Sequence[Group],
    *,
    on_batch: Callable[[int], None],
    media: Path | None = None,
) -> Scored:
    """Scores of all candidates of these rows, in order: measured ``config.batch_size`` rows at a time, then
    transformed and added up as a whole. ``on_batch`` is told how many rows are done. ``media``: where the
    pictures lie, if not in the data.
    """
    measured: list[list[Measured]] = [[] for _ in rewards.sources]
    for start in range(0, len(groups), run.config.batch_size):
        some = groups[start : start + run.config.batch_size]
        prompts = [group.prompt for group in some for _ in group.candidates]
        files = [(media or run.dir.media) / str(item.image) for group in some for item in group.candidates]
        pictures = [open_image(file) for file in files]
        for number, source in enumerate(rewards.uncredited() if pictures else ()):
            measured[number].append(source.measure(prompts, pictures))
        on_batch(min(start + run.config.batch_size, len(groups)))
    if not any(measured):
        raise BadInput("no row has a candidate", file=run.dir.train_file)
    prompts = [group.prompt for group in groups for _ in group.candidates]
    return rewards.combine([join(parts) for parts in measured], prompts, None)


def kept_scores(run: Run, groups: Sequence[Group], *, part: str) -> list[list[float]]:
    """The total score of every candidate of these rows, measured once in a run and kept in its ``cache``."""
    file = run.dir.path / "cache" / f"scores-{part}-{run.fingerprint[:16]}.json"
    if not file.exists():
        scored = score_rows(run, open_picture_rewards(run), groups, on_batch=lambda _: run.check_stop())
        totals = iter(scored.total.tolist())
        found = [[next(totals) for _ in group.candidates] for group in groups]
        file.parent.mkdir(parents=True, exist_ok=True)
        partial = file.with_suffix(".part")
        partial.write_text(json.dumps(found), encoding="utf-8")
        partial.replace(file)
    kept: list[list[float]] = json.loads(file.read_text(encoding="utf-8"))
    return kept
