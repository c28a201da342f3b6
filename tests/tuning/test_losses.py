"""Losses on pairs, by hand: β = 1 and log-ratios whose exponentials are small whole numbers."""

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from training.tuning.losses import divergences, dpo, ties
from training.tuning.losses.group_robust import group_robust_loss, step_group_weights
from training.tuning.losses.wpo import on_policy_weight

LN2, LN3 = math.log(2), math.log(3)


def one(loss: Callable[..., Tensor], chosen: float, rejected: float, **options: float) -> float:
    values = (torch.tensor([value], dtype=torch.float64) for value in (chosen, rejected))
    return loss(*values, **{"beta": 1.0} | options).item()


def test_dpo_by_hand() -> None:
    """h = 0 and ln 3: −ln ½, −ln ¾. β .1, h = 5: .4741."""
    assert one(dpo.dpo_loss, 0, 0) == pytest.approx(LN2)
    assert one(dpo.dpo_loss, LN3 - 1, -1) == pytest.approx(math.log(4 / 3))
    assert one(dpo.dpo_loss, 3, -2, beta=0.1) == pytest.approx(0.4741, abs=5e-5)


def test_label_smoothing_by_hand() -> None:
    """−.9 ln σ(2) − .1 ln σ(−2) = .9 · .126928 + .1 · 2.126928; at ½ both directions cost the same."""
    assert one(dpo.dpo_loss, 2, 0, label_smoothing=0.1) == pytest.approx(0.326928, abs=1e-6)
    assert one(dpo.dpo_loss, 2, 0, label_smoothing=0.5) == one(dpo.dpo_loss, 0, 2, label_smoothing=0.5)


def test_gradient_at_the_start_is_minus_half_beta() -> None:
    chosen = torch.zeros(1, requires_grad=True)
    dpo.dpo_loss(chosen, torch.zeros(1), beta=0.3).sum().backward()
    assert chosen.grad is not None
    assert chosen.grad.item() == pytest.approx(-0.15)


def test_ipo_and_hinge_by_hand() -> None:
    """β .25: the target gap is 2; h = 3 costs 1. Hinge: 1 − .25 · 3, and nothing from h = 4 on."""
    assert one(dpo.ipo_loss, 4, 1, beta=0.25) == pytest.approx(1)
    assert one(dpo.hinge_loss, 3, 0, beta=0.25) == pytest.approx(0.25)
    assert one(dpo.hinge_loss, 4, 0, beta=0.25) == 0


def test_robust_is_unbiased() -> None:
    """ε ¼ at h = ln 3: (¾ ln 4/3 − ¼ ln 4) / ½; the mean over flipped labels is the clean DPO loss."""
    expected = (0.75 * math.log(4 / 3) - 0.25 * math.log(4)) / 0.5
    assert one(dpo.robust_loss, LN3, 0, label_smoothing=0.25) == pytest.approx(expected)
    kept = one(dpo.robust_loss, 1.3, 0.2, label_smoothing=0.2)
    flipped = one(dpo.robust_loss, 0.2, 1.3, label_smoothing=0.2)
    assert 0.8 * kept + 0.2 * flipped == pytest.approx(one(dpo.dpo_loss, 1.3, 0.2))


def test_exo_by_hand() -> None:
    """p = σ(ln 3) = ¾ against (1 − ε) = ¾: nothing; at h = 0, ε ¼: ½ ln(½ / ¾) + ½ ln(½ / ¼)."""
    assert one(dpo.exo_loss, LN3, 0, label_smoothing=0.25) == pytest.approx(0, abs=1e-12)
    expected = 0.5 * math.log(2 / 3) + 0.5 * LN2
    assert one(dpo.exo_loss, 0, 0, label_smoothing=0.25) == pytest.approx(expected)


def test_losses_of_each_side_by_hand() -> None:
    """r_w = ln 3, r_l = −ln 3, so σ is ¾ and ¼."""
    sides = (LN3, -LN3)
    high, low = math.log(4 / 3), math.log(4)
    assert one(dpo.nca_loss, *sides) == pytest.approx(high + low / 2 + high / 2)
    assert one(dpo.bco_loss, *sides) == pytest.approx(2 * high)
    assert one(dpo.bco_loss, LN3 + 2, -LN3 + 2, delta=2.0) == pytest.approx(2 * high)
    assert one(dpo.apo_zero_loss, *sides) == pytest.approx(0.5)
    assert one(dpo.apo_down_loss, *sides) == pytest.approx(0.75 + 0.1)  # σ(ln 9) = .9
    assert one(dpo.sppo_loss, 3, 1, beta=0.25) == pytest.approx(1 + 9)  # targets 2 and −2


def test_discopop_by_hand() -> None:
    """τ 1 at h = ln 3: ¼ ln 4/3 + ¾ · ⅓; at h = 0: ½ ln 2 + ½."""
    assert one(dpo.discopop_loss, LN3, 0, tau=1.0) == pytest.approx(0.25 * math.log(4 / 3) + 0.25)
    assert one(dpo.discopop_loss, 0, 0, tau=0.05) == pytest.approx(LN2 / 2 + 0.5)


def test_aot_compares_quantiles() -> None:
    """Gaps (5, 1) of the policy and (0, 2) of the reference: the lowest are 1 and 0, the highest 5 and 2."""
    gaps, reference = torch.tensor([5.0, 1.0]), torch.tensor([0.0, 2.0])
    zero = torch.zeros(2)
    loss = dpo.aot_loss(gaps - reference, zero, reference, zero, beta=1.0)
    torch.testing.assert_close(loss, -torch.nn.functional.logsigmoid(torch.tensor([1.0, 3.0])))
    unpaired = dpo.aot_unpaired_loss(torch.tensor([3.0, 0.0]), torch.tensor([-1.0, 2.0]), beta=1.0)
    torch.testing.assert_close(unpaired, -torch.nn.functional.logsigmoid(torch.tensor([1.0, 1.0])))


def test_divergences_by_hand() -> None:
    """t = 2: 1 − ½, ln 4/3, and for α = 2 and ½ (t^{α−1} − 1) / (α − 1); all are 0 at t = 1 with slope as
    f″.
    """
    u = torch.tensor([LN2], dtype=torch.float64)
    assert divergences.reverse_kl_score(u).item() == pytest.approx(LN2)
    assert divergences.forward_kl_score(u).item() == pytest.approx(0.5)
    assert divergences.js_score(u).item() == pytest.approx(math.log(4 / 3))
    assert divergences.alpha_score(u, alpha=2.0).item() == pytest.approx(1)
    assert divergences.alpha_score(u, alpha=0.5).item() == pytest.approx(2 - math.sqrt(2))
    zero = torch.zeros(1)
    for alpha in (0.0, 0.3, 1.0, 2.0):
        assert divergences.alpha_score(zero, alpha=alpha).item() == 0
    torch.testing.assert_close(divergences.alpha_score(u, alpha=0.0), divergences.forward_kl_score(u))
    torch.testing.assert_close(divergences.alpha_score(u, alpha=1 + 1e-9), u)
    assert divergences.js_score(zero).item() == pytest.approx(0, abs=1e-7)


@pytest.mark.parametrize("far", [-1000.0, 1000.0])
def test_divergences_stay_finite(far: float) -> None:
    """Log-ratios of long answers: neither the values nor the slopes overflow in float32."""
    for score in (divergences.forward_kl_score, divergences.js_score):
        u = torch.tensor([far], requires_grad=True)
        score(u).sum().backward()
        assert u.grad is not None
        assert score(u).isfinite().all()
        assert u.grad.isfinite().all()


def test_ties_by_hand() -> None:
    """ν = 3 and 1: equal rewards tie half of the time. d = ln 4: Davidson 1 / (1 + ¼ + 1) = 4/9, tie 4/9."""
    even, ahead = torch.zeros(1), torch.tensor([math.log(4)])
    assert ties.rao_kupper_win_loss(even, nu=3.0).exp().item() == pytest.approx(4)
    assert ties.rao_kupper_tie_loss(even, nu=3.0).exp().item() == pytest.approx(2)
    assert ties.davidson_win_loss(even, nu=1.0).exp().item() == pytest.approx(4)
    assert ties.davidson_tie_loss(even, nu=1.0).exp().item() == pytest.approx(2)
    assert ties.davidson_win_loss(ahead, nu=1.0).exp().item() == pytest.approx(9 / 4)
    assert ties.davidson_tie_loss(ahead, nu=1.0).exp().item() == pytest.approx(9 / 4)
    # σ(ln 4 − ln 2) = 2/3, and 3 · σ(−ln 8) · σ(ln 2) = 3 · 1/9 · 2/3.
    assert ties.rao_kupper_win_loss(ahead, nu=2.0).exp().item() == pytest.approx(3 / 2)
    assert ties.rao_kupper_tie_loss(ahead, nu=2.0).exp().item() == pytest.approx(9 / 2)


@pytest.mark.parametrize(
    ("win", "tie"),
    [
        (ties.rao_kupper_win_loss, ties.rao_kupper_tie_loss),
        (ties.davidson_win_loss, ties.davidson_tie_loss),
    ],
)
@pytest.mark.parametrize("nu", [1.5, 3.0, 8.0])
def test_three_outcomes_are_all_there_is(
    win: Callable[..., Tensor], tie: Callable[..., Tensor], nu: float
) -> None:
    margin = torch.linspace(-20, 20, 81, dtype=torch.float64)
    total = sum((-loss).exp() for loss in (win(margin, nu=nu), win(-margin, nu=nu), tie(margin, nu=nu)))
    torch.testing.assert_close(total, torch.ones_like(margin))


def test_on_policy_weight_by_hand() -> None:
    """Two tokens of a fair coin: ln ½ − ln(¼ + ¼) = 0 each, weight 1. A certain token weighs 1 as well."""
    half = torch.tensor([math.log(0.5)] * 2)
    assert on_policy_weight(half, half).item() == pytest.approx(1)
    # p = (.8, .2), the rare token: .2 / .68.
    assert on_policy_weight(torch.tensor([0.2]).log(), torch.tensor([0.68]).log()).item() == pytest.approx(
        0.2 / 0.68
    )


@pytest.mark.system("s000-075")
def test_group_weights_by_hand() -> None:
    """η 1, losses (1, 2) from even weights: (.2689, .7311), and the loss is taken with these: 1.7311."""
    losses = torch.tensor([1.0, 2.0], requires_grad=True)
    even = torch.tensor([0.5, 0.5])
    weights = step_group_weights(even, losses, step_size=1.0)
    assert weights.tolist() == pytest.approx([0.2689, 0.7311], abs=5e-5)
    loss = group_robust_loss(weights, losses)
    assert loss.item() == pytest.approx(1.7311, abs=5e-5)
    loss.backward()
    torch.testing.assert_close(losses.grad, weights)  # nothing flows through the weights
    assert step_group_weights(even, losses, step_size=0.0).tolist() == [0.5, 0.5]
    twice = step_group_weights(weights, losses, step_size=1.0)
    torch.testing.assert_close(twice, torch.tensor([2.0, 4.0]).softmax(0))  # the product of exponentials
