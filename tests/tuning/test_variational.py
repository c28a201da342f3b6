"""Variational preference learning: a latent for each annotator, inferred from a few of their pairs."""

import itertools
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from tests.tuning.test_personal import check_resuming, rows_by, scores
from tests.tuning.text_models import save_causal
from tests.tuning.text_runs import make_run, metrics, run, state
from training.tuning.config import RewardModelConfig
from training.tuning.losses.variational import gaussian_kl, pooled_posterior, scaled_reward, variational_loss
from training.tuning.rewards.info import Taste, read_info
from training.tuning.text.variational import Latents

CONFIG: dict[str, Any] = {
    "max_length": 96, "log_every": 10, "learning_rate": 1e-2, "epochs": 8, "lora": {"r": 8, "alpha": 16},
    "loss": "variational", "dimensions": 8, "latent": 2, "people_learning_rate": 1e-2, "scaled": True,
}  # fmt: skip


def wide(*rows: list[float]) -> Tensor:
    return torch.tensor(rows, dtype=torch.float64)


@pytest.mark.system("s001-072")
def test_the_evidence_bound_by_hand() -> None:
    """KL of N(1, 1) is ½ a number, of N(0, 1) nothing, of N(0, 4) ½ (4 − 1 − ln 4). A margin of ln 3 has the
    likelihood ¾; a tie at this margin ½ (ln 4/3 + ln 4). One over n times the KL, n times, is the KL.
    """
    mean, log_variance = wide([1, 1], [0, 0], [0, 0]), wide([0, 0], [0, 0], [math.log(4), 0])
    kl = gaussian_kl(mean, log_variance)
    assert kl.tolist() == pytest.approx([1, 0, 0.5 * (3 - math.log(4))])
    margin, target = wide([math.log(3)] * 3)[0], wide([1, 1, 0.5])[0]
    found = variational_loss(margin, torch.zeros(3), target, mean, log_variance, kl=0.25)
    tie = 0.5 * (math.log(4 / 3) + math.log(4))
    expected = [math.log(4 / 3) + 0.25, math.log(4 / 3), tie + 0.25 * kl[2].item()]
    assert found.tolist() == pytest.approx(expected)
    four = variational_loss(margin[:1], torch.zeros(1), target[:1], mean[:1], log_variance[:1], kl=0.25)
    assert 4 * four.item() == pytest.approx(4 * math.log(4 / 3) + 1)


@pytest.mark.system("s001-072")
def test_pairs_make_a_posterior() -> None:
    """Votes 2 and −1 with precisions 1 and 2 and the prior: mean (2 − 2) / 4 = 0, variance ¼. Another order
    is the same, every pair narrows, none leaves N(0, 1), and what weighs 0 counts for nothing.
    """
    votes, precisions = wide([2], [-1])[None], wide([1], [2])[None]
    mean, log_variance = pooled_posterior(votes, precisions)
    assert (mean.item(), log_variance.exp().item()) == pytest.approx((0, 0.25))
    first = pooled_posterior(votes[:, :1], precisions[:, :1])
    assert (first[0].item(), first[1].exp().item()) == pytest.approx((1, 0.5))
    nothing = pooled_posterior(votes[:, :0], precisions[:, :0])
    assert [value.item() for value in nothing] == [0, 0]

    torch.manual_seed(0)
    link = Latents(Taste(kind="variational", count=3), 4, 2).double()
    chosen, rejected = (torch.randn(1, 6, 4, dtype=torch.float64) for _ in range(2))
    weight, order = torch.ones(1, 6, dtype=torch.float64), [3, 0, 5, 1, 4, 2]
    given = link.infer(chosen, rejected, weight)
    torch.testing.assert_close(link.infer(chosen[:, order], rejected[:, order], weight), given)
    widths = [link.infer(chosen[:, :n], rejected[:, :n], weight[:, :n])[1] for n in range(7)]
    assert all((more < fewer).all() for fewer, more in itertools.pairwise(widths))
    weight[0, 4:] = 0
    torch.testing.assert_close(
        link.infer(chosen, rejected, weight), link.infer(chosen[:, :4], rejected[:, :4], weight[:, :4])
    )


@pytest.mark.system("s001-072")
def test_how_answers_differ_is_seen() -> None:
    """Of answers whose states are nearly the same the encoder sees the direction from one to the other, as
    much as of answers that are far apart. The other way round it votes for the opposite.
    """
    torch.manual_seed(0)
    link = Latents(Taste(kind="variational", count=3), 32, 2).double()
    shared, way = (torch.randn(1, 1, 32, dtype=torch.float64) for _ in range(2))
    weight = torch.ones(1, 1, dtype=torch.float64)
    little, more = (link.infer(shared + size * way, shared, weight)[0] for size in (0.05, 0.1))
    back = link.infer(shared, shared + 0.05 * way, weight)[0]
    assert (little - more).norm() < 0.1 * (little - back).norm()
    torch.testing.assert_close(back, -little)
    link.decoder.weight.data = wide([1, 0, 0], [0, 2, 0])
    link.decoder.bias.data = wide([3, 0])[0]
    assert link.rewards(wide([1, 10]), wide([5, 7, 9])).tolist() == [1 * (5 + 3) + 10 * 2 * 7]


@pytest.mark.system("s001-072")
def test_scaled_rewards_have_one_scale() -> None:
    """Ln 3 above one answer and level with another: (¾ + ½) / 2. A hundred times as decided: (1 + ½) / 2."""
    rewards, references = wide([math.log(3)])[0], wide([0, math.log(3)])
    assert scaled_reward(rewards, references).item() == pytest.approx(0.625)
    assert scaled_reward(100 * rewards, 100 * references).item() == pytest.approx(0.75)


@pytest.fixture(scope="module")
def base(tmp_path_factory: Any) -> Path:
    return save_causal(tmp_path_factory.mktemp("llama"), sharp=False)


@pytest.mark.system("s001-072")
def test_eight_answers_of_somebody_new(tmp_path: Path, base: Path) -> None:
    """Two planted opposite tastes: eight answers of each of two new people, read by the encoder alone, give
    rewards that agree with them; one reward for all, which has seen the same answers, is right half of the
    time. Somebody unknown is the prior's mean.
    """
    people = [f"p{number}" for number in range(12)]
    rows = rows_by(people, 144, seed=0)
    folder = make_run(tmp_path / "vpl", "reward_model", base=base, config=CONFIG, rows=rows)
    assert run(folder) == 0, state(folder)["error"]
    info = read_info(folder / "result")
    assert info is not None
    assert info.taste is not None
    assert (info.taste.kind, info.taste.count, info.taste.references) == ("variational", 2, 64)

    theirs, held_out = rows_by(["eve", "fay"], 16, seed=7), rows_by(["eve", "fay"], 60, seed=8)
    new = {key: CONFIG[key] for key in ("max_length", "loss", "dimensions", "latent")}
    fitted = make_run(
        tmp_path / "fit", "reward_model", base=folder / "result", rows=theirs, held_out=held_out,
        config=new | {"fit": "people", "max_steps": 1, "people_learning_rate": 1e-9},
    )  # fmt: skip
    assert run(fitted) == 0, state(fitted)["error"]
    pooled = make_run(
        tmp_path / "pooled", "reward_model", base=base, rows=rows + theirs, held_out=held_out,
        config={key: CONFIG[key] for key in ("max_length", "learning_rate", "lora")} | {"epochs": 2},
    )  # fmt: skip
    assert run(pooled) == 0
    personal = metrics(fitted)[-1]["eval/accuracy"]
    assert personal >= 0.9
    assert personal - metrics(pooled)[-1]["eval/accuracy"] >= 0.3

    before, after = (load_file(one / "result" / "personal.safetensors") for one in (folder, fitted))
    assert after["mean"].shape == (2, 2)
    same = [name for name in before if name not in ("mean", "log_variance")]
    assert all(torch.equal(before[name], after[name]) for name in same)
    assert (after["log_variance"] < 0).all()
    asked = rows_by(["x"], 3, seed=5)
    liked = {who: scores(tmp_path / who, fitted / "result", asked, context=who) for who in ("eve", "fay")}
    assert all(0 < value < 1 for value in liked["eve"])
    assert all(-1 < value < 0 for value in liked["fay"])
    assert scores(tmp_path / "all", fitted / "result", asked) not in liked.values()


def test_resumed_equals_uninterrupted(tmp_path: Path, base: Path) -> None:
    """Draws of contexts and latents go on where they were."""
    config = CONFIG | {"max_steps": 4, "save_every": 2, "log_every": 1}
    check_resuming(tmp_path, base, config, rows_by(["ann", "bob"], 16, seed=0))


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ({"latent": 3}, "for the loss variational"),
        ({"loss": "variational", "prototypes": 3}, "for the losses ideal_point and mixture"),
        ({"loss": "variational", "lora": None}, "needs lora"),
        ({"loss": "variational", "condition": "annotator"}, "goes without conditions"),
        ({"loss": "variational", "fit": "people", "scaled": True}, "what the base has"),
    ],
)
def test_keys_without_a_use(config: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        RewardModelConfig(**config)
