"""The reward model: its loss by hand, learning, evaluation, the best checkpoint, and results that load."""

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import AutoPeftModelForSequenceClassification
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from tests.tuning.text_models import save_causal, tiny_tokenizer
from tests.tuning.text_runs import make_run, metrics, pair_rows, read_rows, result_weights, run
from training.tuning.losses.bradley_terry import bradley_terry_loss
from training.tuning.rundir import RunDir, step_of

REWARD = {"max_length": 128, "log_every": 1}


def preferring(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The same rows, in which the answer that ends in "a" always wins."""
    return [row | {"judgements": [{"choice": 0, "annotator": "ann"}]} for row in rows]


def one(value: float) -> torch.Tensor:
    return torch.tensor([value])


def test_loss_by_hand() -> None:
    """Gap 1: .3133; a tie at gap 1: (.3133 + 1.3133) / 2; gap 0: ln 2; a shift of both changes nothing."""
    assert bradley_terry_loss(one(2.0), one(1.0), one(1.0)).item() == pytest.approx(0.3133, abs=5e-5)
    assert bradley_terry_loss(one(2.0), one(1.0), one(0.5)).item() == pytest.approx(0.8133, abs=5e-5)
    assert bradley_terry_loss(one(0.0), one(0.0), one(1.0)).item() == pytest.approx(math.log(2))
    shifted = bradley_terry_loss(one(102.0), one(101.0), one(1.0))
    torch.testing.assert_close(shifted, bradley_terry_loss(one(2.0), one(1.0), one(1.0)))


@pytest.mark.system("s001-060")
def test_recovers_bradley_terry_scores() -> None:
    """Four items compared with exact Bradley-Terry shares: the scores come out, up to a constant."""
    scores = torch.tensor([0.0, 0.8, -0.5, 1.5], dtype=torch.float64)
    first, second = torch.combinations(torch.arange(4)).unbind(1)
    target = torch.sigmoid(scores[first] - scores[second])
    fitted = torch.zeros(4, dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.LBFGS([fitted], max_iter=200, tolerance_grad=1e-12, tolerance_change=1e-15)

    def closure() -> Any:
        optimizer.zero_grad()
        loss = bradley_terry_loss(fitted[first], fitted[second], target).mean()
        loss.backward()
        return loss

    optimizer.step(closure)
    found = fitted.detach() - fitted.detach()[0]
    torch.testing.assert_close(found, scores, rtol=0, atol=1e-6)


@pytest.mark.parametrize("architecture", ["llama", "gpt2"])
@pytest.mark.parametrize("lora", [{"r": 8, "alpha": 16}, None], ids=["lora", "full"])
def test_learns_and_loads_by_public_libraries(
    architecture: str, lora: Any, tmp_path: Path, learner: Callable[[str], Path]
) -> None:
    """Held-out pairs are told apart, and transformers alone gives the scores that the score method gives."""
    config = REWARD | {"lora": lora, "learning_rate": 2e-2 if lora else 5e-3, "epochs": 6}
    bar = {"llama": 0.9, "gpt2": 0.75}[architecture]
    rows, held_out = preferring(pair_rows(32)), preferring(pair_rows(16, seed=1))
    base = learner(architecture)
    folder = make_run(
        tmp_path / "run", "reward_model", base=base, config=config, rows=rows, held_out=held_out
    )
    assert run(folder) == 0
    assert max(row.get("eval/accuracy", 0) for row in metrics(folder)) >= bar

    scoring = make_run(tmp_path / "score", "score", base=folder / "result", rows=held_out[:4])
    assert run(scoring) == 0
    scores = [row["scores"] for row in read_rows(scoring / "result" / "scores.jsonl")]
    assert [len(own) for own in scores] == [2, 2, 2, 2]

    tokenizer = AutoTokenizer.from_pretrained(folder / "result")
    auto = AutoPeftModelForSequenceClassification if lora else AutoModelForSequenceClassification
    model = auto.from_pretrained(folder / "result", num_labels=1).eval()
    texts = [
        tokenizer.apply_chat_template(
            [{"role": "user", "content": row["prompt"]}, {"role": "assistant", "content": candidate["text"]}],
            tokenize=False,
        ).rstrip()
        for row in held_out[:4]
        for candidate in row["candidates"]
    ]
    inputs = tokenizer(texts, add_special_tokens=False, padding=True, return_tensors="pt")
    with torch.no_grad():
        public = model(input_ids=inputs["input_ids"], attention_mask=inputs["attention_mask"]).logits[:, 0]
    torch.testing.assert_close(public, torch.tensor(scores).flatten(), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("lora", [{"r": 4}, None], ids=["lora", "full"])
@pytest.mark.parametrize("kind", ["llama", "encoder"])
def test_bfloat16_keeps_scores_precise(kind: str, lora: Any, tmp_path: Path, request: Any) -> None:
    """The body is bfloat16, the head and the scores are not: they do not fall on bfloat16's coarse grid."""
    base = request.getfixturevalue(kind)
    config = REWARD | {"precision": "bf16", "lora": lora, "max_steps": 2}
    folder = make_run(tmp_path / "run", "reward_model", base=base, config=config)
    assert run(folder) == 0
    scoring = make_run(tmp_path / "s", "score", base=folder / "result", config={"precision": "bf16"})
    assert run(scoring) == 0
    rows = read_rows(scoring / "result" / "scores.jsonl")
    scores = torch.tensor([row["scores"] for row in rows])
    assert (scores.bfloat16().float() != scores).any()


def test_the_head_is_trained_and_saved_beside_an_adapter(tmp_path: Path, llama: Path) -> None:
    config = REWARD | {"learning_rate": 1e-2, "max_steps": 2}
    runs = [
        make_run(tmp_path / str(steps), "reward_model", base=llama, config=config | {"max_steps": steps})
        for steps in (1, 4)
    ]
    assert [run(folder) for folder in runs] == [0, 0]
    heads = [
        next(value for name, value in result_weights(folder).items() if "score" in name) for folder in runs
    ]
    assert heads[0].shape == (1, 32)
    assert not torch.equal(heads[0], heads[1])


def test_encoder(tmp_path: Path, encoder: Path) -> None:
    """An encoder learns too; its scores are those of transformers' own forward pass on text pairs."""
    config = REWARD | {"lora": None, "learning_rate": 2e-3, "epochs": 8, "max_length": 64}
    rows, held_out = preferring(pair_rows(32)), preferring(pair_rows(12, seed=1))
    rows = [row | {"prompt": row["prompt"][:12]} for row in rows]
    held_out = [row | {"prompt": row["prompt"][:12]} for row in held_out]
    folder = make_run(
        tmp_path / "run", "reward_model", base=encoder, config=config, rows=rows, held_out=held_out
    )
    assert run(folder) == 0
    scoring = make_run(
        tmp_path / "score", "score", base=folder / "result", rows=held_out[:3], config={"max_length": 64}
    )
    assert run(scoring) == 0
    scores = [row["scores"] for row in read_rows(scoring / "result" / "scores.jsonl")]
    model = AutoModelForSequenceClassification.from_pretrained(folder / "result").eval()
    tokenizer = AutoTokenizer.from_pretrained(folder / "result")
    for row, own in zip(held_out, scores, strict=False):
        for candidate, score in zip(row["candidates"], own, strict=True):
            inputs = tokenizer(
                row["prompt"], candidate["text"], return_tensors="pt", truncation="only_second", max_length=64
            )
            assert model(**inputs).logits.item() == pytest.approx(score, abs=1e-5)


@pytest.mark.parametrize("kind", ["llama", "encoder"])
def test_scores_do_not_depend_on_the_batch(kind: str, tmp_path: Path, request: Any) -> None:
    base = request.getfixturevalue(kind)
    folder = make_run(tmp_path / "run", "reward_model", base=base, config=REWARD | {"max_steps": 2})
    assert run(folder) == 0
    scores = []
    for size in (1, 12):
        scoring = make_run(
            tmp_path / f"s{size}", "score", base=folder / "result", config={"batch_size": size}
        )
        assert run(scoring) == 0
        rows = read_rows(scoring / "result" / "scores.jsonl")
        scores.append(torch.tensor([row["scores"] for row in rows]))
    torch.testing.assert_close(scores[0], scores[1], rtol=1e-4, atol=1e-5)


def test_a_model_whose_only_special_token_ends_texts(tmp_path: Path) -> None:
    """GPT-2's tokens: padding is the end token. Texts get none, and transformers scores what we scored."""
    tokenizer = tiny_tokenizer()
    tokenizer.pad_token = tokenizer.unk_token = tokenizer.bos_token = tokenizer.eos_token
    base = save_causal(tmp_path / "base", "gpt2", tokenizer=tokenizer, pad_token_id=2)
    folder = make_run(
        tmp_path / "run", "reward_model", base=base, config=REWARD | {"lora": None, "max_steps": 2}
    )
    assert run(folder) == 0
    scoring = make_run(tmp_path / "score", "score", base=folder / "result", rows=pair_rows(1))
    assert run(scoring) == 0
    (row,) = read_rows(scoring / "result" / "scores.jsonl")
    model = AutoModelForSequenceClassification.from_pretrained(folder / "result").eval()
    saved = AutoTokenizer.from_pretrained(folder / "result")
    given = pair_rows(1)[0]
    for candidate, score in zip(given["candidates"], row["scores"], strict=True):
        turns = [
            {"role": "user", "content": given["prompt"]},
            {"role": "assistant", "content": candidate["text"]},
        ]
        text = saved.apply_chat_template(turns, tokenize=False).rstrip().removesuffix("</s>")
        ids = saved(text, add_special_tokens=False, return_tensors="pt")["input_ids"]
        assert model(input_ids=ids).logits.item() == pytest.approx(score, abs=1e-5)


def test_the_best_checkpoint_is_the_result(tmp_path: Path, llama: Path) -> None:
    """Held-out labels are flipped, so evaluation gets worse: the result is an early checkpoint."""
    rows = preferring(pair_rows(16))
    flipped = [row | {"judgements": [{"choice": 1}]} for row in preferring(pair_rows(16, seed=1))]
    config = REWARD | {"learning_rate": 1e-2, "epochs": 10, "eval_every": 2, "metric_for_best": "eval/loss"}
    folder = make_run(
        tmp_path / "best", "reward_model", base=llama, config=config, rows=rows, held_out=flipped
    )
    assert run(folder) == 0
    losses = {row["step"]: row["eval/loss"] for row in metrics(folder) if "eval/loss" in row}
    best = min(losses, key=lambda step: losses[step])
    assert best < max(losses)
    found = json.loads((folder / "result" / "metadata.json").read_text())
    assert found["metrics"]["eval/loss"] == losses[best]
    assert best in [step_of(path) for path in RunDir(folder).checkpoints()]
    options = {"rows": rows, "held_out": flipped}
    last = make_run(
        tmp_path / "last", "reward_model", base=llama, config=config | {"keep_best": False}, **options
    )
    assert run(last) == 0
    one, two = result_weights(folder), result_weights(last)
    assert any(not torch.equal(value, two[name]) for name, value in one.items())


def test_evaluation_by_hand(tmp_path: Path, llama: Path) -> None:
    """Votes 2:1, 1:1 and a tie: accuracy is over all votes, the majority only over the first."""
    group = pair_rows(1)[0]
    held_out = [
        group | {"judgements": [{"choice": 0}, {"choice": 0}, {"choice": 1}]},
        group | {"judgements": [{"choice": 0}, {"choice": 1}]},
        group | {"judgements": [{"choice": "tie"}]},
    ]
    config = REWARD | {"max_steps": 1, "learning_rate": 1e-9}
    folder = make_run(tmp_path / "run", "reward_model", base=llama, config=config, held_out=held_out)
    assert run(folder) == 0
    values = metrics(folder)[-1]
    # All three are the same two answers, scored alike; where the vote is tied, either order is half right.
    right = values["eval/accuracy_majority"]
    assert right in (0, 1)
    assert values["eval/accuracy"] == pytest.approx(((2 if right else 1) + 1 + 0.5) / 6)
    assert values["eval/accuracy_high"] - values["eval/accuracy_low"] == pytest.approx(0.7935, abs=1e-3)


def test_resume_equals_uninterrupted_with_best(tmp_path: Path, llama: Path, monkeypatch: Any) -> None:
    from training.tuning.methods import reward_model

    config = REWARD | {"learning_rate": 5e-3, "epochs": 4, "batch_size": 4, "eval_every": 3}
    rows, held_out = preferring(pair_rows(12)), preferring(pair_rows(6, seed=4))
    folders = [
        make_run(tmp_path / name, "reward_model", base=llama, config=config, rows=rows, held_out=held_out)
        for name in ("whole", "parts")
    ]
    assert run(folders[0]) == 0
    update = reward_model.update

    def cancel_in_step_five(*args: Any, **options: Any) -> Any:
        if options["step"] == 5:
            (folders[1] / "cancel").touch()
        return update(*args, **options)

    monkeypatch.setattr(reward_model, "update", cancel_in_step_five)
    assert run(folders[1]) == 130
    monkeypatch.setattr(reward_model, "update", update)
    assert run(folders[1]) == 0
    assert metrics(folders[0]) == metrics(folders[1])
    one, two = result_weights(folders[0]), result_weights(folders[1])
    assert all(torch.equal(value, two[name]) for name, value in one.items())


def test_a_reward_model_is_trained_on(tmp_path: Path, llama: Path) -> None:
    """A second round starts from the first one's adapter and head."""
    first = make_run(tmp_path / "one", "reward_model", base=llama, config=REWARD | {"learning_rate": 1e-2})
    assert run(first) == 0
    config = REWARD | {"learning_rate": 1e-12, "max_steps": 1}
    second = make_run(tmp_path / "two", "reward_model", base=first / "result", config=config)
    assert run(second) == 0
    one, two = result_weights(first), result_weights(second)
    assert one.keys() == two.keys()
    for name, value in one.items():
        torch.testing.assert_close(value, two[name], rtol=1e-5, atol=1e-6)


def test_candidates_that_cannot_be_scored_are_named(tmp_path: Path, llama: Path) -> None:
    folder = make_run(tmp_path / "run", "reward_model", base=llama, config=QUICK_REWARD)
    assert run(folder) == 0
    rows = [
        {"prompt": "Why?", "candidates": [{"text": "same"}, {"text": "same"}, {"text": "other"}]},
        {"prompt": "Why? " * 300, "candidates": [{"text": "a"}]},
    ]
    scoring = make_run(tmp_path / "score", "score", base=folder / "result", rows=rows)
    assert run(scoring) == 0
    first, second = read_rows(scoring / "result" / "scores.jsonl")
    assert first["scores"][0] == pytest.approx(first["scores"][1], abs=1e-6)
    assert first["scores"][0] != first["scores"][2]
    assert second == {"scores": [None], "why": "the prompt is longer than the context"}


QUICK_REWARD = REWARD | {"max_steps": 1}


def test_wrong_base_for_scoring(tmp_path: Path, llama: Path, capsys: Any) -> None:
    """A language model has no trained score head: scoring with random weights would be silently wrong."""
    folder = make_run(tmp_path / "run", "score", base=llama, rows=pair_rows(2))
    assert run(folder) == 1
    assert "no reward model" in capsys.readouterr().err
