"""Score pictures with an image reward model: rows of candidates in, rows of scores out, in the same order."""

from pathlib import Path
from typing import Any

import torch

from training.tuning.config import ImageScoreConfig
from training.tuning.data import plain_text
from training.tuning.errors import BadInput
from training.tuning.images.data import open_image
from training.tuning.images.preview import preview
from training.tuning.images.reward import ImageReward
from training.tuning.images.reward_files import load_image_reward
from training.tuning.run import Run
from training.tuning.rundir import append_json_line


def train(run: Run) -> None:
    config: ImageScoreConfig = run.config
    model = load(run).to(run.device)
    run.dir.cut_back(-1)
    scores: list[list[float]] = []
    for start in range(0, len(run.train), config.batch_size):
        scores += score_rows(run, model, start)
        run.progress(len(scores), len(run.train), {})
    run.publish(lambda folder: write_result(scores, folder))


def load(run: Run) -> ImageReward:
    """The reward model that ``base`` names."""
    if run.base is None:
        raise BadInput("a reward model is needed", file=run.dir.run_file, field="base")
    return load_image_reward(run.base)


@torch.no_grad()
def score_rows(run: Run, model: ImageReward, start: int) -> list[list[float]]:
    """The scores of one batch of rows, which begins at ``start``; a row without candidates has none."""
    groups = run.train[start : start + run.config.batch_size]
    files = [run.dir.media / str(candidate.image) for group in groups for candidate in group.candidates]
    if not files:
        return [[] for _ in groups]
    owner = [number for number, group in enumerate(groups) for _ in group.candidates]
    pixels = torch.stack([model.backbone.prepare(open_image(file)) for file in files])
    with torch.autocast(run.device.type, dtype=torch.bfloat16, enabled=run.config.precision == "bf16"):
        flat = model(
            pixels.to(run.device),
            torch.tensor(owner, device=run.device),
            [plain_text(group.prompt) for group in groups],
        ).tolist()
    return [[flat.pop(0) for _ in group.candidates] for group in groups]


def write_result(scores: list[list[float]], folder: Path) -> None:
    """``scores.jsonl``, one row per row of the input."""
    for row in scores:
        append_json_line(folder / "scores.jsonl", {"scores": row})


def inspect(run: Run) -> dict[str, Any]:
    """The rows as ``train`` will see them: none is dropped."""
    return preview(
        run.train,
        reasons=[None] * len(run.train),
        pairs=lambda group: [],
        count_tokens=load(run).backbone.count_tokens,
    )
