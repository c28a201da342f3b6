"""Scores of candidates by a reward model.

Rows of data/train.jsonl are groups; the result is ``scores.jsonl``, a row ``{"scores": [...]}`` for each in
the input's order, with as many scores as candidates. A group that cannot be scored has nulls, and ``"why"``.
"""

import json
import time
from pathlib import Path
from typing import Any

import torch

from training.tuning.data import Group, Text
from training.tuning.pairs import Pair
from training.tuning.plan import split
from training.tuning.run import Run
from training.tuning.rundir import finite, write_text
from training.tuning.text.batches import make_batch
from training.tuning.text.dataset import Prepared, prepare, preview, texts_of
from training.tuning.text.loading import load_for_use
from training.tuning.text.probe import check_reading
from training.tuning.text.setup import TOKEN_BUDGET, open_tokenizer
from training.tuning.text.tokens import PairTokenizer, Unusable, how_joined


@torch.no_grad()
def train(run: Run) -> None:
    """Score every candidate."""
    config = run.config
    data = _prepare(run)
    model = load_for_use(run.base, kind="reward", precision=config.precision, device=run.device)
    check_reading(model, kind="reward")
    scores: dict[int, list[float]] = {}
    start = time.perf_counter()
    run.dir.cut_back(-1)
    for micro in split(range(len(data.examples)), data.sizes, most=config.batch_size, budget=TOKEN_BUDGET):
        batch = make_batch(
            [data.examples[index].tokens for index in micro],
            causal=model.layout != "separate",
            device=model.device,
            position_offset=model.position_offset,
        )
        for index, own in zip(micro, model.scores(batch).split(batch.sizes), strict=True):
            scores[id(data.examples[index].group)] = own.tolist()
        speed = len(scores) / (time.perf_counter() - start)
        run.progress(len(scores), len(data.examples), {"groups_per_second": speed})

    def write(folder: Path) -> None:
        rows = [
            _row(group, scores.get(id(group)), data.why.get(number)) for number, group in enumerate(run.train)
        ]
        write_text(folder / "scores.jsonl", "".join(json.dumps(row) + "\n" for row in rows))

    run.publish(write)


def inspect(run: Run) -> dict[str, Any]:
    """The candidates as the model will see them."""
    tokenizer = open_tokenizer(run.base, kind="reward", max_length=run.config.max_length)
    pair = isinstance(tokenizer, PairTokenizer)
    return preview(_prepare(run), tokenizer.tokenizer, joined=how_joined(tokenizer.tokenizer, pair=pair))


def _prepare(run: Run) -> Prepared:
    tokenizer = open_tokenizer(run.base, kind="reward", max_length=run.config.max_length)
    return prepare(
        run.train, tokenizer, _all_candidates, file=run.dir.train_file, needs="at least one candidate"
    )


def _all_candidates(group: Group) -> tuple[list[Text], list[Pair]]:
    if not group.candidates:
        raise Unusable("no candidates")
    return texts_of(group), []


def _row(group: Group, scores: list[float] | None, why: str | None) -> dict[str, Any]:
    if scores is None:
        return {"scores": [None] * len(group.candidates), "why": why}
    named = finite({str(index): score for index, score in enumerate(scores)})
    return {"scores": [named[str(index)] for index in range(len(scores))]}
