"""Losses of reward models: values by hand, and planted utilities that they recover."""

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from training.tuning.losses import ties
from training.tuning.losses.attributes import rating_loss
from training.tuning.losses.bradley_terry import bradley_terry_loss, centring
from training.tuning.losses.general_preference import general_preference_loss, preference_scores
from training.tuning.losses.noise import min_norm_weights, peer_choice
from training.tuning.losses.ordinal import ordinal_loss
from training.tuning.losses.rankings import best_of_k_loss, plackett_luce_loss
from training.tuning.losses.steps import step_loss
from training.tuning.rewards.transforms import disagreement, ensemble_mean

UTILITIES = torch.tensor([0.0, 0.8, -0.5, 1.5], dtype=torch.float64)
FIRST, SECOND = torch.combinations(torch.arange(4)).unbind(1)


def wide(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


def minimise(loss: Callable[..., Tensor], *parameters: Tensor) -> None:
    """To the minimum of a smooth function, in place."""
    optimizer = torch.optim.LBFGS(
        parameters, max_iter=500, tolerance_grad=1e-12, tolerance_change=1e-16, line_search_fn="strong_wolfe"
    )

    def closure() -> float:
        optimizer.zero_grad()
        value = loss()
        value.backward()
        return float(value.detach())

    optimizer.step(closure)


def fitted(loss: Callable[[Tensor], Tensor]) -> Tensor:
    """Scores of four items that minimise a loss, the first at 0."""
    scores = torch.zeros(4, dtype=torch.float64, requires_grad=True)
    minimise(lambda: loss(scores), scores)
    return (scores - scores[0]).detach()


# Pairs


@pytest.mark.system("s001-035")
def test_margin_smoothing_and_centring_by_hand() -> None:
    """Gap 2, lead 2: ln 2. Gap 0, ε = ¼: still ln 2. At a fixed gap g the centring term is 0 at ±g/2 only."""
    one = wide(1.0)
    assert bradley_terry_loss(wide(3.0), one, one, lead=wide(2.0)).item() == pytest.approx(math.log(2))
    assert bradley_terry_loss(one, one, one, label_smoothing=0.25).item() == pytest.approx(math.log(2))
    smooth = bradley_terry_loss(wide(2.0), one, one, label_smoothing=0.25)
    assert smooth.item() == pytest.approx(0.75 * 0.3133 + 0.25 * 1.3133, abs=5e-5)
    assert centring(wide(0.7, 1.0), wide(-0.7, 0.5)).tolist() == [0, 2.25]
    scores = wide(5.0, 1.0).requires_grad_()
    # −log σ(r_w − r_l) leaves the offset free; with the term the mean of both goes to 0.
    minimise(
        lambda: (0.1 * centring(scores[:1], scores[1:]) + (scores[:1] - scores[1:] - 2) ** 2).sum(), scores
    )
    assert scores.tolist() == pytest.approx([1, -1], abs=1e-6)


def tie_shares(margin: Tensor, model: str, nu: float) -> tuple[Tensor, Tensor]:
    win, tie = {
        "rao_kupper": (ties.rao_kupper_win_loss, ties.rao_kupper_tie_loss),
        "davidson": (ties.davidson_win_loss, ties.davidson_tie_loss),
    }[model]
    return win(margin, nu=nu), tie(margin, nu=nu)


@pytest.mark.parametrize(("model", "nu"), [("rao_kupper", 3.0), ("davidson", 1.0)])
def test_ties_are_probabilities_and_recover_utilities(model: str, nu: float) -> None:
    """Equal answers: half the judgements are ties. The three add up to 1; planted utilities come out."""
    margin = UTILITIES[FIRST] - UTILITIES[SECOND]
    win, tie = tie_shares(margin, model, nu)
    lose, _ = tie_shares(-margin, model, nu)
    shares = [(-one).exp() for one in (win, tie, lose)]
    torch.testing.assert_close(sum(shares), torch.ones(6, dtype=torch.float64))
    equal, _ = tie_shares(wide(0.0), model, nu)
    assert equal.exp().item() == pytest.approx(4)  # a quarter each way

    def loss(scores: Tensor) -> Tensor:
        gap = scores[FIRST] - scores[SECOND]
        one, tied = tie_shares(gap, model, nu)
        other, _ = tie_shares(-gap, model, nu)
        return (shares[0] * one + shares[1] * tied + shares[2] * other).mean()

    torch.testing.assert_close(fitted(loss), UTILITIES, rtol=0, atol=1e-5)


def test_ordinal_by_hand_and_recovery() -> None:
    """Cuts ½, 1, 2: at d = 0 a tie has σ(½) − σ(−½) = .2449; levels add up to 1; planted scores come out."""
    cuts = wide(0.5, 1.0, 2.0)
    levels = torch.arange(-3, 4)
    at_zero = (-ordinal_loss(torch.zeros(7, dtype=torch.float64), levels, cuts)).exp()
    assert at_zero[3].item() == pytest.approx(0.2449, abs=5e-5)
    assert at_zero.sum().item() == pytest.approx(1)
    assert at_zero[6].item() == pytest.approx(1 / (1 + math.exp(2)))
    torch.testing.assert_close(at_zero, at_zero.flip(0))

    margin = (UTILITIES[FIRST] - UTILITIES[SECOND]).repeat_interleave(7)
    all_levels = levels.repeat(6)
    shares = (-ordinal_loss(margin, all_levels, cuts)).exp()
    raw = torch.zeros(3, dtype=torch.float64, requires_grad=True)
    scores = torch.zeros(4, dtype=torch.float64, requires_grad=True)

    def loss() -> Tensor:
        gap = (scores[FIRST] - scores[SECOND]).repeat_interleave(7)
        own = torch.nn.functional.softplus(raw).cumsum(0)
        return (shares * ordinal_loss(gap, all_levels, own)).sum()

    minimise(loss, scores, raw)
    torch.testing.assert_close((scores - scores[0]).detach(), UTILITIES, rtol=0, atol=1e-4)
    torch.testing.assert_close(torch.nn.functional.softplus(raw.detach()).cumsum(0), cuts, rtol=0, atol=1e-4)


def test_ordinal_far_away_stays_finite() -> None:
    """A very wrong level costs about the distance, with a gradient: no log of 0."""
    margin = torch.tensor([80.0, -80.0], requires_grad=True)
    losses = ordinal_loss(margin, torch.tensor([0, 3]), torch.tensor([0.5, 1.0, 2.0]))
    losses.sum().backward()
    assert losses.isfinite().all()
    assert margin.grad is not None
    assert margin.grad.tolist() == pytest.approx([1, -1], abs=1e-4)


# Rankings


def test_plackett_luce_by_hand() -> None:
    """Scores (2, 1, 0), best first: ln(1 + e⁻¹ + e⁻²) + ln(1 + e⁻¹) = .4076 + .3133."""
    scores = wide(2.0, 1.0, 0.0)[None]
    whole = plackett_luce_loss(scores, torch.tensor([[0, 1, 2]]))
    assert whole.item() == pytest.approx(0.4076 + 0.3133, abs=1e-4)
    # A choice of the first among three: only the first term. Unranked: as if it were not there.
    assert plackett_luce_loss(scores, torch.tensor([[0, 1, 1]])).item() == pytest.approx(0.4076, abs=5e-5)
    assert plackett_luce_loss(scores, torch.tensor([[0, 1, -1]])).item() == pytest.approx(0.3133, abs=5e-5)
    # Two tied above one: each beats the third, they do not meet. All tied: nothing is said.
    tied = plackett_luce_loss(scores, torch.tensor([[0, 0, 1]])).item()
    assert tied == pytest.approx(math.log(1 + math.exp(-2)) + math.log(1 + math.exp(-1)))
    assert plackett_luce_loss(scores, torch.tensor([[0, 0, 0]])).item() == 0


def test_plackett_luce_recovers_utilities() -> None:
    """All 24 orders of four items with their exact probabilities."""
    orders = torch.tensor([list(order) for order in _permutations()])
    tiers = orders.argsort(dim=1)
    shares = (-plackett_luce_loss(UTILITIES.expand(24, 4), tiers)).exp()
    assert shares.sum().item() == pytest.approx(1)
    found = fitted(lambda scores: (shares * plackett_luce_loss(scores.expand(24, 4), tiers)).sum())
    torch.testing.assert_close(found, UTILITIES, rtol=0, atol=1e-5)


def _permutations() -> list[tuple[int, ...]]:
    from itertools import permutations

    return list(permutations(range(4)))


@pytest.mark.system("s000-031")
def test_best_of_four_by_hand() -> None:
    """Equal scores: ln 4; padding is no candidate: ln 3; it equals a choice as a ranking; it recovers."""
    present = torch.tensor([[True, True, True, True]])
    choice = torch.tensor([[0.0, 1.0, 0.0, 0.0]], dtype=torch.float64)
    zeros = torch.zeros(1, 4, dtype=torch.float64)
    assert best_of_k_loss(zeros, choice, present).item() == pytest.approx(math.log(4))
    three = torch.tensor([[True, True, True, False]])
    assert best_of_k_loss(zeros, choice, three).item() == pytest.approx(math.log(3))
    scores = UTILITIES[None]
    same = plackett_luce_loss(scores, torch.tensor([[1, 0, 1, 1]]))
    torch.testing.assert_close(best_of_k_loss(scores, choice, present), same)
    shares = UTILITIES.softmax(0)[None]
    found = fitted(lambda scores: best_of_k_loss(scores[None], shares, present).sum())
    torch.testing.assert_close(found, UTILITIES, rtol=0, atol=1e-5)


# Cycles


@pytest.mark.system("s001-051")
def test_general_preferences_hold_cycles() -> None:
    """Unit vectors at 0°, 120°, 240°: .8660 around the cycle; s(i, i) = 0; s(i, j) = −s(j, i)."""
    angles = wide(0, 120, 240) * math.pi / 180
    vectors = torch.stack([angles.cos(), angles.sin()], dim=1)
    around = preference_scores(vectors, vectors.roll(-1, dims=0))
    torch.testing.assert_close(around, torch.full((3,), math.sqrt(3) / 2, dtype=torch.float64))
    assert preference_scores(vectors, vectors).abs().max() < 1e-12
    torch.testing.assert_close(preference_scores(vectors.roll(-1, 0), vectors), -around)
    # Trained on a ≻ b ≻ c ≻ a, it says so; no scores r could: their differences around a cycle add up to 0.
    torch.manual_seed(0)
    free = torch.randn(3, 2, dtype=torch.float64, requires_grad=True)
    share = torch.full((3,), 0.9, dtype=torch.float64)
    minimise(lambda: general_preference_loss(free, free.roll(-1, 0), share, temperature=0.1).sum(), free)
    found = torch.sigmoid(preference_scores(free, free.roll(-1, 0)) / 0.1)
    torch.testing.assert_close(found.detach(), share, rtol=0, atol=1e-5)


# Attributes and steps


@pytest.mark.system("s002-026")
def test_ratings_by_hand() -> None:
    """Squared errors 1 and ¼."""
    assert rating_loss(wide(3.0, 1.0), wide(4.0, 1.5)).tolist() == [1, 0.25]


def test_steps_by_hand() -> None:
    """Logit 0: ln 2 whatever the label; logit ln 3 says ¾: a right step costs ln 4/3, a wrong one ln 4."""
    losses = step_loss(wide(0.0, math.log(3), math.log(3)), wide(0.3, 1.0, 0.0))
    assert losses.tolist() == pytest.approx([math.log(2), math.log(4 / 3), math.log(4)])


# Labels and sources that differ in quality


@pytest.mark.system("s001-036")
def test_peers_choose_for_each_other() -> None:
    """A's margins (2, −1, ½, 3), η = ½: B learns from pairs 0 and 3. η near 0: both learn from all."""
    margins = torch.tensor([[2.0, 0.1], [-1.0, 0.4], [0.5, 0.2], [3.0, 0.3]])
    weights = peer_choice(margins, 0.5)
    assert weights[:, 1].tolist() == [1, 0, 0, 1]
    assert weights[:, 0].tolist() == [0, 1, 0, 1]
    assert peer_choice(margins, 1e-9).tolist() == [[1, 1]] * 4


@pytest.mark.system("s001-042")
def test_strength_of_an_ensemble_by_hand() -> None:
    """d = (1, 2, 3): μ = 2, σ = .8165; with μ as the lead a gap of 2 costs ln 2."""
    margins = torch.tensor([[1.0, 2.0, 3.0]])
    mean, spread = ensemble_mean(margins), disagreement(margins)
    assert (mean.item(), spread.item()) == (2, pytest.approx(0.8165, abs=5e-5))
    loss = bradley_terry_loss(torch.tensor([2.0]), torch.tensor([0.0]), torch.ones(1), lead=mean)
    assert loss.item() == pytest.approx(math.log(2))


@pytest.mark.system("s001-061")
def test_min_norm_weights_by_hand() -> None:
    """g = (1, 0), (0, 2): λ = (.8, .2), direction (.8, .4), its product with both .8; opposites cancel."""
    gradients = torch.tensor([[1.0, 0.0], [0.0, 2.0]])
    weights = min_norm_weights(gradients)
    assert weights.tolist() == pytest.approx([0.8, 0.2], abs=1e-4)
    assert (gradients @ (weights @ gradients)).tolist() == pytest.approx([0.8, 0.8], abs=1e-3)
    opposite = torch.tensor([[1.0, 2.0], [-1.0, -2.0]])
    assert (min_norm_weights(opposite) @ opposite).norm().item() == pytest.approx(0, abs=1e-4)
    three = torch.randn(3, 5, generator=torch.Generator().manual_seed(1))
    direction = min_norm_weights(three, rounds=5000) @ three
    assert (three @ direction >= direction @ direction - 1e-3).all()
