"""Answers to prompts, for the next comparison.

Rows of data/train.jsonl need a prompt only. The result is ``generations.jsonl``: a row per prompt in the
input's order, ``{"prompt", "candidates": [{"text", "source"}], "meta"}``. What is written does not depend on
the batch size: every answer has its own random numbers, from the run's seed, the row and its number. Finished
batches are kept in ``generations.partial.jsonl``, so that a run that resumes goes on where it was.
"""

import json
import time
from pathlib import Path
from typing import Any

from training.tuning.data import Group
from training.tuning.errors import BadInput
from training.tuning.run import Run
from training.tuning.rundir import append_json_line, whole_rows, write_text
from training.tuning.text.dataset import PREVIEW_ROWS, summary
from training.tuning.text.generation import batches_of
from training.tuning.text.loading import load_for_use
from training.tuning.text.samples import as_json
from training.tuning.text.server import open_server
from training.tuning.text.setup import open_group_tokenizer
from training.tuning.text.tokens import GroupTokenizer, Unusable, how_joined
from training.tuning.text.writers import open_writer


def train(run: Run) -> None:
    """Write the answers."""
    config = run.config
    tokenizer = open_group_tokenizer(run.base, max_length=None)
    prompts, why = encode_prompts(run.train, tokenizer)
    if not prompts:
        raise BadInput(
            f"no prompt can be used: {'; '.join(sorted(set(why.values())))}", file=run.dir.train_file
        )
    model = load_for_use(run.base, kind="causal", precision=config.precision, device=run.device)
    if config.generation == "server":
        model.server = open_server(run.dir.path)

    writer = open_writer(run, model, prompts)
    wanted = [(row, number) for row in prompts for number in range(config.samples_per_prompt)]
    partial = run.dir.path / "generations.partial.jsonl"
    written = (
        {(row["row"], row["number"]): row["text"] for row in whole_rows(partial)} if partial.exists() else {}
    )
    write_text(partial, "".join(json.dumps(_partial(key, text)) + "\n" for key, text in written.items()))
    missing = [key for key in wanted if key not in written]
    run.dir.cut_back(len(written))
    start = time.perf_counter()
    batches = batches_of(
        [prompts[row] for row, _ in missing],
        context=tokenizer.context,
        max_new_tokens=config.max_new_tokens,
        size=config.batch_size,
    )
    for indices, room in batches:
        keys = [missing[index] for index in indices]
        names = [f"{run.seed}/generate/{row}/{number}" for row, number in keys]
        texts = writer([row for row, _ in keys], names, room)
        for key, text in zip(keys, texts, strict=True):
            written[key] = text
            append_json_line(partial, _partial(key, text))
        speed = len(written) / (time.perf_counter() - start)
        run.progress(len(written), len(wanted), {"answers_per_second": speed})

    def write(folder: Path) -> None:
        rows = [
            {
                "prompt": as_json(run.train[row].prompt),
                "candidates": [
                    {"text": written[row, number], "source": run.base}
                    for number in range(config.samples_per_prompt)
                ],
                "meta": run.train[row].meta,
            }
            for row in prompts
        ]
        write_text(
            folder / "generations.jsonl", "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
        )
        if why:
            dropped = [{"line": run.train[row].line, "why": reason} for row, reason in why.items()]
            write_text(folder / "dropped.jsonl", "".join(json.dumps(row) + "\n" for row in dropped))

    run.publish(write)
    partial.unlink()


def encode_prompts(
    groups: list[Group], tokenizer: GroupTokenizer
) -> tuple[dict[int, list[int]], dict[int, str]]:
    """Tokens of the prompts that can be answered, and why the others cannot, both by row."""
    prompts: dict[int, list[int]] = {}
    why: dict[int, str] = {}
    for row, group in enumerate(groups):
        try:
            prompts[row] = tokenizer.prompt_ids(group.prompt)
        except Unusable as reason:
            why[row] = str(reason)
    return prompts, why


def inspect(run: Run) -> dict[str, Any]:
    """The prompts as the model will see them."""
    tokenizer = open_group_tokenizer(run.base, max_length=None)
    prompts, why = encode_prompts(run.train, tokenizer)
    rows = [
        {
            "line": group.line,
            "prompt": as_json(group.prompt),
            "candidates": [],
            "tokens": {"prompt": len(prompts[row])} if row in prompts else None,
            "kept": row in prompts,
            "why": why.get(row),
        }
        for row, group in enumerate(run.train[:PREVIEW_ROWS])
    ]
    return summary(
        rows=rows,
        lengths=[len(ids) for ids in prompts.values()],
        groups=len(prompts),
        pairs=0,
        dropped=list(why.values()),
        total_tokens=sum(len(ids) for ids in prompts.values()),
        joined=how_joined(tokenizer.tokenizer, pair=False),
    )


def _partial(key: tuple[int, int], text: str) -> dict[str, Any]:
    return {"row": key[0], "number": key[1], "text": text}
