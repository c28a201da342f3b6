"""Reward models for people who differ: ideal points (PAL) and mixtures of rewards (MiCRo)."""

import math
import random
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from tests.tuning.text_models import save_causal
from tests.tuning.text_runs import make_run, metrics, read_rows, run, sentence, state
from training.tuning.config import PairKeys, RewardModelConfig
from training.tuning.data import Group
from training.tuning.losses.personal import hedge_loss, hedge_weights, ideal_point_loss, mixture_loss
from training.tuning.pairs import make_pairs
from training.tuning.rewards.info import Taste, read_info
from training.tuning.text.models import TextModel
from training.tuning.text.personal import IdealPoints

CONFIG: dict[str, Any] = {
    "max_length": 96, "log_every": 10, "learning_rate": 1e-2, "epochs": 12, "lora": {"r": 8, "alpha": 16},
}  # fmt: skip
POINTS = {"loss": "ideal_point", "dimensions": 8, "people_learning_rate": 0.1}
MIXED = {"loss": "mixture", "people_learning_rate": 1e-2, "router_entropy": 0.1}


def wide(*rows: list[float]) -> Tensor:
    return torch.tensor(rows, dtype=torch.float64)


def answers(rng: random.Random) -> list[dict[str, str]]:
    stem = sentence(rng, 1, 4)
    return [{"text": f"{stem} a"}, {"text": f"{stem} b"}]


def rows_by(people: list[str], count: int, *, seed: int) -> list[dict[str, Any]]:
    """The first, third, … of the people like what ends in a, the others what ends in b."""
    rng = random.Random(seed)
    return [
        {
            "prompt": sentence(rng, 2, 6),
            "candidates": answers(rng),
            "judgements": [{"annotator": people[at % len(people)], "choice": at % len(people) % 2}],
        }
        for at in range(count)
    ]


def rows_with(words: tuple[str, str], count: int, *, seed: int) -> list[dict[str, Any]]:
    """After the first word a is better, after the second b."""
    rng = random.Random(seed)
    return [
        {
            "prompt": f"{sentence(rng, 2, 4)} {words[at % 2]}",
            "candidates": answers(rng),
            "judgements": [{"choice": at % 2}],
        }
        for at in range(count)
    ]


def check_resuming(tmp_path: Path, base: Path, config: dict[str, Any], rows: list[dict[str, Any]]) -> None:
    """A run of four steps that goes on from its second is the same to the bit."""
    whole, again = (
        make_run(tmp_path / name, "reward_model", base=base, config=config, rows=rows)
        for name in ("whole", "again")
    )
    assert run(whole) == run(again) == 0
    for name in ("result", "checkpoint-000004"):
        shutil.rmtree(again / name)
    (again / "state.json").unlink()
    assert (again / "checkpoint-000002").is_dir()
    assert run(again) == 0
    assert metrics(again) == metrics(whole)
    one, two = (load_file(folder / "result" / "personal.safetensors") for folder in (whole, again))
    assert all(torch.equal(value, two[name]) for name, value in one.items())


@pytest.mark.system("s001-026")
def test_ideal_points_by_hand() -> None:
    """Distances 2 of the rejected and ½ of the chosen: 1.5 apart, no loss; 1 and ½: loss ½. Not squared. One
    prototype: everybody is the same; two: u is f of their mixture, and who is unknown gets the mean share.
    """
    ideal = wide([0, 0], [0, 0], [1, 1])
    chosen, rejected = wide([0.3, 0.4], [0.5, 0], [1, 1]), wide([0, 2], [0, 1], [1, 1])
    chosen.requires_grad_()
    losses = ideal_point_loss(chosen, rejected, ideal)
    assert losses.tolist() == pytest.approx([0, 0.5, 1])
    losses.sum().backward()
    assert chosen.grad is not None
    assert chosen.grad.tolist() == [
        [0, 0],
        [1, 0],
        [0, 0],
    ]  # a unit vector, or nothing

    class Head(TextModel):
        def __init__(self) -> None:
            pass

        def score_head(self, read: Tensor) -> Tensor:
            return read**2  # any function: prototypes are mixed before it

    alike = IdealPoints(Taste(kind="ideal_point", count=1, users=["ann", "bob"]), 2, 2)
    alike.weights.data = torch.tensor([[3.0], [-2.0]])
    found = alike.ideals(Head(), ["ann", "bob", None])
    assert torch.equal(found[0], found[1])
    assert torch.equal(found[0], found[2])
    two = IdealPoints(Taste(kind="ideal_point", count=2, users=["ann", "bob"]), 2, 2)
    two.prototypes.data = torch.tensor([[4.0, 0.0], [0.0, 8.0]])
    two.weights.data = torch.tensor([[math.log(3), 0.0], [0.0, 0.0]])  # shares (¾, ¼) and (½, ½)
    found = two.ideals(Head(), ["ann", "bob", "zoe"])
    torch.testing.assert_close(found, torch.tensor([[9.0, 4.0], [4.0, 16.0], [6.25, 9.0]]))


@pytest.mark.system("s001-044")
def test_mixtures_by_hand() -> None:
    """f = (½, ½), margins (1, −1): σ(1) and σ(−1) average to ½, so ln 2; the entropy term ½ · ln ½ = −.3466,
    which is least at equal weights. Losses (.1, 1.1) make (½, ½) into softmax(0, −1) = (.7311, .2689).
    """
    even, margins = wide([0, 0]), wide([1, -1])
    assert mixture_loss(margins, even, entropy=0.0).item() == pytest.approx(math.log(2))
    found = mixture_loss(margins, even, entropy=0.5).item()
    assert found == pytest.approx(math.log(2) - 0.3466, abs=5e-5)
    router = wide([0.4, -0.2]).requires_grad_()
    (mixture_loss(margins, router, entropy=0.5) - mixture_loss(margins, router, entropy=0.0)).sum().backward()
    assert router.grad is not None
    assert router.grad[0, 0] > 0 > router.grad[0, 1]  # a step down makes the weights more alike

    sure = wide([-math.log(math.expm1(0.1)), -math.log(math.expm1(1.1))])  # −log σ of them: .1 and 1.1
    target = hedge_weights(sure, even, temperature=1.0)
    torch.testing.assert_close(target, wide([0.7311, 0.2689]), atol=5e-5, rtol=0)
    router = wide([0, 0]).requires_grad_()
    heads = sure.clone().requires_grad_()
    hedge_loss(heads, router, temperature=1.0).sum().backward()
    torch.testing.assert_close(router.grad, wide([0.5 - 0.7311, 0.5 - 0.2689]), atol=5e-5, rtol=0)
    assert heads.grad is None  # the rewards stay as they are


def test_pairs_of_each_person() -> None:
    judgements = [{"annotator": "ann", "choice": 0}, {"annotator": "bob", "choice": 1}, {"choice": 1}]
    row = {"prompt": "p", "candidates": [{"text": "a"}, {"text": "b"}], "judgements": judgements}
    pairs = make_pairs(Group.model_validate(row), PairKeys(), apart=("annotator",))
    assert [(one.annotator, one.chosen) for one in pairs] == [(None, 1), ("ann", 0), ("bob", 1)]


@pytest.fixture(scope="module")
def base(tmp_path_factory: Any) -> Path:
    return save_causal(tmp_path_factory.mktemp("llama"), sharp=False)


def scores(folder: Path, base: Path, rows: list[dict[str, Any]], **config: Any) -> list[float]:
    """Of a, less those of b."""
    scoring = make_run(folder, "score", base=base, rows=rows, config=config)
    assert run(scoring) == 0, state(scoring)["error"]
    return [row["scores"][0] - row["scores"][1] for row in read_rows(scoring / "result" / "scores.jsonl")]


@pytest.mark.system("s001-026")
def test_people_who_disagree(tmp_path: Path, base: Path) -> None:
    """One reward for all is right half of the time; ideal points tell the two kinds of people apart. New
    people are fitted by eight judgements each, without touching anything else, and the pooled reward, which
    has seen these too, is at least ten points below theirs.
    """
    people = ["ann", "bob", "cat", "dan"]
    rows, held_out = rows_by(people, 48, seed=0), rows_by(people, 16, seed=1)
    folder = make_run(
        tmp_path / "points", "reward_model", base=base, config=CONFIG | POINTS, rows=rows, held_out=held_out
    )
    assert run(folder) == 0
    assert metrics(folder)[-1]["eval/accuracy"] == 1
    info = read_info(folder / "result")
    assert info is not None
    assert info.taste == Taste(kind="ideal_point", count=2, users=people)

    asked = rows_by(["x"], 3, seed=5)
    liked = {who: scores(tmp_path / who, folder / "result", asked, context=who) for who in ("ann", "bob")}
    assert all(value > 0 for value in liked["ann"])
    assert all(value < 0 for value in liked["bob"])
    everybody = scores(tmp_path / "all", folder / "result", asked)
    assert everybody not in liked.values()

    new = {"fit": "people", "epochs": 10, "people_learning_rate": 0.1, "loss": "ideal_point", "dimensions": 8}
    theirs, theirs_held_out = rows_by(["eve", "fay"], 16, seed=7), rows_by(["eve", "fay"], 40, seed=8)
    fitted = make_run(
        tmp_path / "fit", "reward_model", base=folder / "result", config={"max_length": 96} | new,
        rows=theirs, held_out=theirs_held_out,
    )  # fmt: skip
    assert run(fitted) == 0
    pooled = make_run(
        tmp_path / "pooled", "reward_model", base=base, config=CONFIG | {"epochs": 4}, rows=rows + theirs,
        held_out=theirs_held_out,
    )  # fmt: skip
    assert run(pooled) == 0
    personal = metrics(fitted)[-1]["eval/accuracy"]
    assert personal == 1
    assert personal - metrics(pooled)[-1]["eval/accuracy"] >= 0.1
    before, after = (load_file(one / "result" / "personal.safetensors") for one in (folder, fitted))
    assert torch.equal(before["prototypes"], after["prototypes"])
    weights = [load_file(one / "result" / "adapter_model.safetensors") for one in (folder, fitted)]
    assert all(torch.equal(value, weights[1][name]) for name, value in weights[0].items())

    nobody = make_run(
        tmp_path / "zoe", "score", base=folder / "result", rows=asked, config={"context": "zoe"}
    )
    assert run(nobody) == 1
    assert 'knows no annotator "zoe"' in state(nobody)["error"]


@pytest.mark.system("s001-044")
def test_prompts_say_which_reward_counts(tmp_path: Path, base: Path) -> None:
    """Two rewards and a router learn what depends on the prompt; under new words the router alone is taught,
    and the heads stay as they are.
    """
    words = ("short?", "long!")
    folder = make_run(
        tmp_path / "mixture", "reward_model", base=base, config=CONFIG | MIXED | {"epochs": 30},
        rows=rows_with(words, 48, seed=0), held_out=rows_with(words, 12, seed=1),
    )  # fmt: skip
    assert run(folder) == 0
    assert metrics(folder)[-1]["eval/accuracy"] == 1
    found = scores(tmp_path / "score", folder / "result", rows_with(words, 2, seed=3))
    assert found[0] > 0 > found[1]
    new = {"fit": "people", "epochs": 10, "people_learning_rate": 1e-2, "loss": "mixture", "max_length": 96}
    fitted = make_run(
        tmp_path / "fit", "reward_model", base=folder / "result", config=new,
        rows=rows_with(("kind?", "rude!"), 8, seed=4),
    )  # fmt: skip
    assert run(fitted) == 0
    weights = [load_file(one / "result" / "adapter_model.safetensors") for one in (folder, fitted)]
    assert all(torch.equal(value, weights[1][name]) for name, value in weights[0].items())
    routers = [load_file(one / "result" / "personal.safetensors") for one in (folder, fitted)]
    assert not torch.equal(routers[0]["router.0.weight"], routers[1]["router.0.weight"])


def test_resumed_equals_uninterrupted(tmp_path: Path, base: Path) -> None:
    config = CONFIG | POINTS | {"max_steps": 4, "save_every": 2, "log_every": 1}
    rows = rows_by(["ann", "bob"], 16, seed=0)
    check_resuming(tmp_path, base, config, rows)


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ({"prototypes": 3}, "for the losses"),
        ({"loss": "mixture", "dimensions": 8}, "dimensions need the loss"),
        ({"loss": "ideal_point", "router_entropy": 0.1}, 'router_entropy needs the loss "mixture"'),
        ({"loss": "mixture", "router_temperature": 0.5}, "router_temperature needs"),
        ({"loss": "ideal_point", "start_head": "zero"}, "learns nothing from outputs"),
        ({"loss": "mixture", "normalise": "zero_mean"}, "not normalised"),
        ({"loss": "ideal_point", "condition": "context"}, "goes without conditions"),
        ({"loss": "ideal_point", "members": 2}, "has no members"),
    ],
)
def test_keys_without_a_use(config: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        RewardModelConfig(**config)


def test_what_cannot_be_fitted(tmp_path: Path, base: Path, encoder: Path) -> None:
    """People without a base that knows some; an encoder, which reads no prompt before the answers."""
    rows = rows_by(["ann", "bob"], 4, seed=0)
    for name, start, config, words in (
        ("plain", base, {"loss": "ideal_point", "fit": "people"}, 'fit "people" needs a base of the loss'),
        ("encoder", encoder, {"loss": "mixture"}, "needs prompts that answers share"),
    ):
        folder = make_run(
            tmp_path / name, "reward_model", base=start, rows=rows, config=config | {"max_length": 96}
        )
        assert run(folder) == 1
        assert words in state(folder)["error"]
