"""Losses of single answers and of pairs without a reference, by hand; labels and scores from judgements."""

import math
from typing import Any

import pytest
import torch

from training.tuning.config import KTOConfig, UFTConfig
from training.tuning.data import Group
from training.tuning.errors import BadInput
from training.tuning.labels import Label, make_labels, make_scores
from training.tuning.losses import kto, reference_free, regression
from training.tuning.methods.copg import group_loss
from training.tuning.methods.uft import scored


def number(value: float) -> torch.Tensor:
    return torch.tensor([value], dtype=torch.float64)


def group(*judgements: dict[str, Any], candidates: int = 2) -> Group:
    return Group.model_validate(
        {
            "prompt": "p",
            "candidates": [{"text": f"answer {at}"} for at in range(candidates)],
            "judgements": judgements,
        }
    )


def test_kto_by_hand() -> None:
    """β 1, r − z₀ = ln 3: σ = ¾, so a good answer costs ¼ and a bad one ¾; APO has z₀ = 0."""
    ratio = number(math.log(3) + 2)
    assert kto.kto_good_loss(ratio, beta=1.0, kl=2.0).item() == pytest.approx(0.25)
    assert kto.kto_bad_loss(ratio, beta=1.0, kl=2.0).item() == pytest.approx(0.75)
    assert kto.apo_good_loss(number(math.log(3)), beta=1.0).item() == pytest.approx(0.25)
    assert kto.apo_bad_loss(number(math.log(3)), beta=1.0).item() == pytest.approx(0.75)


def test_orpo_by_hand() -> None:
    """p = ½ and ¼: odds 1 and ⅓, log odds ratio ln 3; −ln ½ − β ln ¾."""
    loss = reference_free.orpo_loss(number(math.log(0.5)), number(math.log(0.25)), beta=0.1)
    assert loss.item() == pytest.approx(math.log(2) + 0.1 * math.log(4 / 3))


def test_a_certain_answer_has_finite_odds() -> None:
    log_p = torch.tensor([0.0, -1e-30], requires_grad=True)
    odds = reference_free.log_odds(log_p)
    odds.sum().backward()
    assert odds.isfinite().all()
    assert log_p.grad is not None
    assert log_p.grad.isfinite().all()


def test_simpo_by_hand() -> None:
    """β 2, γ 1: z = 2 · 1 − 1; asking for the margin that is there costs ln 2."""
    loss = reference_free.simpo_loss(number(-1), number(-2), beta=2.0, gamma=1.0)
    assert loss.item() == pytest.approx(math.log1p(math.exp(-1)))
    assert reference_free.simpo_loss(number(-1), number(-2), beta=2.0, gamma=2.0).item() == pytest.approx(
        math.log(2)
    )


def test_alphapo_by_hand() -> None:
    """p = ¼: α 1 gives 1 − 4 = −3, α ½ gives (1 − 2) / ½ = −2, α → 0 gives ln ¼."""
    log_p = number(math.log(0.25))
    assert reference_free.alphapo_reward(log_p, alpha=1.0).item() == pytest.approx(-3)
    assert reference_free.alphapo_reward(log_p, alpha=0.5).item() == pytest.approx(-2)
    assert reference_free.alphapo_reward(log_p, alpha=1e-9).item() == pytest.approx(log_p.item())


def test_cpo_by_hand() -> None:
    """β .5, log-probabilities 2 ln 3 apart: −ln ¾; smoothed by ¼: ¾ ln 4/3 + ¼ ln 4."""
    sides = number(0), number(-2 * math.log(3))
    assert reference_free.cpo_loss(*sides, beta=0.5).item() == pytest.approx(math.log(4 / 3))
    smoothed = 0.75 * math.log(4 / 3) + 0.25 * math.log(4)
    assert reference_free.cpo_loss(*sides, beta=0.5, label_smoothing=0.25).item() == pytest.approx(smoothed)


@pytest.mark.system("s002-025")
def test_redi_by_hand() -> None:
    """−10 over 5 tokens and −6 over 3: 2 − .8 · 2 = .4; the slope in a rejected token's is α / |y|."""
    rejected = torch.full((3,), -2.0, requires_grad=True)
    loss = reference_free.redi_loss(torch.tensor([-10.0 / 5]), rejected.mean()[None], alpha=0.8)
    assert loss.item() == pytest.approx(0.4)
    loss.sum().backward()
    torch.testing.assert_close(rejected.grad, torch.full((3,), 0.8 / 3))
    assert reference_free.redi_loss(number(-2), number(-2), alpha=0.0).item() == 2  # imitation alone
    # No lower bound: the rejected answer may become as unlikely as it likes.
    assert reference_free.redi_loss(number(-2), number(-1e6), alpha=0.8).item() < -1e5


@pytest.mark.system("s000-026")
def test_uft_by_hand() -> None:
    """At the start σ is ½: a demonstration costs ¼ with slope −¼ in s = βr, a score of ½ nothing at all."""
    ratio = torch.zeros(1, requires_grad=True)
    loss = regression.uft_loss(ratio, torch.ones(1), beta=1.0)
    loss.sum().backward()
    assert loss.item() == 0.25
    assert ratio.grad is not None
    assert ratio.grad.item() == pytest.approx(-0.25)
    half = torch.zeros(1, requires_grad=True)
    regression.uft_loss(half, torch.full((1,), 0.5), beta=1.0).sum().backward()
    assert half.grad is not None
    assert half.grad.item() == 0
    # Bounded drift: what a demonstration still pulls vanishes, while the negative log-likelihood pulls for
    # ever.
    far = torch.full((1,), 30.0, requires_grad=True)
    regression.uft_loss(far, torch.ones(1), beta=1.0).sum().backward()
    assert far.grad is not None
    assert abs(far.grad.item()) < 1e-12


@pytest.mark.system("s000-026")
def test_uft_scores_everything() -> None:
    """Demonstrations and corrections 1, ratings on their scale, thumbs and choices by the share of votes."""
    config = UFTConfig()
    assert [score for _, score in scored(group(), config)] == [1, 1]
    mixed = group({"ratings": [{"help": 5, "tone": 1}, None]}, {"thumbs": [None, 1]}, {"thumbs": [0, 0]})
    assert [score for _, score in scored(mixed, config)] == [0.5, 0.5]
    assert [score for _, score in scored(mixed, UFTConfig(rating="help"))] == [1, 0.5]
    chosen = group({"choice": 1}, {"corrections": ["better", None]})
    assert scored(chosen, config) == [("better", 1), ("answer 0", 0), ("answer 1", 1)]
    with pytest.raises(BadInput, match="a rating of 7 is not between"):
        scored(group({"ratings": [{"help": 7}, None]}), config)


@pytest.mark.system("s003-043")
def test_copg_by_hand() -> None:
    """Fair reference, R = (1, 0), β 1: ½ at the start, 0 where π ∝ e^R; the prompt's own level is no
    matter.
    """
    scores = torch.tensor([1.0, 0.0], dtype=torch.float64)
    start = torch.zeros(2, dtype=torch.float64)
    assert group_loss(start, scores, beta=1.0).item() == 0.5
    optimum = torch.tensor([0.7311, 0.2689], dtype=torch.float64).log() - math.log(0.5)
    assert group_loss(optimum, scores, beta=1.0).item() == pytest.approx(0, abs=1e-7)
    assert group_loss(optimum, scores + 5, beta=1.0).item() == pytest.approx(0, abs=1e-7)
    # R = ±¼ is IPO's squared margin: ½ (½ − βh)².
    quarter = regression.copg_loss(number(1), number(0.2), number(0.25), number(-0.25), beta=1.0)
    assert quarter.item() == pytest.approx(0.5 * (0.5 - 0.8) ** 2)


@pytest.mark.system("s003-043")
def test_copg_gradient_by_hand() -> None:
    """−β (R_β(y) − R_β(y')) (∇ log π(y) − ∇ log π(y')), for k answers the sum over pairs by k − 1."""
    ratio = torch.tensor([0.3, -0.1, 0.6], dtype=torch.float64, requires_grad=True)
    scores = torch.tensor([1.0, 0.5, 0.0], dtype=torch.float64)
    group_loss(ratio, scores, beta=0.5).backward()
    regularised = (scores - 0.5 * ratio).detach()
    expected = [-0.5 * sum(regularised[i] - regularised[j] for j in range(3)) / 2 for i in range(3)]
    torch.testing.assert_close(ratio.grad, torch.stack(expected))


def test_labels() -> None:
    """Votes add up; a tie says nothing; both bad is bad for all; the middle of a ranking says nothing."""
    assert make_labels(group({"choice": 1}, {"thumbs": [1, None]}), KTOConfig()) == [
        Label(0, 1, 1),
        Label(1, 1, 0),
    ]
    assert make_labels(group({"choice": "tie"}), KTOConfig()) == []
    assert make_labels(group({"choice": "both_bad"}), KTOConfig()) == [Label(0, 0, 1), Label(1, 0, 1)]
    ranked = group({"ranking": [[2], [0], [1]]}, candidates=3)
    assert make_labels(ranked, KTOConfig()) == [Label(1, 0, 1), Label(2, 1, 0)]
    weighted = KTOConfig(annotator_weights={"a": 0.5})
    assert make_labels(group({"choice": 0, "annotator": "a"}), weighted)[0] == Label(0, 0.5, 0)
    assert make_labels(group({"choice": 0, "kind": "gold"}), KTOConfig()) == []


def test_scores() -> None:
    rated = group({"ratings": [{"a": 3, "b": "words"}, {}]}, {"ratings": [{"a": 5}, None]})
    assert make_scores(rated, UFTConfig()) == [0.75, None]
    assert make_scores(rated, UFTConfig(rating_low=0, rating_high=10)) == [0.4, None]
