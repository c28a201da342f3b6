"""Losses on a bandit: four answers, their logits the parameters; no network. Known optima are reached.

Preferences follow Bradley-Terry with rewards r. The minimum of the expected DPO loss over all policies is
π ∝ π_ref exp(r / β): Eq. 4 of arXiv:2305.18290.
"""

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from training.tuning.config import DPOConfig
from training.tuning.losses.dpo import nca_loss
from training.tuning.losses.kto import apo_bad_loss, apo_good_loss, kto_bad_loss, kto_good_loss
from training.tuning.losses.reference_free import cpo_loss, simpo_loss
from training.tuning.losses.regression import uft_loss
from training.tuning.methods.copg import group_loss
from training.tuning.text.pairs import PairIndex, PairValues
from training.tuning.text.preference import pair_losses

REWARD = torch.tensor([0.0, 0.5, -0.7, 1.2], dtype=torch.float64)
REFERENCE = torch.tensor([0.1, 0.4, 0.3, 0.2], dtype=torch.float64).log()
FIRST, SECOND = torch.combinations(torch.arange(4)).unbind(1)
BETA = 0.4


def every_pair(target: Tensor, tie: Tensor | None = None) -> PairIndex:
    one = torch.ones(6, dtype=torch.float64)
    return PairIndex(FIRST, SECOND, one, target, tie if tie is not None else 0 * one, one, (None,) * 6)


def values_of(logps: Tensor, pairs: PairIndex, reference: Tensor = REFERENCE) -> PairValues:
    ratio, one = logps - reference, torch.ones(len(pairs.chosen), dtype=logps.dtype)
    sides = (pairs.chosen, pairs.rejected)
    return PairValues(
        *(ratio[side] for side in sides), *(reference[side] for side in sides), one, one, one, one
    )


def best_policy(objective: Callable[[Tensor], Tensor], steps: int = 500) -> Tensor:
    """Log-probabilities that minimise an objective of log-probabilities."""
    logits = REFERENCE.clone().requires_grad_(True)
    optimizer = torch.optim.LBFGS(
        [logits], max_iter=steps, tolerance_grad=1e-12, tolerance_change=1e-14, line_search_fn="strong_wolfe"
    )

    def closure() -> Any:
        optimizer.zero_grad()
        loss = objective(logits.log_softmax(0))
        loss.backward()
        return loss

    optimizer.step(closure)
    return logits.detach().log_softmax(0)


def trained(pairs: PairIndex, **keys: Any) -> Tensor:
    config = DPOConfig(**{"beta": BETA} | keys)
    return best_policy(lambda logps: pair_losses(values_of(logps, pairs), pairs, config)[0].mean())


def differences(values: Tensor) -> Tensor:
    return values - values[0]


@pytest.mark.system("s000-096")
def test_dpo_recovers_the_rewards() -> None:
    """β log π/π_ref differs between answers as the rewards do, and the policy is the tilted reference."""
    policy = trained(every_pair(torch.sigmoid(REWARD[FIRST] - REWARD[SECOND])))
    implied = BETA * (policy - REFERENCE)
    torch.testing.assert_close(differences(implied), differences(REWARD), rtol=0, atol=1e-5)
    optimum = (REFERENCE + REWARD / BETA).log_softmax(0)
    torch.testing.assert_close(policy, optimum, rtol=0, atol=1e-5)


def test_label_noise() -> None:
    """Labels flipped at rate ε: robust still finds the rewards, plain DPO shrinks them."""
    clean = torch.sigmoid(REWARD[FIRST] - REWARD[SECOND])
    noisy = every_pair(0.8 * clean + 0.2 * (1 - clean))
    robust = BETA * (trained(noisy, loss="robust", label_smoothing=0.2) - REFERENCE)
    torch.testing.assert_close(differences(robust), differences(REWARD), rtol=0, atol=1e-5)
    plain = BETA * (trained(noisy) - REFERENCE)
    assert differences(plain)[3] < 0.8 * differences(REWARD)[3]


def test_smoothing_moves_the_optimum() -> None:
    """Conservative DPO of certain preferences stops where σ(βh) = 1 − ε."""
    policy = trained(_first_over_second(), label_smoothing=0.1)
    gap = (policy - REFERENCE)[0] - (policy - REFERENCE)[1]
    assert gap.item() == pytest.approx(math.log(9) / BETA, rel=1e-5)


def test_exo_reaches_the_same_rewards() -> None:
    """The reverse KL is 0 where σ(βh) = 1 − ε, as the forward one."""
    policy = trained(_first_over_second(), loss="exo_pair", label_smoothing=0.1)
    gap = (policy - REFERENCE)[0] - (policy - REFERENCE)[1]
    assert gap.item() == pytest.approx(math.log(9) / BETA, rel=1e-4)


@pytest.mark.parametrize("ties", ["rao_kupper", "davidson"])
def test_ties_are_evidence(ties: str) -> None:
    """Votes from the model with ties: the loss with that model recovers the rewards; half votes do not."""
    margin, nu = REWARD[FIRST] - REWARD[SECOND], 2.0
    if ties == "rao_kupper":
        win, lose = torch.sigmoid(margin - math.log(nu)), torch.sigmoid(-margin - math.log(nu))
    else:
        total = 1 + (-margin).exp() + 2 * nu * (-margin / 2).exp()
        win, lose = 1 / total, (-margin).exp() / total
    tie = 1 - win - lose
    policy = trained(every_pair(win, tie), ties=ties, tie_rate=nu)
    implied = BETA * (policy - REFERENCE)
    torch.testing.assert_close(differences(implied), differences(REWARD), rtol=0, atol=1e-5)
    halved = BETA * (trained(every_pair(win + tie / 2)) - REFERENCE)
    assert (differences(halved) - differences(REWARD)).abs().max() > 0.05


@pytest.mark.parametrize(
    ("divergence", "slope"),
    [
        ("reverse_kl", lambda t: t.log()),
        ("forward_kl", lambda t: -1 / t),
        ("js_divergence", lambda t: (2 * t / (1 + t)).log()),
        ("alpha_divergence", lambda t: (t**-0.5 - 1) / -0.5),
    ],
)
def test_divergences_recover_the_rewards(divergence: str, slope: Callable[[Tensor], Tensor]) -> None:
    """β f′(π / π_ref) differs as the rewards do: the optimum of reward minus β D_f."""
    beta = 2.0  # a weak tilt: forward KL and Jensen-Shannon bound what the scores can be
    pairs = every_pair(torch.sigmoid(REWARD[FIRST] - REWARD[SECOND]))
    policy = trained(pairs, f_divergence=divergence, beta=beta)
    implied = beta * slope((policy - REFERENCE).exp())
    torch.testing.assert_close(differences(implied), differences(REWARD), rtol=0, atol=1e-4)


@pytest.mark.parametrize("loss", ["ipo", "ipo_norm"])
def test_ipo_keeps_a_bounded_gap(loss: str) -> None:
    """Deterministic preferences: the gap of log-ratios is 1 / (2τ) for IPO; DPO's grows for ever."""
    pairs = _first_over_second()
    policy = trained(pairs, loss=loss, beta=0.25)
    gap = (policy - REFERENCE)[0] - (policy - REFERENCE)[1]
    assert gap.item() == pytest.approx(2.0, abs=1e-6)
    gaps = []
    for steps in (20, 60, 180):
        logits = REFERENCE.clone().requires_grad_(True)
        optimizer = torch.optim.SGD([logits], lr=20.0)
        for _ in range(steps):
            optimizer.zero_grad()
            pair_losses(values_of(logits.log_softmax(0), pairs), pairs, DPOConfig(beta=0.25))[
                0
            ].sum().backward()
            optimizer.step()
        gaps.append((logits - REFERENCE)[0] - (logits - REFERENCE)[1])
    assert 2 < gaps[0] < gaps[1] - 1 < gaps[2] - 2


def test_sppo_is_a_regression_on_win_rates() -> None:
    """Both sides have their own target, ±1 / (2β); the normaliser lets them be reached only in the gap."""
    pairs = _first_over_second()
    policy = trained(pairs, loss="sppo_hard", beta=2.0)
    ratio = policy - REFERENCE
    assert (ratio[0] - ratio[1]).item() == pytest.approx(1 / 2.0, rel=0.02)


@pytest.mark.parametrize(
    "loss", ["nca_pair", "bco_pair", "apo_zero", "hinge", "sigmoid_norm", "aot_unpaired"]
)
def test_others_move_the_right_way(loss: str) -> None:
    """One certain preference: the chosen answer's ratio rises above the rejected one's."""
    pairs = _first_over_second()
    config = DPOConfig.model_construct(**DPOConfig().model_dump() | {"loss": loss, "beta": 0.25})
    policy = best_policy(
        lambda logps: pair_losses(values_of(logps, pairs), pairs, config)[0].mean(), steps=20
    )
    ratio = policy - REFERENCE
    assert ratio[0] > 0.5 > -0.5 > ratio[1]


def test_nca_keeps_the_chosen_likely() -> None:
    """NCA's known stationary point of the chosen side: ½ σ(βr_w) = σ(−βr_w), so β r_w = ln 2."""
    chosen = torch.zeros(1, dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.LBFGS([chosen], max_iter=100, line_search_fn="strong_wolfe")

    def closure() -> Any:
        optimizer.zero_grad()
        loss = nca_loss(chosen, torch.zeros(1, dtype=torch.float64), beta=BETA).sum()
        loss.backward()
        return loss

    optimizer.step(closure)
    assert chosen.item() == pytest.approx(math.log(2) / BETA, rel=1e-4)


def _first_over_second() -> PairIndex:
    one = torch.ones(1, dtype=torch.float64)
    return PairIndex(torch.tensor([0]), torch.tensor([1]), one, one, 0 * one, one, (None,))


@pytest.mark.system("s003-043")
def test_copg_reaches_the_tilted_policy_from_anywhere() -> None:
    """Every pair once, whatever the policy would sample: the loss is 0 at π ∝ π_ref exp(R / β)."""
    policy = best_policy(lambda logps: group_loss(logps - REFERENCE, REWARD, beta=BETA))
    optimum = (REFERENCE + REWARD / BETA).log_softmax(0)
    torch.testing.assert_close(policy, optimum, rtol=0, atol=1e-5)


@pytest.mark.system("s000-026")
def test_uft_matches_the_scores() -> None:
    """Scores σ(β log π* / π_ref) of some policy: that policy is found, and the loss is nothing."""
    wanted = torch.tensor([0.4, 0.1, 0.2, 0.3], dtype=torch.float64).log()
    scores = torch.sigmoid(BETA * (wanted - REFERENCE))
    policy = best_policy(lambda logps: uft_loss(logps - REFERENCE, scores, beta=BETA).sum())
    torch.testing.assert_close(policy, wanted, rtol=0, atol=1e-4)


@pytest.mark.parametrize("loss", ["kto", "apo_zero_unpaired"])
def test_kto_follows_the_majority(loss: str) -> None:
    """Linear in σ, so of answers that are good with probability g those above ½ rise and those below fall."""
    good = torch.tensor([0.9, 0.2, 0.7, 0.4], dtype=torch.float64)

    def objective(logps: Tensor) -> Tensor:
        ratio = logps - REFERENCE
        if loss == "apo_zero_unpaired":
            losses = good * apo_good_loss(ratio, beta=BETA) + (1 - good) * apo_bad_loss(ratio, beta=BETA)
        else:
            kl = (logps.exp() * ratio).sum().detach().clamp(min=0)
            options = {"beta": BETA, "kl": kl}
            losses = good * kto_good_loss(ratio, **options) + (1 - good) * kto_bad_loss(ratio, **options)
        return losses.sum()

    logits = REFERENCE.clone().requires_grad_(True)
    optimizer = torch.optim.SGD([logits], lr=1.0)
    for _ in range(100):
        optimizer.zero_grad()
        objective(logits.log_softmax(0)).backward()
        optimizer.step()
    ratio = (logits.detach().log_softmax(0) - REFERENCE).tolist()
    assert ratio[0] > max(0, ratio[2]) >= ratio[2] > ratio[3] > ratio[1]
    assert ratio[3] < 0


@pytest.mark.parametrize(("gamma", "method"), [(1.5, "simpo"), (0.0, "cpo")])
def test_reference_free_optima(gamma: float, method: str) -> None:
    """Labels flipped at rate .2: σ(β(ℓ_w − ℓ_l) − γ) = .8, so the gap is (ln 4 + γ) / β, whatever the
    start.
    """
    options = {"beta": 0.5, "label_smoothing": 0.2} | ({"gamma": gamma} if method == "simpo" else {})
    loss = {"simpo": simpo_loss, "cpo": cpo_loss}[method]
    policy = best_policy(lambda logps: loss(logps[:1], logps[1:2], **options).sum())
    assert (policy[0] - policy[1]).item() == pytest.approx((math.log(4) + gamma) / 0.5, rel=1e-5)
