"""Objectives of online methods, by hand."""

import math
from functools import partial

import pytest
import torch
from torch import Tensor

from training.tuning.config import OnlineDPOConfig
from training.tuning.losses import advantages, trust_region
from training.tuning.losses import policy_gradient as losses
from training.tuning.methods.copg import group_loss
from training.tuning.methods.online_dpo import pair_losses

LN2 = math.log(2)


def tensor(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


def slope(loss: Tensor, leaf: Tensor) -> list[float]:
    return torch.autograd.grad(loss.sum(), leaf)[0].tolist()


def test_clipped_surrogate() -> None:
    """Ratio 2: a positive advantage counts 1.2 (1.28 clip-higher), a negative one 2; ratio ½ the reverse."""
    logps = torch.tensor([LN2, LN2, -LN2, -LN2], dtype=torch.float64, requires_grad=True)
    loss = losses.clipped_surrogate(logps, torch.zeros_like(logps), tensor(1, -1, 1, -1), low=0.2, high=0.2)
    torch.testing.assert_close(loss, tensor(-1.2, 2, -0.5, 0.8))
    assert slope(loss, logps) == pytest.approx([0, 2, -0.5, 0])
    higher = losses.clipped_surrogate(tensor(LN2), tensor(0), tensor(1), low=0.2, high=0.28)
    torch.testing.assert_close(higher, tensor(-1.28))


def test_sequence_surrogate_takes_the_root_of_the_ratio() -> None:
    """Ratio 8 over three tokens is 2 per token; the gradient is shared by them."""
    logps = torch.tensor([3 * LN2], dtype=torch.float64, requires_grad=True)
    loss = losses.sequence_surrogate(logps, tensor(0), tensor(3), tensor(-1), low=0.2, high=0.2)
    torch.testing.assert_close(loss, tensor(2))
    assert slope(loss, logps) == pytest.approx([2 / 3])


def test_clipped_importance_never_stops_learning() -> None:
    logps = torch.tensor([LN2], dtype=torch.float64, requires_grad=True)
    loss = losses.clipped_importance(logps, tensor(0), tensor(1), low=0.2, high=0.2)
    assert slope(loss, logps) == pytest.approx([-1.2])


def test_kl_estimates() -> None:
    """Log-ratio ln 2: ln 2, ½ ln² 2, ½ - 1 + ln 2."""
    for kind, expected in {"k1": LN2, "k2": LN2**2 / 2, "k3": LN2 - 0.5}.items():
        torch.testing.assert_close(losses.kl_estimate(tensor(LN2), tensor(0), kind=kind), tensor(expected))
    p, q = tensor(0.8, 0.2), tensor(0.5, 0.5)
    exact = (p * (p / q).log()).sum()
    for kind in ("k1", "k3"):
        torch.testing.assert_close((p * losses.kl_estimate(p.log(), q.log(), kind=kind)).sum(), exact)


@pytest.mark.system("s000-048")
def test_advantage_regression() -> None:
    """A = .05, lambda = .1: the optimum is half a nat above the start, where the loss is .25."""
    logps = torch.zeros(1, dtype=torch.float64, requires_grad=True)
    loss = losses.advantage_regression(logps, tensor(0), tensor(0.05), beta=0.1)
    torch.testing.assert_close(loss, tensor(0.25))
    assert slope(loss, logps) == pytest.approx([-1.0])  # 2 · (0 - .5): linear in the residual
    torch.testing.assert_close(
        losses.advantage_regression(tensor(0.5), tensor(0), tensor(0.05), beta=0.1), tensor(0)
    )
    at_start = torch.zeros(1, dtype=torch.float64, requires_grad=True)
    unmoved = losses.advantage_regression(at_start, tensor(0), tensor(0), beta=0.1)
    assert slope(unmoved, at_start) == [0]


@pytest.mark.system("s004-004")
def test_negative_aware_gradients_cancel_on_policy() -> None:
    """r = .25, ratio 1, weight .75: slopes -.75 and +.25, and .25 · (-.75) + .75 · .25 = 0."""
    ratio = torch.ones(2, dtype=torch.float64, requires_grad=True)
    success = tensor(0.25, 0.25)
    loss = losses.negative_aware(
        ratio.log(), tensor(0, 0), torch.tensor([True, False]), success, floor=1.0
    ) * losses.prompt_weight(success, kind="hard")
    assert loss.tolist() == [0, 0]
    right, wrong = slope(loss, ratio)
    assert (right, wrong) == pytest.approx((-0.75, 0.25))
    assert 0.25 * right + 0.75 * wrong == pytest.approx(0)
    # For a ratio above 1 the floor holds the value, and the slope stays weight · r / (1 - r) · ratio.
    above = torch.tensor([2.0], dtype=torch.float64, requires_grad=True)
    held = losses.negative_aware(above.log(), tensor(0), torch.tensor([False]), tensor(0.25), floor=1.0)
    assert held.tolist() == [0]
    assert slope(held, above) == pytest.approx([1 / 3])


def test_negative_aware_is_grpo_with_the_second_weight() -> None:
    """Weight sqrt((1 - r) / r): the slopes are the group's normalised rewards, (1 - r) / s and -r / s."""
    rate = 0.25
    spread = math.sqrt(rate * (1 - rate))
    logps = torch.zeros(2, dtype=torch.float64, requires_grad=True)
    success = tensor(rate, rate)
    loss = losses.negative_aware(logps, tensor(0, 0), torch.tensor([True, False]), success, floor=1.0)
    loss = loss * losses.prompt_weight(success, kind="even")
    assert slope(loss, logps) == pytest.approx([-(1 - rate) / spread, rate / spread])


@pytest.mark.system("s004-040")
def test_negative_reinforcement_moves_mass_in_proportion() -> None:
    """Probabilities (.7, .2, .1), the wrong token 0: ascent on the logits is (-.3, .2, .1) / ... times .7.

    d log p0 / d logits = (1 - .7, -.2, -.1); an advantage of -1 turns it round: (-.3, +.2, +.1).
    """
    logits = tensor(0.7, 0.2, 0.1).log().requires_grad_()
    loss = losses.policy_gradient(logits.log_softmax(0)[:1], tensor(-1))
    assert [-value for value in slope(loss, logits)] == pytest.approx([-0.3, 0.2, 0.1])


@pytest.mark.system("s000-093")
def test_generator_divergences() -> None:
    """u = 1: zero. u = 2: 1 - ln 2 = .3069, and 2 ln 2 - 3 ln 1.5 = .1699. Its mean is KL(pi_0 || pi)."""
    for kind, at_two in {"forward_kl": 1 - LN2, "js_divergence": 2 * LN2 - 3 * math.log(1.5)}.items():
        found = losses.generator_divergence(tensor(0, LN2), tensor(0, 0), kind=kind)
        torch.testing.assert_close(found, tensor(0, at_two))
    start, now = tensor(0.5, 0.3, 0.2), tensor(0.2, 0.2, 0.6)
    mean = (start * losses.generator_divergence(now.log(), start.log(), kind="forward_kl")).sum()
    torch.testing.assert_close(mean, (start * (start / now).log()).sum())


def test_clipped_value_loss() -> None:
    """Old 0, clip .2: value 1 against return .5 costs ½ · .5², held at .2 ½ · .3²; the larger counts."""
    found = losses.clipped_value_loss(tensor(1, 0.1), tensor(0, 0), tensor(0.5, 1), clip=0.2)
    torch.testing.assert_close(found, tensor(0.125, 0.405))


@pytest.mark.system("s003-043")
def test_pair_regression_is_zero_at_the_tilted_policy() -> None:
    """R = (1, 0), beta 1: .5 at the start, 0 at softmax(R); a constant added to R changes nothing."""
    start = torch.tensor([[0.5, 0.5]], dtype=torch.float64).log()
    scores = torch.tensor([[1.0, 0.0]], dtype=torch.float64)
    copg = torch.vmap(partial(group_loss, beta=1.0))
    at_start = copg(start - start, scores)
    torch.testing.assert_close(at_start, tensor(0.5))
    tilted = copg(scores.log_softmax(1) - start, scores + 7)
    torch.testing.assert_close(tilted, tensor(0))


def test_exploratory_preference() -> None:
    """beta .1, gap 5: .4741; alpha adds its share of the reference's answer, and alpha to its slope."""
    own = torch.tensor([-3.0], dtype=torch.float64, requires_grad=True)
    config = OnlineDPOConfig(beta=0.1, alpha=0.01, second="reference")
    now, start = torch.stack([tensor(5), own], dim=1), torch.stack([tensor(0), own.detach()], dim=1)
    loss = pair_losses(now, start, tensor(1), config)
    torch.testing.assert_close(loss, tensor(math.log1p(math.exp(-0.5)) - 0.03))
    assert slope(loss, own) == pytest.approx([0.01 + 0.1 / (1 + math.exp(0.5))])


def test_leave_one_out() -> None:
    found = advantages.leave_one_out(torch.tensor([[1.0, 2.0, 6.0]]))
    torch.testing.assert_close(found, torch.tensor([[1 - 4.0, 2 - 3.5, 6 - 1.5]]))


def test_group_relative() -> None:
    """(1, 2, 6): mean 3, unbiased deviation sqrt(7)."""
    rewards = torch.tensor([[1.0, 2.0, 6.0], [5.0, 5.0, 5.0]])
    found = advantages.group_relative(rewards, epsilon=0.0)
    torch.testing.assert_close(found[0], torch.tensor([-2.0, -1.0, 3.0]) / math.sqrt(7))
    assert advantages.group_relative(rewards)[1].tolist() == [0, 0, 0]
    plain = advantages.group_relative(rewards, scale="none")
    torch.testing.assert_close(plain[0], torch.tensor([-2.0, -1.0, 3.0]))
    by_batch = advantages.group_relative(rewards, scale="batch", epsilon=0.0)
    torch.testing.assert_close(by_batch[0], torch.tensor([-2.0, -1.0, 3.0]) / rewards.std())


@pytest.mark.system("s001-008")
def test_generalised_advantages() -> None:
    """Three tokens, +1 on the second, V = 0, gamma 1, lambda .95: (.95, 1, 0). With values: by hand."""
    (found,) = advantages.generalised_advantages([tensor(0, 1, 0)], [tensor(0, 0, 0)], gamma=1.0, lam=0.95)
    torch.testing.assert_close(found, tensor(0.95, 1, 0))
    (found,) = advantages.generalised_advantages([tensor(0, 1)], [tensor(0.5, 0.25)], gamma=0.9, lam=0.5)
    # delta_1 = 1 - .25 = .75; delta_0 = .9 · .25 - .5 = -.275; A_0 = -.275 + .45 · .75
    torch.testing.assert_close(found, tensor(-0.275 + 0.3375, 0.75))


def test_whitened() -> None:
    values = tensor(1, 2, 3, 6)
    torch.testing.assert_close(advantages.whitened(values).var(unbiased=False), torch.tensor(1.0).double())
    torch.testing.assert_close(advantages.whitened(values, shift_mean=False).mean(), values.mean())


def test_overlong_penalty() -> None:
    found = advantages.overlong_penalty(tensor(60, 80, 90, 100, 120), longest=100, buffer=20)
    torch.testing.assert_close(found, tensor(0, 0, -0.5, -1, -1))


@pytest.mark.system("s000-031")
def test_adapted_kl_weight() -> None:
    """KL 9 against 6 is 50 % too much, of which .2 counts: .15 · (1 + .2 · 512 / 10000)."""
    found = advantages.adapted_kl_weight(0.15, kl=9.0, target=6.0, episodes=512, horizon=10_000)
    assert found == pytest.approx(0.151536)


@pytest.mark.system("s000-019")
def test_projection_onto_the_trust_region() -> None:
    """Old (.5, .5), new (.9, .1), KL .3681 over a bound of .05: eta 2.3856, (.6568, .3432), penalty .1602."""
    old = torch.tensor([[0.5, 0.5]], dtype=torch.float64).log()
    logp = torch.tensor([[0.9, 0.1]], dtype=torch.float64).log()
    assert float(trust_region.kl(logp, old)) == pytest.approx(0.3681, abs=1e-4)
    projected, eta = trust_region.project(logp, old, bound=0.05)
    assert float(eta) == pytest.approx(2.3856, abs=1e-4)
    assert projected.exp()[0].tolist() == pytest.approx([0.6568, 0.3432], abs=1e-4)
    assert float(trust_region.kl(projected, old)) == pytest.approx(0.05, abs=1e-9)
    assert float(trust_region.kl(logp, projected)) == pytest.approx(0.1602, abs=1e-4)


def test_projection_leaves_what_is_inside() -> None:
    old = torch.tensor([[0.5, 0.5]], dtype=torch.float64).log()
    logp = torch.tensor([[0.55, 0.45]], dtype=torch.float64).log()
    projected, eta = trust_region.project(logp, old, bound=0.05)
    assert float(eta) == 0
    torch.testing.assert_close(projected, logp)


def test_projection_has_the_gradient_of_the_whole_map() -> None:
    """Through eta too: against finite differences."""
    torch.manual_seed(0)
    old = torch.randn(3, 5, dtype=torch.float64).log_softmax(1)
    logits = (2 * torch.randn(3, 5, dtype=torch.float64)).requires_grad_()

    def through(free: Tensor) -> Tensor:
        return trust_region.project(free.log_softmax(1), old, bound=0.05)[0].exp()

    assert torch.autograd.gradcheck(through, (logits,), eps=1e-6, atol=1e-5)
