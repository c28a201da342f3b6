"""The reward model's losses and heads in runs: they learn, their results load, and their scores are used."""

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import AutoPeftModelForSequenceClassification
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from tests.tuning.text_runs import make_run, metrics, pair_rows, read_rows, result_weights, run
from training.tuning.reading import load_groups
from training.tuning.rewards.compose import open_rewards
from training.tuning.rewards.info import read_info
from training.tuning.rewards.spec import parse_rewards

LORA = {"r": 8, "alpha": 16}
FAST = {"max_length": 96, "log_every": 1, "learning_rate": 2e-2, "epochs": 6, "lora": LORA}
ONCE = FAST | {"learning_rate": 1e-4, "epochs": 1, "max_steps": 1}


def graded_rows(count: int, *, seed: int = 0) -> list[dict[str, Any]]:
    """Three candidates that end in a, b and c: a is better than b, and b than c, however one says it."""
    rows = []
    for number, row in enumerate(pair_rows(count, seed=seed)):
        stem = row["candidates"][0]["text"][:-2]
        ratings = [{"help": 4, "brief": 1}, {"help": 2, "brief": 3}, {"help": 0, "brief": 5}]
        if number % 3 == 0:
            ratings = [{"help": rating["help"], "brief": None} for rating in ratings]
        rows.append(
            {
                "prompt": row["prompt"],
                "candidates": [{"text": f"{stem} {end}"} for end in "abc"],
                "judgements": [{"ranking": [[0], [1], [2]], "ratings": ratings, "annotator": "ann"}],
                "meta": {"source": "two" if number % 2 else "one"},
            }
        )
    return rows


def scores_of(
    tmp_path: Path, folder: Path, rows: list[dict[str, Any]], **config: Any
) -> list[dict[str, Any]]:
    scoring = make_run(tmp_path, "score", base=folder, rows=rows, config=config)
    assert run(scoring) == 0
    return read_rows(scoring / "result" / "scores.jsonl")


@pytest.mark.parametrize(
    "config",
    [
        {"loss": "plackett_luce"},
        {"loss": "best_of_k"},
        {"loss": "ordinal"},
        {
            "loss": "regression",
            "attribute_weights": {"help": 1.0},
            "lora": None,
            "learning_rate": 5e-3,
            "epochs": 10,
        },
        {"loss": "general_preference"},
        {"ties": "rao_kupper"},
        {"ties": "davidson", "tie_rate": 1.0},
        {"margin": 1.0, "centring": 0.01, "label_smoothing": 0.1},
        {"members": 3, "aggregate": "min", "bootstrap": True, "centring": 0.01},
        {"members": 2, "member_kind": "adapters", "aggregate": "mean_std", "penalty": 1.0},
        {"members": 2, "correction": "peer_review", "noise_rate": 0.3},
        {"sources": "min_norm"},
        {"normalise": "standardise"},
    ],
    ids=lambda config: " ".join(str(value) for value in config.values()),
)
def test_learns_an_order(config: dict[str, Any], tmp_path: Path, learner: Callable[[str], Path]) -> None:
    """On held-out prompts a scores above b, and b above c, after every loss."""
    rows, held_out = graded_rows(24), graded_rows(8, seed=1)
    folder = make_run(
        tmp_path / "run",
        "reward_model",
        base=learner("llama"),
        config=FAST | config,
        rows=rows,
        held_out=held_out,
    )
    assert run(folder) == 0
    assert metrics(folder)[-1]["eval/accuracy"] >= 0.9
    scored = scores_of(tmp_path / "score", folder / "result", held_out)
    orders = [
        one > other for row in scored for one, other in zip(row["scores"], row["scores"][1:], strict=False)
    ]
    assert sum(orders) / len(orders) >= (0.5 if config.get("loss") == "best_of_k" else 0.85)
    assert all(row["scores"][0] > row["scores"][2] for row in scored[:4])


def zero_start(tmp_path: Path, base: Path, **config: Any) -> float:
    """The loss of the first step, from a head of zeros."""
    folder = make_run(
        tmp_path,
        "reward_model",
        base=base,
        config=ONCE | {"start_head": "zero"} | config,
        rows=graded_rows(8),
    )
    assert run(folder) == 0
    return float(metrics(folder)[0]["loss"])


@pytest.mark.parametrize("kind", ["llama", "encoder"])
@pytest.mark.parametrize("lora", [{"r": 4}, None], ids=["lora", "full"])
@pytest.mark.parametrize(
    ("config", "expected"),
    [
        ({}, math.log(2)),
        ({"precision": "bf16"}, math.log(2)),
        ({"members": 3}, math.log(2)),
        ({"margin": 1.0}, math.log(1 + math.e)),
        ({"loss": "best_of_k"}, math.log(3)),
        ({"loss": "plackett_luce"}, math.log(3) + math.log(2)),
        ({"ties": "rao_kupper"}, math.log(4)),
        ({"loss": "general_preference"}, math.log(2)),
        # Ratings 4, 2, 0 of help; 1, 3, 5 of brief in the rows that have it: (5 of 8): means 20/3 and 35/3.
        ({"loss": "regression", "attributes": ["help"]}, 20 / 3),
    ],
    ids=lambda value: str(value)[:40] if isinstance(value, dict) else "",
)
def test_step_0_is_exact(
    config: dict[str, Any], expected: float, lora: Any, kind: str, tmp_path: Path, request: Any
) -> None:
    base = request.getfixturevalue(kind)
    assert zero_start(tmp_path / "run", base, lora=lora, **config) == pytest.approx(expected, rel=1e-6)


@pytest.mark.system("s002-026")
@pytest.mark.parametrize("lora", [{"r": 4}, None], ids=["lora", "full"])
def test_attributes_load_by_public_libraries(lora: Any, tmp_path: Path, llama: Path) -> None:
    """num_labels is the number of attributes; logits are what ``score`` calls outputs."""
    config = ONCE | {"loss": "regression", "lora": lora, "max_steps": 3, "learning_rate": 1e-2}
    folder = make_run(tmp_path / "run", "reward_model", base=llama, config=config, rows=graded_rows(6))
    assert run(folder) == 0
    info = read_info(folder / "result")
    assert info is not None
    assert (info.kind, info.names, info.outputs) == ("attributes", ["brief", "help"], 2)
    rows = graded_rows(2, seed=3)
    scored = scores_of(tmp_path / "score", folder / "result", rows)
    auto = AutoPeftModelForSequenceClassification if lora else AutoModelForSequenceClassification
    model = auto.from_pretrained(folder / "result", num_labels=2).eval()
    tokenizer = AutoTokenizer.from_pretrained(folder / "result")
    for row, found in zip(rows, scored, strict=True):
        for candidate, own, score in zip(row["candidates"], found["outputs"], found["scores"], strict=True):
            turns = [
                {"role": "user", "content": row["prompt"]},
                {"role": "assistant", "content": candidate["text"]},
            ]
            text = tokenizer.apply_chat_template(turns, tokenize=False).rstrip()
            ids = tokenizer(text, add_special_tokens=False, return_tensors="pt")["input_ids"]
            with torch.no_grad():
                logits = model(input_ids=ids).logits[0]
            assert logits.tolist() == pytest.approx(own, rel=1e-4, abs=1e-5)
            assert score == pytest.approx(sum(own) / 2, rel=1e-5)
    assert "The outputs are brief, help, in this order." in (folder / "result" / "README.md").read_text()
    assert "num_labels=2" in (folder / "result" / "README.md").read_text()


def test_missing_ratings_pull_at_nothing(tmp_path: Path, llama: Path) -> None:
    """The head of an attribute that nobody rated stays as it was, bit for bit."""
    rows = graded_rows(6)
    for row in rows:
        for rating in row["judgements"][0]["ratings"]:
            rating["brief"] = None
    config = ONCE | {
        "loss": "regression",
        "attributes": ["brief", "help"],
        "start_head": "zero",
        "max_steps": 3,
    }
    folder = make_run(tmp_path / "run", "reward_model", base=llama, config=config, rows=rows)
    assert run(folder) == 0
    head = next(value for name, value in result_weights(folder).items() if "score" in name)
    assert head[0].abs().max() == 0
    assert head[1].abs().max() > 0


def test_an_ensemble_of_heads(tmp_path: Path, llama: Path) -> None:
    """Members start apart, their outputs and disagreement are told, and any aggregate can be asked for."""
    config = ONCE | {"members": 4, "aggregate": "min"}
    folder = make_run(tmp_path / "run", "reward_model", base=llama, config=config, rows=graded_rows(6))
    assert run(folder) == 0
    assert metrics(folder)[0]["disagreement"] > 0
    (row,) = scores_of(tmp_path / "score", folder / "result", graded_rows(1))
    outputs = torch.tensor(row["outputs"])
    assert outputs.shape == (3, 4)
    torch.testing.assert_close(torch.tensor(row["scores"]), outputs.amin(dim=1))
    torch.testing.assert_close(torch.tensor(row["disagreement"]), outputs.std(dim=1, unbiased=False))
    reward = [
        {"model": str(folder / "result"), "transform": {"name": "aggregate", "how": how, "penalty": 2.0}}
        for how in ("mean", "mean_variance")
    ]
    rewards = open_rewards(
        parse_rewards(reward, modality="text"), modality="text", device=torch.device("cpu")
    )
    one = graded_rows(1)[0]
    texts = [candidate["text"] for candidate in one["candidates"]]
    found = rewards.parts([one["prompt"]] * 3, texts)
    torch.testing.assert_close(found.parts[:, 0], outputs.mean(dim=1), rtol=1e-4, atol=1e-5)
    uwo = outputs.mean(dim=1) - 2 * outputs.var(dim=1, unbiased=False)
    torch.testing.assert_close(found.parts[:, 1], uwo, rtol=1e-4, atol=1e-5)


@pytest.mark.system("s000-090")
def test_an_ensemble_of_adapters(tmp_path: Path, llama: Path) -> None:
    """A folder for each member, which peft loads alone; both are trained; ``score`` gives their outputs."""
    config = ONCE | {"members": 2, "member_kind": "adapters", "learning_rate": 1e-2, "max_steps": 3}
    folder = make_run(tmp_path / "run", "reward_model", base=llama, config=config, rows=graded_rows(6))
    assert run(folder) == 0
    row = graded_rows(1)[0]
    (scored,) = scores_of(tmp_path / "score", folder / "result", [row])
    tokenizer = AutoTokenizer.from_pretrained(folder / "result")
    for number in range(2):
        own = folder / "result" / f"member-{number}"
        model = AutoPeftModelForSequenceClassification.from_pretrained(own, num_labels=1).eval()
        assert any("lora_B" in name and value.abs().max() > 0 for name, value in model.named_parameters())
        for candidate, outputs in zip(row["candidates"], scored["outputs"], strict=True):
            turns = [
                {"role": "user", "content": row["prompt"]},
                {"role": "assistant", "content": candidate["text"]},
            ]
            text = tokenizer.apply_chat_template(turns, tokenize=False).rstrip()
            ids = tokenizer(text, add_special_tokens=False, return_tensors="pt")["input_ids"]
            with torch.no_grad():
                assert model(input_ids=ids).logits.item() == pytest.approx(
                    outputs[number], rel=1e-3, abs=1e-4
                )
    assert "member-0" in (folder / "result" / "README.md").read_text()
    assert scored["outputs"][0][0] != scored["outputs"][0][1]


def test_an_ensemble_of_adapters_resumes(tmp_path: Path, llama: Path, monkeypatch: Any) -> None:
    """Stopped and started again, adapters, heads and the ordinal's cuts are what they would be."""
    from training.tuning.methods import reward_model

    adapters = {"members": 2, "member_kind": "adapters", "bootstrap": True}
    for name, more in (("adapters", adapters), ("cuts", {"loss": "ordinal"})):
        config = FAST | more | {"epochs": 1, "batch_size": 2, "normalise": "standardise"}
        folders = [
            make_run(tmp_path / name / part, "reward_model", base=llama, config=config, rows=graded_rows(8))
            for part in ("whole", "parts")
        ]
        assert run(folders[0]) == 0
        update = reward_model.update

        def cancel_in_step_two(
            *args: Any, stop: Path = folders[1], plain: Any = update, **options: Any
        ) -> Any:
            if options["step"] == 2:
                (stop / "cancel").touch()
            return plain(*args, **options)

        monkeypatch.setattr(reward_model, "update", cancel_in_step_two)
        assert run(folders[1]) == 130
        monkeypatch.setattr(reward_model, "update", update)
        assert run(folders[1]) == 0
        assert metrics(folders[0]) == metrics(folders[1])
        assert read_info(folders[0] / "result") == read_info(folders[1] / "result")


@pytest.mark.system("s001-060")
@pytest.mark.parametrize("rule", ["zero_mean", "standardise"])
def test_normalised_scores(rule: str, tmp_path: Path, llama: Path) -> None:
    """After the bias, reference answers average 0; standardised, their variance is 1 as well."""
    rows = [row | {"reference": "a short and kind answer"} for row in graded_rows(6)]
    config = ONCE | {"normalise": rule, "normalise_on": "references", "max_steps": 2, "learning_rate": 1e-2}
    folder = make_run(tmp_path / "run", "reward_model", base=llama, config=config, rows=rows)
    assert run(folder) == 0
    references = [{"prompt": row["prompt"], "candidates": [{"text": row["reference"]}]} for row in rows]
    scored = scores_of(tmp_path / "score", folder / "result", references)
    scores = torch.tensor([row["scores"][0] for row in scored])
    assert scores.mean().item() == pytest.approx(0, abs=1e-4)
    assert scores.std(unbiased=False).item() == pytest.approx(1, abs=1e-3) or rule == "zero_mean"


@pytest.mark.system("s000-031")
def test_scores_start_with_variance_one(tmp_path: Path, llama: Path) -> None:
    """Before and after training the gain is set so that the answers' scores have variance 1."""
    config = ONCE | {"normalise": "standardise", "learning_rate": 1e-12, "loss": "best_of_k"}
    folder = make_run(tmp_path / "run", "reward_model", base=llama, config=config, rows=graded_rows(6))
    assert run(folder) == 0
    info = read_info(folder / "result")
    assert info is not None
    # Nothing was trained: the head had been scaled, and the second scale is 1.
    assert info.scale == pytest.approx([1.0], abs=1e-3)
    scored = scores_of(tmp_path / "score", folder / "result", graded_rows(6))
    scores = torch.tensor([row["scores"] for row in scored])
    assert scores.mean().item() == pytest.approx(0, abs=1e-4)
    assert scores.std(unbiased=False).item() == pytest.approx(1, abs=1e-3)


@pytest.mark.system("s001-023")
def test_scores_depend_on_the_context(tmp_path: Path, learner: Callable[[str], Path]) -> None:
    """Preferences reverse with the criterion; one model learns both, and ``score`` must be told which."""
    rows = []
    for row in pair_rows(24):
        judged = [{"choice": 0, "context": "be first"}, {"choice": 1, "context": "be second"}]
        rows.append(row | {"judgements": judged})
    config = FAST | {
        "condition": "context",
        "epochs": 16,
        "batch_size": 4,
        "lora": None,
        "learning_rate": 5e-3,
    }
    folder = make_run(tmp_path / "run", "reward_model", base=learner("llama"), config=config, rows=rows)
    assert run(folder) == 0
    share = {}
    for name in ("be first", "be second"):
        scored = scores_of(tmp_path / name, folder / "result", rows[:12], context=name)
        share[name] = sum(row["scores"][0] > row["scores"][1] for row in scored) / len(scored)
    assert share["be first"] >= 0.8
    assert share["be second"] <= 0.2
    without = make_run(tmp_path / "without", "score", base=folder / "result", rows=rows[:2])
    assert run(without) == 1


@pytest.mark.system("s001-042")
def test_labels_corrected_by_other_rewards(tmp_path: Path, llama: Path) -> None:
    """Longer is better, says the rule: flipped, softened or leading pairs, seen in the loss of step 1.

    From a head of zeros a pair of target p and lead m costs p·ln(1 + e^m) + (1 − p)·ln(1 + e^m).
    """
    rows = [
        {
            "prompt": f"p{n}",
            "candidates": [{"text": "a b c"}, {"text": "d"}],
            "judgements": [{"choice": n % 2}],
        }
        for n in range(4)
    ]
    reward = [{"rule": "words"}]
    losses = {}
    for how in ("margin", "flip", "smooth"):
        config = ONCE | {"correction": how, "start_head": "zero"}
        config |= {} if how == "margin" else {"noise_rate": 0.5}
        folder = make_run(tmp_path / how, "reward_model", base=llama, config=config, rows=rows, reward=reward)
        assert run(folder) == 0
        losses[how] = metrics(folder)[0]["loss"]
        assert metrics(folder)[0]["rewards/accuracy"] == 0.5
    # Strengths are 2, −2, 2, −2.
    expected = (math.log(1 + math.e**2) + math.log(1 + math.e**-2)) / 2
    assert losses["margin"] == pytest.approx(expected, rel=1e-6)
    assert losses["flip"] == losses["smooth"] == pytest.approx(math.log(2), rel=1e-6)


def test_flipped_and_softened_targets() -> None:
    """Of two doubtful pairs the contradicted one is turned round; with smooth both count 9 to 1."""
    from training.tuning.config import RewardModelConfig
    from training.tuning.pairs import Pair
    from training.tuning.text.reward_training import _correct

    pair = Pair(0, 1)
    assert _correct(pair, -1.0, "flip", 0.5).target == 0
    assert _correct(pair, 0.4, "flip", 0.5).target == 1
    assert _correct(pair, 0.4, "smooth", 0.5).target == pytest.approx(0.9)
    assert _correct(pair, 0.6, "smooth", 0.5).target == 1
    assert _correct(pair, -3.0, "margin", 0.5).lead == -3
    assert RewardModelConfig(correction="flip").noise_rate == 0.2


@pytest.mark.parametrize("kind", ["llama", "encoder"])
def test_outputs_do_not_depend_on_the_batch(kind: str, tmp_path: Path, request: Any) -> None:
    base = request.getfixturevalue(kind)
    folder = make_run(
        tmp_path / "run", "reward_model", base=base, config=ONCE | {"members": 3}, rows=graded_rows(5)
    )
    assert run(folder) == 0
    found = []
    for size in (1, 5):
        scored = scores_of(tmp_path / f"s{size}", folder / "result", graded_rows(5), batch_size=size)
        found.append(torch.tensor([row["outputs"] for row in scored]))
    torch.testing.assert_close(found[0], found[1], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    "config",
    [
        {},
        {"loss": "plackett_luce"},
        {"loss": "regression"},
        {"sources": "min_norm"},
        {"members": 2, "bootstrap": True},
        {"members": 2, "correction": "peer_review"},
    ],
    ids=str,
)
def test_accumulation_equals_one_batch(config: dict[str, Any], tmp_path: Path, llama: Path) -> None:
    """Two steps of 6 groups at once and one by one: the same weights."""
    found = []
    for size in (1, 6):
        more = config | {"micro_batch_size": size, "batch_size": 6, "max_steps": 2, "lora": None}
        folder = make_run(
            tmp_path / str(size), "reward_model", base=llama, config=ONCE | more, rows=graded_rows(6)
        )
        assert run(folder) == 0
        found.append([row["loss"] for row in metrics(folder)])
        found.append([row["grad_norm"] for row in metrics(folder)])
    assert found[0] == pytest.approx(found[2], rel=1e-4)
    assert found[1] == pytest.approx(found[3], rel=1e-3)


def test_calibration_is_told(tmp_path: Path, learner: Callable[[str], Path]) -> None:
    folder = make_run(
        tmp_path / "run",
        "reward_model",
        base=learner("llama"),
        config=FAST | {"epochs": 2},
        rows=graded_rows(12),
        held_out=graded_rows(6, seed=1),
    )
    assert run(folder) == 0
    last = [row for row in metrics(folder) if "eval/ece" in row][-1]
    assert 0 <= last["eval/ece"] <= 0.5
    bins = json.loads((folder / "result" / "calibration.json").read_text())["bins"]
    assert sum(one["weight"] for one in bins) == 18
    assert {"low", "high", "confidence", "agreement"} <= bins[0].keys()


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ({"ties": "davidson", "loss": "ordinal"}, "needs the loss"),
        ({"ties": "rao_kupper", "tie_rate": 0.5}, "above 1"),
        ({"centring": 0.1, "loss": "regression"}, "centring needs"),
        ({"aggregate": "min"}, "only with members"),
        ({"members": 2, "loss": "regression"}, "has no members"),
        ({"members": 2, "member_kind": "adapters", "lora": None}, "need lora"),
        ({"attributes": ["a"]}, 'need the loss "regression"'),
        ({"loss": "regression", "attributes": ["a"], "attribute_weights": {"b": 1}}, "no attribute"),
        ({"correction": "peer_review"}, "needs two members"),
        ({"noise_rate": 0.3}, "noise_rate needs"),
        ({"normalise_on": "references"}, "only with normalise"),
        ({"correction": "flip"}, "needs a list of rewards"),
        ({"loss": "regression"}, "no ratings"),
        ({"sources": "min_norm"}, "meta.source"),
        ({"condition": "context"}, "no judgement says its context"),
        ({"normalise": "zero_mean", "normalise_on": "references"}, "reference"),
    ],
    ids=str,
)
def test_what_cannot_be_used(
    config: dict[str, Any], words: str, tmp_path: Path, llama: Path, capsys: Any
) -> None:
    folder = make_run(tmp_path / "run", "reward_model", base=llama, config=ONCE | config)
    assert run(folder) == 1
    assert words in capsys.readouterr().err


def test_a_base_with_other_outputs_is_refused(tmp_path: Path, llama: Path, capsys: Any) -> None:
    one = make_run(tmp_path / "one", "reward_model", base=llama, config=ONCE | {"members": 2})
    assert run(one) == 0
    two = make_run(tmp_path / "two", "reward_model", base=one / "result", config=ONCE | {"lora": None})
    assert run(two) == 1
    assert "has 2 outputs, and the config asks for 1" in capsys.readouterr().err
    three = make_run(
        tmp_path / "three", "reward_model", base=one / "result", config={"members": 2, "max_steps": 1}
    )
    assert run(three) == 0


def test_best_and_worst_make_pairs_of_a_trained_reward(tmp_path: Path, llama: Path) -> None:
    """Round trip: scores of a reward model, pairs from them, rows that a pair method reads."""
    folder = make_run(tmp_path / "run", "reward_model", base=llama, config=ONCE, rows=graded_rows(6))
    assert run(folder) == 0
    scoring = make_run(
        tmp_path / "score", "score", base=folder / "result", rows=graded_rows(3), config={"select": "pairs"}
    )
    assert run(scoring) == 0
    assert len(load_groups(scoring / "result" / "selected.jsonl", modality="text")) == 3
