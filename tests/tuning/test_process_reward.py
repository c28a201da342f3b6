"""The process reward model: labels from marks, where steps end, learning, and scores of whole answers."""

import math
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from tests.tuning.text_runs import make_run, metrics, read_rows, run
from training.tuning.data import Group
from training.tuning.text.steps import Step, labelled_steps, last_token, score_of_steps, steps_of

QUICK = {"max_length": 128, "log_every": 1, "lora": None}


def worked(count: int, *, seed: int = 0) -> list[dict[str, Any]]:
    """Answers of three steps; a step with "wrong" is the first error, and what follows is not marked."""
    rng = random.Random(seed)
    rows = []
    for number in range(count):
        error = rng.choice([0, 1, 2, None])
        steps = [f"step {rng.choice('abcd')} is {'wrong' if at == error else 'right'}" for at in range(3)]
        marks, start = [], 0
        for at, step in enumerate(steps):
            if error is None or at <= error:
                mark = {"candidate": 0, "type": "step", "step": at, "start": start, "end": start + len(step)}
                marks.append(mark | {"first_error": at == error})
            start += len(step) + 1
        text = "\n".join(steps)
        rows.append(
            {"prompt": f"question {number}", "candidates": [{"text": text}], "judgements": [{"marks": marks}]}
        )
    return rows


def test_labels_by_hand() -> None:
    """Two people: they agree on the first step, and are divided on the second; a span is no step."""
    step = {"candidate": 0, "type": "step"}
    judgements = [
        {"marks": [step | {"start": 0, "end": 3, "first_error": False}, step | {"start": 4, "end": 7}]},
        {"marks": [step | {"start": 0, "end": 3}, step | {"start": 4, "end": 7, "first_error": True}]},
        {"marks": [{"candidate": 0, "type": "span", "start": 0, "end": 2}]},
        {"kind": "gold", "marks": [step | {"start": 0, "end": 3, "category": "incorrect"}]},
    ]
    group = Group.model_validate(
        {"prompt": "p", "candidates": [{"text": "abc def"}], "judgements": judgements}
    )
    assert labelled_steps(group) == [Step(0, 0, 3, 1.0), Step(0, 4, 7, 0.5)]


def test_where_steps_are_and_end() -> None:
    assert steps_of("one\n\n two \n\nthree") == [(0, 3), (6, 9), (12, 17)]
    assert steps_of("one\ntwo") == [(0, 3), (4, 7)]
    assert steps_of(" one ") == [(1, 4)]
    offsets = [(0, 2), (2, 4), (4, 7), (7, 7)]
    assert last_token(offsets, (0, 3)) == 1
    assert last_token(offsets, (4, 7)) == 2
    assert last_token(offsets[:2], (4, 7)) is None


def test_scores_of_answers_by_hand() -> None:
    """Steps right with ½ and ¾: the worst has ln ½, all ln ⅜, the last ln ¾."""
    logits = torch.tensor([0.0, math.log(3)])
    for rule, share in (("min", 1 / 2), ("product", 3 / 8), ("last", 3 / 4)):
        assert score_of_steps(logits, rule).item() == pytest.approx(math.log(share))


@pytest.mark.parametrize("members", [1, 3])
def test_learns_and_scores(members: int, tmp_path: Path, learner: Callable[[str], Path]) -> None:
    """Held-out steps are told apart; a solution without error scores above one with; transformers agrees."""
    config = QUICK | {"learning_rate": 5e-3, "epochs": 8, "batch_size": 8, "members": members}
    folder = make_run(
        tmp_path / "run",
        "process_reward_model",
        base=learner("llama"),
        config=config,
        rows=worked(32),
        held_out=worked(16, seed=1),
    )
    assert run(folder) == 0
    last = metrics(folder)[-1]
    assert last["eval/accuracy"] >= 0.9
    assert last["eval/accuracy_wrong"] >= 0.8
    good, bad = "step a is right\nstep b is right", "step a is right\nstep b is wrong"
    row = {"prompt": "question", "candidates": [{"text": good}, {"text": bad}]}
    scoring = make_run(tmp_path / "score", "score", base=folder / "result", rows=[row])
    assert run(scoring) == 0
    (scored,) = read_rows(scoring / "result" / "scores.jsonl")
    assert scored["scores"][0] > scored["scores"][1] + 0.5

    model = AutoModelForSequenceClassification.from_pretrained(folder / "result").eval()
    tokenizer = AutoTokenizer.from_pretrained(folder / "result")
    turns = [{"role": "user", "content": "question"}, {"role": "assistant", "content": bad}]
    text = tokenizer.apply_chat_template(turns, tokenize=False)
    encoded = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
    ends = [text.index(step) + len(step) for step in bad.split("\n")]
    at = [next(i for i, (_, to) in enumerate(encoded["offset_mapping"]) if to >= end) for end in ends]
    with torch.no_grad():
        states = model.model(input_ids=torch.tensor([encoded["input_ids"]])).last_hidden_state[0, at]
        logits = model.score(states).mean(dim=1)
    assert scored["scores"][1] == pytest.approx(score_of_steps(logits, "min").item(), abs=1e-4)


def test_accumulation_equals_one_batch(tmp_path: Path, llama: Path) -> None:
    """However a step is split, each labelled step of reasoning counts the same."""
    found = []
    for size in (1, 8):
        config = QUICK | {"micro_batch_size": size, "batch_size": 8, "max_steps": 1}
        folder = make_run(
            tmp_path / str(size), "process_reward_model", base=llama, config=config, rows=worked(8)
        )
        assert run(folder) == 0
        found.append([metrics(folder)[0][name] for name in ("loss", "grad_norm")])
    assert found[0] == pytest.approx(found[1], rel=1e-4)


def test_what_cannot_be_used(tmp_path: Path, llama: Path, encoder: Path, capsys: Any) -> None:
    for name, base, rows, words in (
        ("encoder", encoder, worked(2), "an encoder sees what follows"),
        ("unmarked", llama, None, "no marked step"),
    ):
        folder = make_run(tmp_path / name, "process_reward_model", base=base, config=QUICK, rows=rows)
        assert run(folder) == 1
        assert words in capsys.readouterr().err
