"""DPO with more answers or opinions: WRPO, VRPO, SELM, and goals in the prompt; by hand and in small runs."""

import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from tests.tuning.text_runs import QUICK, make_run, metrics, run
from training.tuning.config import GoalDPOConfig, VRPOConfig, WRPOConfig
from training.tuning.data import Group, Message
from training.tuning.losses.dpo import dpo_loss
from training.tuning.losses.mixtures import expected_loss, selm_bonus, vrpo_loss, wrpo_loss
from training.tuning.methods import vrpo, wrpo
from training.tuning.methods.goal_dpo import with_goals
from training.tuning.text.tokens import Unusable

LN2 = math.log(2)


def numbers(*values: float) -> list[torch.Tensor]:
    return [torch.tensor([value], dtype=torch.float64) for value in values]


@pytest.mark.system("s000-115")
def test_wrpo_by_hand() -> None:
    """Log-ratios 10, 4 and 0, β .1, α .1: the argument is .46; α 0 and 1 are DPO with either chosen
    answer.
    """
    ratios = numbers(10, 4, 0)
    assert wrpo_loss(*ratios, beta=1.0, alpha=0.1).item() == pytest.approx(math.log1p(math.exp(-4.6)))
    assert wrpo_loss(*ratios, beta=0.1, alpha=0.1).item() == pytest.approx(math.log1p(math.exp(-0.46)))
    for alpha, chosen in ((0.0, ratios[1]), (1.0, ratios[0])):
        expected = dpo_loss(chosen, ratios[2], beta=0.1)
        torch.testing.assert_close(wrpo_loss(*ratios, beta=0.1, alpha=alpha), expected)


def rated(sources: list[str], ratings: list[float]) -> Group:
    return Group.model_validate(
        {
            "prompt": "p",
            "candidates": [{"text": f"answer {at}", "source": source} for at, source in enumerate(sources)],
            "judgements": [{"ratings": [{"help": rating} for rating in ratings]}],
        }
    )


@pytest.mark.system("s000-115")
def test_wrpo_chooses_and_anneals() -> None:
    """The others' best, the model's own best and worst; the others' share rises from 0 to its final value."""
    config = WRPOConfig(own_source="me")
    choose = wrpo.choose(config)
    texts, _ = choose(rated(["me", "x", "me", "y", "me"], [3, 4, 5, 5, 1]))
    assert texts == ["answer 3", "answer 2", "answer 4"]
    with pytest.raises(Unusable, match="no rated answer of another model"):
        choose(rated(["me", "me"], [1, 5]))
    with pytest.raises(Unusable, match="no two answers of the model itself"):
        choose(rated(["me", "x"], [1, 5]))
    assert [wrpo.share(step, 11, config) for step in (1, 6, 11)] == pytest.approx([0, 0.05, 0.1])


@pytest.mark.system("s000-055")
def test_vrpo_by_hand() -> None:
    """z = .5, g = .8, another pair at 0: .4741 − (.8 · .4741 + .2 · .9741) + .6931 = .5931, whatever g*
    is.
    """
    chosen, rejected, one, judges = numbers(5, 0, 1, 0.8)
    people = vrpo_loss(chosen, rejected, one, judges, beta=0.1).item()
    for opinion in (0.0, 0.3, 1.0):
        other = expected_loss(*numbers(0, 0, opinion), beta=0.1).item()
        assert people + other == pytest.approx(0.5931, abs=5e-5)
    # The same pair and the same opinion: the correction cancels, and the plain loss is left.
    same = people + expected_loss(chosen, rejected, judges, beta=0.1).item()
    assert same == pytest.approx(dpo_loss(chosen, rejected, beta=0.1).item())


@pytest.mark.system("s000-055")
def test_vrpo_has_less_variance() -> None:
    """Labels drawn with probability .8, and that as the opinion: over many labels the slope of the whole
    loss in the margin is that of plain DPO, and its spread is only that of label less opinion.
    """
    labels = torch.tensor([1.0] * 8 + [0.0] * 2, dtype=torch.float64)
    margin = torch.full((10,), 0.7, dtype=torch.float64, requires_grad=True)
    zero, opinion = torch.zeros(10, dtype=torch.float64), torch.full((10,), 0.8, dtype=torch.float64)
    (plain,) = torch.autograd.grad(expected_loss(margin, zero, labels, beta=1.0).sum(), margin)
    (people,) = torch.autograd.grad(vrpo_loss(margin, zero, labels, opinion, beta=1.0).sum(), margin)
    (others,) = torch.autograd.grad(expected_loss(margin, zero, opinion, beta=1.0).sum(), margin)
    assert (people + others).mean().item() == pytest.approx(plain.mean().item())
    # Over unlimited pairs of the reference the others' term is a constant: ℓ(w, l) − ℓ(l, w) = −z has slope
    # −1.
    torch.testing.assert_close(people, opinion - labels)


def test_vrpo_reads_people_and_judges() -> None:
    """Two judges split on the first pair, one prefers 2 to 3; a person prefers 1 to 0."""
    group = Group.model_validate(
        {
            "prompt": "p",
            "candidates": [{"text": f"answer {at}"} for at in range(3)],
            "judgements": [
                {"ranking": [[1], [0]]},
                {"kind": "judge", "ranking": [[0], [1], [2]]},
                {"kind": "judge", "ranking": [[1], [0]]},
            ],
        }
    )
    config = VRPOConfig()
    _, pairs = vrpo.choose(config)(group)
    assert [(pair.chosen, pair.rejected) for pair in pairs] == [(0, 1), (0, 2), (1, 2)]
    found = vrpo.opinions(SimpleNamespace(group=group, pairs=pairs), config)  # type: ignore[arg-type]
    assert [(one.people, one.judges) for one in found] == [(0, 0.5), (None, 1), (None, 1)]
    with pytest.raises(Unusable, match="no further pair"):
        vrpo.choose(config)(
            group.model_copy(update={"judgements": [group.judgements[0], group.judgements[2]]})
        )
    with pytest.raises(Unusable, match="has no judge's opinion"):
        vrpo.choose(config)(group.model_copy(update={"judgements": group.judgements[:1]}))


@pytest.mark.system("s001-043")
def test_selm_by_hand() -> None:
    """The bonus alone has the slope αβ = 1e-5 in log π(y'), downhill for the own answer; α 0 is DPO."""
    ratio = torch.zeros(1, dtype=torch.float64, requires_grad=True)
    selm_bonus(ratio, beta=0.01, alpha=0.001).sum().backward()
    assert ratio.grad is not None
    assert ratio.grad.item() == pytest.approx(1e-5)
    assert selm_bonus(*numbers(7), beta=0.01, alpha=0.0).item() == 0


def own_rows() -> list[dict[str, Any]]:
    """A judged pair, and the model's own greedy answer beside it."""
    return [
        {
            "prompt": f"question {at}",
            "candidates": [
                {"text": f"good answer {at}", "source": "data"},
                {"text": f"wrong answer {at}", "source": "data"},
                {"text": f"the answer {at}", "source": "policy"},
            ],
            "judgements": [{"ranking": [[0], [1]]}],
        }
        for at in range(6)
    ]


@pytest.mark.system("s001-043")
def test_selm_pushes_its_own_answer_down(tmp_path: Path, llama: Path) -> None:
    """ln 2 at the start; with optimism the own answer ends less likely than without."""
    bonus = {}
    for alpha in (0.0, 20.0):
        config = QUICK | {"alpha": alpha, "beta": 0.1, "max_steps": 10, "learning_rate": 1e-2}
        folder = make_run(tmp_path / str(alpha), "selm", base=llama, config=config, rows=own_rows())
        assert run(folder) == 0
        assert metrics(folder)[0]["loss"] == pytest.approx(LN2, abs=1e-6)
        bonus[alpha] = metrics(folder)[-1]["bonus"]
    assert bonus[0.0] == 0
    assert bonus[20.0] < -0.1


@pytest.mark.system("s001-073")
def test_goals_double_the_pairs() -> None:
    """N pairs make 2N rows; −(r(y) − goal)² satisfies both: scores 8 and 5 have 0 > −9 twice."""
    config = GoalDPOConfig(rating_low=1, rating_high=10)
    group = Group.model_validate(
        {
            "prompt": "How?",
            "candidates": [{"text": "worse"}, {"text": "better"}],
            "judgements": [{"choice": 1, "ratings": [{"q": 5}, {"q": 8}]}],
        }
    )
    first, second = with_goals([group], config)
    assert [one.candidates[0].text for one in (first, second)] == ["better", "better"]
    assert [one.judgements[0].choice for one in (first, second)] == [0, 1]
    scores = [8.0, 5.0]  # of the two candidates in the new rows
    for row, goal in ((first, 8.0), (second, 5.0)):
        assert isinstance(row.prompt, list)
        assert row.prompt[0].role == "system"
        assert f"is {goal:g}." in row.prompt[0].content
        reward = [-((score - goal) ** 2) for score in scores]
        preferred = row.judgements[0].choice
        assert isinstance(preferred, int)
        assert (reward[preferred], reward[1 - preferred]) == (0, -9)
    upside_down = group.model_copy(
        update={"judgements": [group.judgements[0].model_copy(update={"choice": 0})]}
    )
    assert with_goals([upside_down], config) == []
    chat = group.model_copy(
        update={"prompt": [Message(role="system", content="Be kind."), *first.prompt[1:]]}
    )
    assert with_goals([chat], config)[0].prompt[0].content.startswith("Be kind.\nAnswer so")  # type: ignore[union-attr]


@pytest.mark.system("s001-073")
def test_goal_run(tmp_path: Path, llama: Path, capsys: Any) -> None:
    rows = [
        row | {"judgements": [{"ranking": [[0], [1]], "ratings": [{"q": 5}, {"q": 2}, None]}]}
        for row in own_rows()
    ]
    config = QUICK | {"max_steps": 2, "label_smoothing": 0.3}
    folder = make_run(tmp_path / "run", "goal_dpo", base=llama, config=config, rows=rows)
    assert run(folder) == 0
    assert metrics(folder)[0]["loss"] == pytest.approx(LN2, abs=1e-6)
    bare = make_run(tmp_path / "bare", "goal_dpo", base=llama, config=config, rows=own_rows())
    assert run(bare) == 1
    assert "no row has a judged pair whose answers are rated" in capsys.readouterr().err


@pytest.mark.parametrize(("method", "size"), [("wrpo", 4), ("wrpo", 1), ("vrpo", 4), ("vrpo", 1)])
def test_small_runs(method: str, size: int, tmp_path: Path, llama: Path) -> None:
    """Both run however the batch is split, from their known first loss: ln 2, of VRPO that of the others."""
    rows = own_rows()
    for row in rows:
        row["candidates"].append({"text": "more", "source": "policy"})
        row["judgements"] = [
            {"ranking": [[0], [1]], "ratings": [{"q": 5}, {"q": 1}, {"q": 4}, {"q": 2}]},
            {"kind": "judge", "ranking": [[0], [1]]},
            {"kind": "judge", "ranking": [[2], [3]]},
        ]
    config = QUICK | {"max_steps": 3, "micro_batch_size": size, "batch_size": 4, "learning_rate": 1e-2}
    folder = make_run(tmp_path / "run", method, base=llama, config=config, rows=rows, held_out=rows[:2])
    assert run(folder) == 0
    assert metrics(folder)[0]["loss"] == pytest.approx(LN2, abs=1e-6)
    assert metrics(folder)[-1]["eval/rewards/margin"] != 0


@pytest.mark.parametrize("keys", [{"pairs": "each"}, {"row_weights": True}, {"ties": "half"}])
def test_goals_refuse_what_their_rows_cannot_carry(keys: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="goal_dpo"):
        GoalDPOConfig(**keys)
