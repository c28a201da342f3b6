"""Losses on given pictures by hand, and their optima on Gaussian data, with known tilted velocities.

Flow: t = 0 data, x_t = (1 - t) x_0 + t e, v = e - x_0; data N(m, s²), D = (1 - t)² s² + t². The data's
density times exp(a x_0) is N(m + a s², s²): its velocity is the data's minus a s² t / D.
"""

import math

import numpy as np
import pytest
import torch

from training.tuning.losses.diffusion_dpo import diffusion_dpo_loss
from training.tuning.losses.diffusion_kto import (
    UTILITIES,
    gains,
    kahneman_tversky,
    mean_gain,
    mean_of_class_means,
)
from training.tuning.losses.seppo import anchor_sign, seppo_loss
from training.tuning.losses.weighted_regression import (
    curated_weights,
    exponential_weights,
    threshold_weights,
)

A, M, S = 0.4, 0.7, 1.3
TIMES = (0.2, 0.5, 0.9)


def gaussian_grid(nodes: int = 48) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """x_0 of N(M, S²), e of N(0, 1) and weights: a sum over them is an expectation."""
    points, weights = np.polynomial.hermite_e.hermegauss(nodes)
    points, weights = torch.tensor(points), torch.tensor(weights / weights.sum())
    clean, noise = torch.meshgrid(M + S * points, points, indexing="ij")
    return clean.flatten(), noise.flatten(), torch.outer(weights, weights).flatten()


def data_velocity(noisy: torch.Tensor, t: float, mean: float = M) -> torch.Tensor:
    d = (1 - t) ** 2 * S**2 + t**2
    return -mean + (t - (1 - t) * S**2) / d * (noisy - (1 - t) * mean)


def best_line(noisy: torch.Tensor, target: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """(intercept, slope) of the least weighted squares."""
    columns = torch.stack([torch.ones_like(noisy), noisy], dim=1)
    return torch.linalg.solve(columns.T @ (weight[:, None] * columns), columns.T @ (weight * target))


@pytest.mark.system("s002-056")
@pytest.mark.parametrize("t", TIMES)
def test_reward_weighted_regression_reaches_the_tilted_velocity(t):
    """Data weighed with exp(a x_0) is N(m + a s², s²), so the best line is that Gaussian's velocity."""
    clean, noise, probability = gaussian_grid()
    noisy = (1 - t) * clean + t * noise
    weight = exponential_weights(2 * A * clean, temperature=2.0)
    intercept, slope = best_line(noisy, noise - clean, probability * weight).tolist()
    for x in (-2.0, 0.0, 3.0):
        tilted = data_velocity(torch.tensor(x, dtype=torch.float64), t, mean=M + A * S**2).item()
        assert intercept + slope * x == pytest.approx(tilted, abs=1e-9)


@pytest.mark.system("s000-020")
@pytest.mark.parametrize("t", TIMES)
def test_gors_reaches_the_tilted_velocity(t):
    """GORS with a threshold below all scores and s = exp(a x_0): E[s v | x_t] / E[s | x_t]."""
    clean, noise, probability = gaussian_grid()
    noisy = (1 - t) * clean + t * noise
    weight = threshold_weights((A * clean).exp(), threshold=0.0)
    intercept, slope = best_line(noisy, noise - clean, probability * weight).tolist()
    tilted = data_velocity(torch.tensor(1.0, dtype=torch.float64), t, mean=M + A * S**2).item()
    assert intercept + slope == pytest.approx(tilted, abs=1e-9)


@pytest.mark.system("s000-020")
def test_gors_leaves_out_and_weighs_by_the_score():
    """Of 0.95, 0.92, 0.9 at the published threshold for colours, 0.92, the first is kept, with its score."""
    found = threshold_weights(torch.tensor([0.95, 0.92, 0.9]), threshold=0.92)
    torch.testing.assert_close(found, torch.tensor([0.95, 0.0, 0.0]))


@pytest.mark.system("s002-056")
@pytest.mark.parametrize("t", TIMES)
def test_flow_dpo_reaches_the_tilted_velocity(t):
    """Preferences σ(a (x_w - x_l)) and v + δ: with shared t and e the difference of the errors' changes is
    2 δ (t / D) (x_w - x_l), so that the logit is exact for every pair at δ = -a D / (β t): with
    β = D² / (s² t²) the tilted velocity's -a s² t / D.
    """
    d = (1 - t) ** 2 * S**2 + t**2
    beta = d**2 / (S**2 * t**2)
    generator = torch.Generator().manual_seed(0)
    clean = M + S * torch.randn(2, 64, generator=generator, dtype=torch.float64)
    noise = torch.randn(64, generator=generator, dtype=torch.float64)
    preferred = torch.sigmoid(A * (clean[0] - clean[1]))
    shift = torch.zeros((), dtype=torch.float64, requires_grad=True)

    def error(side: int, moved: torch.Tensor | float) -> torch.Tensor:
        noisy = (1 - t) * clean[side] + t * noise
        return (data_velocity(noisy, t) + moved - (noise - clean[side])).square()

    optimizer = torch.optim.LBFGS([shift], max_iter=60, tolerance_grad=1e-12, line_search_fn="strong_wolfe")

    def loss() -> torch.Tensor:
        optimizer.zero_grad()
        sides = [(error(side, shift), error(side, 0.0)) for side in (0, 1)]
        (first, first_reference), (second, second_reference) = sides
        wins = diffusion_dpo_loss(first, second, first_reference, second_reference, beta=beta)
        losses = diffusion_dpo_loss(second, first, second_reference, first_reference, beta=beta)
        value = (preferred * wins + (1 - preferred) * losses).mean()
        value.backward()
        return value

    optimizer.step(loss)
    assert shift.item() == pytest.approx(-A * S**2 * t / d, rel=1e-4)


@pytest.mark.system("s004-016")
def test_curated_picks_move_the_mean_as_derived():
    """K = 2: E[u σ(a u)] with u of N(0, 2 s²), 0.301 here and a s² / 2 for small a; K = 1 changes nothing."""
    clean, other, probability = gaussian_grid(64)
    other = M + S * other  # both from N(M, S²)
    for a, expected in ((A, 0.301), (1e-3, 1e-3 * S**2 / 2)):
        pairs = torch.stack([clean, other])
        picks = torch.stack([curated_weights(a * pairs[:, at]) for at in range(pairs.shape[1])], dim=1)
        shift = (probability * (picks * pairs).sum(dim=0)).sum().item() - M
        assert shift == pytest.approx(expected, rel=2e-3)
    assert curated_weights(torch.tensor([5.0])).tolist() == [1.0]


@pytest.mark.system("s004-016")
def test_curated_picks_of_many_are_the_tilt():
    """K to infinity: p e^{a x}, the mean m + a s² and the variance unchanged, again in every round."""
    quantiles = torch.tensor([(at + 0.5) / 20_000 for at in range(20_000)], dtype=torch.float64)
    clean = M + S * math.sqrt(2) * torch.erfinv(2 * quantiles - 1)
    for rounds in (1, 2):
        picks = curated_weights(rounds * A * clean)
        mean = (picks * clean).sum().item()
        assert mean == pytest.approx(M + rounds * A * S**2, abs=5e-3)
        assert (picks * (clean - mean).square()).sum().item() == pytest.approx(S**2, abs=2e-2)


@pytest.mark.parametrize("kind", ["liked", "disliked"])
def test_kto_starts_at_a_half_with_slope_a_quarter_of_beta(kind):
    error = torch.tensor([0.3], requires_grad=True)
    sign = torch.tensor([1.0 if kind == "liked" else -1.0])
    loss = kahneman_tversky(gains(error, error.detach()), sign, beta=1000.0, baseline=0.0)
    loss.sum().backward()
    assert loss.item() == 0.5
    assert error.grad.item() == 250.0 * sign.item()


def test_kto_utilities_by_hand():
    """β (g - Q) = ln 3: 1 - σ(ln 3) = 1/4, -ln σ(ln 3) = ln 4/3, ln σ(-ln 3) = -ln 4; disliked: -ln 3."""
    gain = torch.tensor([math.log(3) / 10 + 0.2] * 2, dtype=torch.float64)
    sign = torch.tensor([1.0, -1.0], dtype=torch.float64)
    expected = {
        "kahneman_tversky": [1 / 4, 3 / 4],
        "loss_averse": [math.log(4 / 3), math.log(4)],
        "risk_seeking": [-math.log(4), -math.log(4 / 3)],
    }
    assert expected.keys() == UTILITIES.keys()
    for name, values in expected.items():
        assert UTILITIES[name](gain, sign, beta=10.0, baseline=0.2).tolist() == pytest.approx(values)


def test_kto_baselines_by_hand():
    """Gains 3, 1, -1 with votes (1, 0), (2, 1), (0, 4): (3 + 3 - 4) / 8; classes 5/3 and -3/5, their mean
    8/15; never below 0.
    """
    gain, good, bad = torch.tensor([3.0, 1, -1]), torch.tensor([1.0, 2, 0]), torch.tensor([0.0, 1, 4])
    assert mean_gain(gain, good, bad) == pytest.approx(2 / 8)
    assert mean_of_class_means(gain, good, bad) == pytest.approx(8 / 15)
    assert mean_of_class_means(gain, good, torch.zeros(3)) == pytest.approx(5 / 3)
    assert mean_gain(-gain, good, bad) == 0.0


@pytest.mark.system("s004-031")
def test_seppo_by_hand():
    """β = 2, Δ_w = ∓ln 3, Δ_g = ln 3. The policy fits the winner better: q = 1, the logit is 2 ln 3, and the
    sample's error shall rise. Worse: q = -1, the logit is -2 ln 3, and it shall fall as the winner's shall.
    """
    ln3, one = math.log(3), torch.ones(2, dtype=torch.float64)
    chosen = torch.tensor([1 - ln3, 1 + ln3], dtype=torch.float64, requires_grad=True)
    sample = (one + ln3).requires_grad_()
    losses = seppo_loss(chosen, sample, one, one, beta=2.0)
    assert losses.tolist() == pytest.approx([math.log(10 / 9), math.log(10)])
    losses.sum().backward()
    assert (chosen.grad > 0).all()
    assert sample.grad.sign().tolist() == [-1, 1]
    swapped = diffusion_dpo_loss(chosen[:1], sample[:1], one[:1], one[:1], beta=2.0)
    assert swapped.item() == losses[0].item()


@pytest.mark.system("s004-031")
def test_seppo_starts_by_pushing_samples_down():
    """sign(0) = +1: at the reference the loss is ln 2, and the sample has a gradient, -β/4."""
    chosen, sample = (torch.tensor([0.3], requires_grad=True) for _ in range(2))
    assert anchor_sign(chosen, chosen.detach()).tolist() == [1.0]
    loss = seppo_loss(chosen, sample, chosen.detach(), sample.detach(), beta=1000.0)
    loss.sum().backward()
    assert loss.item() == pytest.approx(math.log(2), abs=1e-7)
    assert (chosen.grad.item(), sample.grad.item()) == (250.0, -250.0)
