"""What scores a candidate and how scores combine: the list's checks, rules, transforms, ensembles, gates."""

import io
import math
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from tests.tuning.text_runs import make_run, pair_rows, read_rows, run
from training.tuning.errors import BadInput
from training.tuning.rewards.compose import Rewards, open_rewards
from training.tuning.rewards.rules import RULES, find_rule
from training.tuning.rewards.sources import Measured, RuleReward
from training.tuning.rewards.spec import BadReward, parse_rewards
from training.tuning.rewards.transforms import (
    aggregate,
    disagreement,
    ensemble_mean,
    ensemble_mean_std,
    ensemble_mean_variance,
    ensemble_median,
    ensemble_min,
    log_sigmoid_centred,
    sigmoid_centred,
    standardise,
)

CPU = torch.device("cpu")


def row(*values: float) -> torch.Tensor:
    return torch.tensor([list(values)])


def composed(*entries: dict[str, Any]) -> Rewards:
    return open_rewards(parse_rewards(entries, modality="text"), modality="text", device=CPU)


class Fixed:
    """A source whose outputs are written in the candidates: "1 2 3" has the outputs 1, 2, 3."""

    def measure(self, prompts: Sequence[Any], candidates: Sequence[Any]) -> Measured:
        return Measured(torch.tensor([[float(word) for word in text.split()] for text in candidates]))

    def measure_prompt(self, prompt: Any) -> Measured:
        return Measured(torch.zeros(1, 1))

    def reduce(self, outputs: torch.Tensor, prompts: Sequence[Any]) -> torch.Tensor:
        return outputs[:, 0]


def fixed(*entries: dict[str, Any]) -> Rewards:
    parsed = parse_rewards([{"model": "m"} | entry for entry in entries], modality="text")
    return Rewards(parsed, [Fixed() for _ in parsed])


# The list


@pytest.mark.parametrize(
    ("entry", "field", "words"),
    [
        ("words", "reward.0", "must be an object"),
        ({"rule": "words", "model": "m"}, "reward.0", "one of"),
        ({"rule": "word"}, "reward.0.rule", "there is no rule"),
        ({"rule": "jpeg_size"}, "reward.0.rule", "there is no rule"),
        ({"rule": "words:3"}, "reward.0.rule", "takes no argument"),
        ({"rule": "pattern"}, "reward.0.rule", "needs an argument"),
        ({"rule": "pattern:("}, "reward.0.rule", "no regular expression"),
        ({"rule": "length:-3"}, "reward.0.rule", "no positive number"),
        ({"rule": "words", "wieght": 1}, "reward.0.wieght", "unknown key"),
        ({"rule": "words", "weight": "a"}, "reward.0.weight", "valid number"),
        ({"rule": "words", "transform": "soft"}, "reward.0.transform.0", "expected tags"),
        (
            {"rule": "words", "transform": {"name": "sigmoid", "k": 1}},
            "reward.0.transform.0.k",
            "unknown key",
        ),
        ({"rule": "words", "transform": {"name": "clip"}}, "reward.0.transform.0", "needs"),
        ({"rule": "words", "transform": {"name": "aggregate", "how": "min"}}, "reward.0", "need a model"),
        ({"model": "m", "transform": ["sigmoid", {"name": "aggregate", "how": "min"}]}, "reward.0", "first"),
        ({"rule": "words", "gate": {"entry": 0, "least": 1}}, "reward.0.gate.entry", "no other entry"),
        ({"rule": "words", "gate": {"entry": 4, "least": 1}}, "reward.0.gate.entry", "no other entry"),
        ({"rule": "words", "gate": {"entry": 0}}, "reward.0.gate", "least"),
        ({"rule": "words", "gate": 3}, "reward.0.gate", "tag"),
        ({"python": "os.system"}, "reward.0.python", "pattern"),
    ],
)
def test_what_is_wrong_is_named(entry: Any, field: str, words: str) -> None:
    with pytest.raises(BadReward) as caught:
        parse_rewards([entry], modality="text")
    assert caught.value.field == field
    assert words in caught.value.message


def test_the_list_is_checked_without_torch() -> None:
    code = (
        "import sys; from training.tuning.rewards.spec import parse_rewards;"
        "parse_rewards([{'rule': 'jpeg_size', 'transform': 'sigmoid'}], modality='image');"
        "print(sorted({'torch', 'PIL', 'numpy'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


# Rules


@pytest.mark.parametrize(
    ("rule", "text", "score"),
    [
        ("words", "one two  three", 3),
        ("characters", "abc d", 5),
        ("sentences", "One. Two! Three", 3),
        ("length:4", "one two", -0.5),
        ("length:4", "one two three four", 0),
        ("pattern:^Y.s$", "Yes", 1),
        ("pattern:a:b", "xa:b", 1),
        ("pattern:^Yes", "Oh yes", 0),
        ("json", '{"a": [1]}', 1),
        ("json", "{a}", 0),
        # Runs of four words: a b c d, b c d a, c d a b, d a b c, a b c d: one of five is a repeat.
        ("repetition", "a b c d a b c d", 0.2),
        ("repetition", "short", 0),
        ("copied", "the prompt said no", 0.75),
    ],
)
def test_text_rules(rule: str, text: str, score: float) -> None:
    assert find_rule(rule, modality="text")("so it said the Prompt", text) == pytest.approx(score)


def test_image_rules() -> None:
    red = Image.new("RGB", (32, 32), "#ff0000")
    noise = Image.effect_noise((32, 32), 100).convert("RGB")
    half = Image.new("RGB", (2, 1))
    half.putpixel((0, 0), (255, 255, 255))

    def score(rule: str, image: Image.Image) -> float:
        return find_rule(rule, modality="image")("a prompt", image)

    assert score("colour:#ff0000", red) == pytest.approx(1)
    assert score("colour:#00ffff", red) == pytest.approx(0)
    assert score("saturation", red) == pytest.approx(1)
    assert score("brightness", half) == pytest.approx(0.5)
    assert score("contrast", half) == pytest.approx(0.5)
    assert score("sharpness", noise) > score("sharpness", red) == 0
    assert score("colourfulness", half) == 0
    # A 2 × 1 picture is twice as wide as it is high.
    assert score("aspect:2", half) == 0
    assert score("aspect:0.5", half) == pytest.approx(-math.log(4))
    file = io.BytesIO()
    noise.save(file, format="JPEG", quality=95)
    assert score("jpeg_size", noise) == len(file.getvalue()) / 1000 > score("jpeg_size", red)


def test_every_rule_says_what_it_does() -> None:
    assert all(rule.summary for rule in RULES)
    assert len({rule.name for rule in RULES}) == len(RULES)


# Transforms


@pytest.mark.system("s001-068")
def test_sigmoid_centred_by_hand() -> None:
    """r = 1 against (0, 2): (.7311 + .2689) / 2; against (0, 4): .3892, not σ(1 − 2) = .2689."""
    one = torch.tensor([1.0])
    assert sigmoid_centred(one, row(0.0, 2.0)).item() == pytest.approx(0.5)
    assert sigmoid_centred(one, row(0.0, 4.0)).item() == pytest.approx(0.3892, abs=5e-5)
    # A constant added to all scores of a prompt changes nothing.
    torch.testing.assert_close(sigmoid_centred(one + 7, row(7.0, 11.0)), sigmoid_centred(one, row(0.0, 4.0)))
    # The slope is at most k / 4.
    slope = torch.tensor([0.3], requires_grad=True)
    sigmoid_centred(slope, row(0.3, 0.3), scale=2.0).sum().backward()
    assert slope.grad is not None
    assert slope.grad.item() == pytest.approx(0.5)


@pytest.mark.system("s001-024")
def test_log_sigmoid_centred_by_hand() -> None:
    """At the reference −ln 2; two rewards there −ln 4; slopes .8808 and .1192 at gaps −2 and 2."""
    references = torch.arange(101.0)[None]  # the 85th percentile is 85
    at = log_sigmoid_centred(torch.tensor([85.0]), references)
    assert at.item() == pytest.approx(-math.log(2))
    assert (at + at).item() == pytest.approx(-math.log(4))
    for gap, slope in ((-2.0, 0.8808), (2.0, 0.1192)):
        score = torch.tensor([85.0 + gap], requires_grad=True)
        log_sigmoid_centred(score, references).sum().backward()
        assert score.grad is not None
        assert score.grad.item() == pytest.approx(slope, abs=5e-5)


@given(st.lists(st.integers(-30, 30).map(lambda n: n / 4), min_size=3, max_size=6, unique=True))
def test_log_sigmoid_keeps_the_order_of_one_prompt(scores: list[float]) -> None:
    """Best-of-n with one reward chooses the same answer with or without the transform."""
    values = torch.tensor(scores, dtype=torch.float64)
    moved = log_sigmoid_centred(values, torch.zeros(len(scores), 4, dtype=torch.float64))
    assert moved.argsort().tolist() == values.argsort().tolist()


def test_standardise() -> None:
    """(1, 2, 3): the population's deviation is √(2/3); equal scores become zeros."""
    torch.testing.assert_close(
        standardise(torch.tensor([1.0, 2.0, 3.0])), torch.tensor([-1.0, 0.0, 1.0]) / math.sqrt(2 / 3)
    )
    assert standardise(torch.tensor([2.0, 2.0])).tolist() == [0, 0]


# Ensembles


@pytest.mark.system("s000-090")
def test_worst_case_and_uncertainty_weighted_by_hand() -> None:
    """(1, 2, 3): WCO 1, UWO at λ = ½: 2 − ½ · ⅔ = 1.6667. Alike: all the same. WCO ≤ mean always."""
    members = row(1.0, 2.0, 3.0)
    assert ensemble_min(members).item() == 1
    assert ensemble_mean_variance(members, penalty=0.5).item() == pytest.approx(1.6667, abs=5e-5)
    alike = row(1.5, 1.5, 1.5)
    for how in ("mean", "min", "median", "mean_variance", "mean_std"):
        assert aggregate(alike, how=how, penalty=0.5).item() == pytest.approx(1.5)
    random = torch.randn(50, 4)
    assert (ensemble_min(random) <= ensemble_mean(random)).all()


@pytest.mark.system("s001-035")
def test_mean_median_min_and_mean_minus_std_by_hand() -> None:
    """(1, 2, 3, 6): mean 3, median 2.5, min 1, mean − deviation 3 − 1.8708."""
    members = row(1.0, 2.0, 3.0, 6.0)
    assert ensemble_mean(members).item() == 3
    assert ensemble_median(members).item() == 2.5
    assert ensemble_min(members).item() == 1
    assert ensemble_mean_std(members).item() == pytest.approx(1.1292, abs=5e-5)
    assert disagreement(members).item() == pytest.approx(1.8708, abs=5e-5)


# Together


def test_weights_gates_and_transforms_by_hand() -> None:
    """2 · words, but only where the answer does not begin with "no", else −1; plus clipped characters."""
    rewards = composed(
        {"rule": "words", "weight": 2, "gate": {"entry": 1, "most": 0, "otherwise": -1}},
        {"rule": "pattern:^no", "weight": 0},
        {"rule": "characters", "transform": {"name": "clip", "high": 6}},
    )
    found = rewards.parts(["p", "p"], ["yes it is", "no"])
    assert found.parts.tolist() == [[6, 0, 6], [-2, 0, 2]]
    assert found.total.tolist() == [12, 0]
    assert found.metrics(rewards.labels) == {
        "reward": 6,
        "reward_std": 6,
        "reward/words": 2,
        "reward/pattern:^no": 0.5,
        "reward/characters": 5.5,
    }


def test_members_and_attributes() -> None:
    """ "1 2 3" as an ensemble: min 1, UWO 1.6667; as attributes with weights (1, 0, 2): 7; then affine."""
    rewards = fixed(
        {"transform": {"name": "aggregate", "how": "min"}},
        {"transform": {"name": "aggregate", "how": "mean_variance", "penalty": 0.5}},
        {"transform": [{"name": "attributes", "weights": [1, 0, 2]}, {"name": "affine", "scale": 2}]},
    )
    found = rewards.parts(["p"], ["1 2 3"])
    assert found.parts[0].tolist() == pytest.approx([1, 1.6667, 14], abs=5e-5)
    with pytest.raises(BadInput, match="3 weights for 2 outputs"):
        rewards.parts(["p"], ["1 2"])


def test_centred_on_reference_answers() -> None:
    """PAR through the list: r = 1 against (0, 4) is .3892; without reference answers it is an error."""
    rewards = fixed({"transform": "sigmoid_centred"}, {"transform": "log_sigmoid_centred", "weight": 2})
    assert rewards.needs_references
    found = rewards.parts(["p", "q"], ["1", "3"], references=[["0", "4"], ["3", "3"]])
    assert found.parts[:, 0].tolist() == pytest.approx([0.3892, 0.5], abs=5e-5)
    assert found.parts[1, 1].item() == pytest.approx(-2 * math.log(2))
    with pytest.raises(BadInput, match="needs reference answers"):
        rewards.parts(["p"], ["1"])
    with pytest.raises(BadInput, match="as many for every prompt"):
        rewards.parts(["p", "q"], ["1", "1"], references=[["0"], ["0", "1"]])


def test_constraint_raises_its_multiplier_until_it_holds() -> None:
    """λ = 1, limit 2, mean 1, rate ½: (r + λ c) / (1 + λ), then λ = 1.5; satisfied, it falls to zero."""
    rewards = fixed({}, {"weight": 1, "gate": {"kind": "constraint", "least": 2, "rate": 0.5}})
    assert rewards.score(["p"], ["1"]).tolist() == [(1 + 1) / 2]
    assert rewards.multipliers == {1: 1.5}
    assert rewards.score(["p"], ["1"]).tolist() == [pytest.approx((1 + 1.5) / 2.5)]
    saved = rewards.state()
    for _ in range(10):
        rewards.score(["p"], ["9"])
    assert rewards.multipliers == {1: 0}
    rewards.load_state(saved)
    assert rewards.multipliers == {1: 2.0}


def test_python_functions() -> None:
    rewards = composed({"python": "tests.tuning.test_rewards:longest_word"})
    assert rewards.score(["p", "p"], ["a bcd", "ef"]).tolist() == [3, 2]
    with pytest.raises(BadInput, match="cannot be imported"):
        composed({"python": "tests.tuning.test_rewards:nothing"})
    with pytest.raises(BadInput, match="gave 1 scores for 2"):
        RuleReward(lambda prompts, candidates: [1.0], "short").measure(["p", "p"], ["a", "b"])


def longest_word(prompts: list[str], candidates: list[str]) -> list[float]:
    return [max(len(word) for word in text.split()) for text in candidates]


# The score method with a list


def test_scoring_by_a_list(tmp_path: Path) -> None:
    """Totals and parts; references come from the rows; a base and a list together are an error."""
    rows = [
        {"prompt": "p", "candidates": [{"text": "a b"}, {"text": "a b c d"}], "reference": ["a", "a b c"]}
    ]
    reward = [{"rule": "words", "transform": "sigmoid_centred"}, {"rule": "characters", "weight": 0.5}]
    folder = make_run(tmp_path / "run", "score", base=None, rows=rows, reward=reward)
    assert run(folder) == 0
    (found,) = read_rows(folder / "result" / "scores.jsonl")

    def sigmoid(value: float) -> float:
        return 1 / (1 + math.exp(-value))

    par = [(sigmoid(1) + sigmoid(-1)) / 2, (sigmoid(3) + sigmoid(1)) / 2]
    assert found["parts"]["words"] == pytest.approx(par)
    assert found["parts"]["characters"] == [1.5, 3.5]
    assert found["scores"] == pytest.approx([par[0] + 1.5, par[1] + 3.5])


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ({"base": "somewhere", "reward": [{"rule": "words"}]}, "or give a reward list"),
        ({"base": None, "reward": [{"rule": "word"}]}, "reward.0.rule: there is no rule"),
        ({"base": None, "reward": [{"rule": "words", "transform": "sigmoid_centred"}]}, "reference"),
    ],
)
def test_lists_that_cannot_be_used(more: dict[str, Any], words: str, tmp_path: Path, capsys: Any) -> None:
    folder = make_run(tmp_path / "run", "score", rows=pair_rows(2), **more)
    assert run(folder) == 1
    assert words in capsys.readouterr().err


def test_methods_without_rewards_refuse_them(tmp_path: Path, capsys: Any) -> None:
    folder = make_run(tmp_path / "run", "sft", base="x", reward=[{"rule": "words"}])
    assert run(folder) == 1
    assert "reward: sft takes no reward" in capsys.readouterr().err
