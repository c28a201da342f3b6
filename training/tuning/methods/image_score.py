"""Scores of pictures by an image reward model (``base``), or by a list of rewards (``reward``).

Rows of candidates in, rows of scores out, in the same order: ``scores.jsonl``. A list adds ``"parts"``, what
each of its entries added. With ``select: pairs`` there is ``selected.jsonl`` too: rows to train on, labelled
by the scores; rich preference optimisation does so with pictures and their edits, since an edit may be worse.
With ``questions`` an ``ask`` entry tries each of them first, and keeps the one that agrees best with thumbs.
"""

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from training.tuning.config import ImageScoreConfig
from training.tuning.config.shared import VoteKeys
from training.tuning.data import Group, plain_text
from training.tuning.errors import BadInput
from training.tuning.images.data import open_image
from training.tuning.images.preview import preview
from training.tuning.images.reward import ImageReward, prepare
from training.tuning.images.reward_files import load_image_reward
from training.tuning.images.scores import open_picture_rewards, score_rows
from training.tuning.labels import make_labels
from training.tuning.rewards.asked import AskedReward
from training.tuning.rewards.compose import Rewards
from training.tuning.rewards.selection import best_and_worst
from training.tuning.run import Run
from training.tuning.rundir import append_json_line, write_json


def train(run: Run) -> None:
    config: ImageScoreConfig = run.config
    if bool(run.base) == bool(run.reward):
        problem = "name an image reward model as base, or give a reward list"
        raise BadInput(problem, file=run.dir.run_file, field="base")
    if run.reward:
        score_with_rewards(run)
    else:
        score_with_model(run, config)


def score_with_model(run: Run, config: ImageScoreConfig) -> None:
    """The reward model's scores, batch by batch."""
    model = load(run).to(run.device)
    run.dir.cut_back(-1)
    scores: list[list[float]] = []
    for start in range(0, len(run.train), config.batch_size):
        scores += model_scores(run, model, run.train[start : start + config.batch_size])
        run.progress(len(scores), len(run.train), {})
    run.publish(lambda folder: write_result(run, [{"scores": row} for row in scores], folder))


def score_with_rewards(run: Run) -> None:
    """Measure batch by batch, then transform and add up as a whole."""
    rewards = open_picture_rewards(run)
    run.dir.cut_back(-1)
    tried = try_questions(run, rewards) if run.config.questions else []
    total = len(run.train)
    scored = score_rows(run, rewards, run.train, on_batch=lambda done: run.progress(done, total, {}))
    columns = dict(zip(rewards.labels, scored.parts.unbind(dim=1), strict=True))

    rows, at = [], 0
    for group in run.train:
        own = slice(at, at + len(group.candidates))
        parts = {label: _finite(part[own]) for label, part in columns.items()}
        rows.append({"scores": _finite(scored.total[own]), "parts": parts})
        at = own.stop

    def write(folder: Path) -> None:
        write_result(run, rows, folder)
        if tried:
            write_json(folder / "questions.json", tried)

    run.publish(write)


def try_questions(run: Run, rewards: Rewards) -> list[dict[str, Any]]:
    """How often each question tells a good picture from a bad one, best first; the best is asked from now on.

    A pair of a good and a bad picture counts 1 if the good one's score is higher, ½ if they are equal.
    """
    source = rewards.sources[0]
    if len(rewards.sources) != 1 or not isinstance(source, AskedReward):
        problem = "questions are for a reward list of one model with ask, without contrast"
        raise BadInput(problem, file=run.dir.run_file, field="reward")
    labels = [label for group in run.train for label in labels_of(group)]
    if not {0, 1} <= set(labels):
        problem = "questions are compared on pictures with thumbs, of which some must be up and some down"
        raise BadInput(problem, file=run.dir.train_file)
    tried = []
    for question in run.config.questions:
        source.ask = source.ask.model_copy(update={"question": question})
        scores = (
            score_rows(run, rewards, run.train, on_batch=lambda _: run.check_stop()).scores[:, 0].tolist()
        )
        good = torch.tensor([score for score, label in zip(scores, labels, strict=True) if label == 1])
        bad = torch.tensor([score for score, label in zip(scores, labels, strict=True) if label == 0])
        gaps = good[:, None] - bad[None]
        tried.append({"question": question, "agreement": float(((gaps.sign() + 1) / 2).mean())})
    tried.sort(key=lambda row: -row["agreement"])
    source.ask = source.ask.model_copy(update={"question": tried[0]["question"]})
    return tried


def labels_of(group: Group) -> list[int | None]:
    """1 for each candidate that more people called good than bad, 0 for the opposite; None if neither."""
    found: list[int | None] = [None] * len(group.candidates)
    for label in make_labels(group, VoteKeys()):
        if label.good != label.bad:
            found[label.candidate] = int(label.good > label.bad)
    return found


def _finite(values: Tensor) -> list[float | None]:
    return [value if math.isfinite(value) else None for value in values.tolist()]


def load(run: Run) -> ImageReward:
    """The reward model that ``base`` names."""
    if run.base is None:
        raise BadInput("a reward model is needed", file=run.dir.run_file, field="base")
    return load_image_reward(run.base)


@torch.no_grad()
def model_scores(run: Run, model: ImageReward, groups: Sequence[Group]) -> list[list[float]]:
    """The scores of one batch of rows; a row without candidates has none."""
    files = [run.dir.media / str(candidate.image) for group in groups for candidate in group.candidates]
    if not files:
        return [[] for _ in groups]
    owner = [number for number, group in enumerate(groups) for _ in group.candidates]
    pixels = prepare(model.backbone, [open_image(file) for file in files])
    with torch.autocast(run.device.type, dtype=torch.bfloat16, enabled=run.config.precision == "bf16"):
        flat = model(
            pixels.to(run.device),
            torch.tensor(owner, device=run.device),
            [plain_text(group.prompt) for group in groups],
        ).tolist()
    return [[flat.pop(0) for _ in group.candidates] for group in groups]


def write_result(run: Run, rows: list[dict[str, Any]], folder: Path) -> None:
    """``scores.jsonl``, one row per row of the input, and what was selected by them."""
    for row in rows:
        append_json_line(folder / "scores.jsonl", row)
    if run.config.select == "pairs":
        chosen = judged_pairs(run.train, [row["scores"] for row in rows], margin=run.config.margin)
        text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in chosen)
        (folder / "selected.jsonl").write_text(text, encoding="utf-8")


def judged_pairs(
    groups: Sequence[Group], scores: Sequence[Sequence[float | None]], *, margin: float
) -> list[dict[str, Any]]:
    """The best and the worst picture of each row, in the row's order, with a judge's choice; rows without a
    gap above ``margin``, or with a picture that has no score, are left out.
    """
    rows = []
    for group, own in zip(groups, scores, strict=True):
        known = [score for score in own if score is not None]
        pair = best_and_worst(known) if known and len(known) == len(own) else None
        if pair is None or known[pair[0]] - known[pair[1]] <= margin:
            continue
        row = group.model_dump(mode="json", include={"prompt", "meta"})
        places = sorted(pair)
        row["candidates"] = [{"image": group.candidates[at].image} for at in places]
        rows.append(row | {"judgements": [{"kind": "judge", "choice": places.index(pair[0])}]})
    return rows


def inspect(run: Run) -> dict[str, Any]:
    """The rows as ``train`` will see them: none is dropped. Rules read no tokens."""
    return preview(
        run.train,
        reasons=[None] * len(run.train),
        pairs=lambda group: [],
        count_tokens=(lambda prompt: 0) if run.reward else load(run).backbone.count_tokens,
    )
