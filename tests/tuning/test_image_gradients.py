"""Gradients of rewards through image models, against what they must be on Gaussian data."""

import math

import pytest
import torch
from torch import Tensor

from tests.tuning.gaussians import MEAN, SPREAD, velocity
from tests.tuning.tilted import SLOPE, betas, exact, flow, linear, noise
from training.tuning.images.backprop import (
    align_directly,
    draw_last_steps,
    lean_adjoints,
    point_at_clean,
    redraw_last_step,
    reward_gradient,
)
from training.tuning.images.schedules import Sampler, Schedule, ancestral, ddim
from training.tuning.images.search.walk import one_generator
from training.tuning.images.trajectories import Chain, Denoise, sample, step
from training.tuning.losses.reward_gradient import (
    adjoint_matching_loss,
    few_step_loss,
    refl_loss,
    relative_reward,
    uncertain_loss,
    value_loss,
)


def shift() -> Tensor:
    return torch.zeros((), dtype=torch.float64, requires_grad=True)


SCHEDULES = pytest.mark.parametrize("schedule", [flow(10), betas(10)], ids=["flow", "betas"])


def slope_of(denoise: Denoise, sampler: Sampler, index: int) -> float:
    """dx'/dx of an affine step."""
    zero, one = (torch.full((1, 1, 1, 1), at, dtype=torch.float64) for at in (0.0, 1.0))
    return float(step(denoise, sampler, one, index).mean - step(denoise, sampler, zero, index).mean)


# DRaFT


@pytest.mark.parametrize("last", [1, 3, 10, 99])
@pytest.mark.parametrize("recompute", [False, True])
def test_draft_by_hand(last: int, recompute: bool) -> None:
    """v + θ, ten Euler steps of length h: dR/dθ = −a h Σ over the last K of Π over later ones (1 − h ∂v)."""
    schedule, theta, h = flow(10), shift(), 0.1
    sampler = ddim(schedule, eta=0.0)
    drawn = draw_last_steps(
        lambda x, time: velocity(x, time) + theta,
        sampler,
        noise(3),
        generators=one_generator(0),
        last=last,
        recompute=recompute,
    )
    linear(drawn).mean().backward()
    slopes = [slope_of(velocity, sampler, index) for index in range(10)]
    expected = -SLOPE * h * sum(math.prod(slopes[index + 1 :]) for index in range(max(0, 10 - last), 10))
    assert theta.grad is not None
    assert float(theta.grad) == pytest.approx(expected, rel=1e-12)
    # The pictures are those of the plain sampler, however far the gradient reaches.
    plain = sample(velocity, sampler, noise(3), generators=one_generator(0)).final
    torch.testing.assert_close(drawn.detach(), plain)


def test_a_chain_with_noise_is_the_same_with_and_without_gradient() -> None:
    sampler = ancestral(flow(6))
    plain = sample(velocity, sampler, noise(4), generators=one_generator(5)).final
    for last in (1, 4, 6):
        drawn = draw_last_steps(velocity, sampler, noise(4), generators=one_generator(5), last=last)
        assert torch.equal(drawn, plain)


@SCHEDULES
def test_the_last_step_redrawn(schedule: Schedule) -> None:
    """From x_t = αx_0 + σε the last step gives x̂_0: what a shift of the answer does is known, and the mean
    over draws does not depend on the starting noise of the picture.
    """
    theta, last = shift(), schedule.steps - 1
    found = redraw_last_step(
        lambda x, time: exact(schedule)(x, time) + theta,
        ddim(schedule, eta=0.0),
        noise(3),
        generators=one_generator(0),
        count=2,
    )
    assert len(found) == 2
    assert not torch.equal(found[0], found[1])
    torch.stack([linear(one).mean() for one in found]).mean().backward()
    alpha, sigma = float(schedule.alphas[last]), float(schedule.sigmas[last])
    assert theta.grad is not None
    expected = -SLOPE * sigma if schedule.is_flow else -SLOPE * sigma / alpha
    assert float(theta.grad) == pytest.approx(expected, rel=1e-9)


# ReFL


@SCHEDULES
def test_refl_by_hand(schedule: Schedule) -> None:
    """One call has a gradient: dL/dε = a σ/α by betas, dL/dv = a t in a flow, while r is below the goal."""
    at, theta = 7, shift()
    clean = point_at_clean(
        lambda x, time: exact(schedule)(x, time) + theta,
        ddim(schedule, eta=0.0),
        noise(4),
        generators=one_generator(0),
        at=at,
    )
    rewards = linear(clean)
    refl_loss(rewards, goal=100.0).mean().backward()
    alpha, sigma = float(schedule.alphas[at]), float(schedule.sigmas[at])
    assert theta.grad is not None
    assert float(theta.grad) == pytest.approx(SLOPE * (sigma if schedule.is_flow else sigma / alpha))
    assert refl_loss(rewards, goal=-100.0).max() == 0
    assert refl_loss(torch.tensor([0.5, 2.5]), goal=2.0).tolist() == [1.5, 0.0]


# Direct-Align


@pytest.mark.system("s000-005")
@SCHEDULES
def test_direct_align_recovers_the_picture(schedule: Schedule) -> None:
    """A denoiser that is right gives back x_0 from any level to any other; a shift of its answer moves the
    picture by (σ' − σ) / (1 − σ') in a flow, in both directions; nothing else depends on it.
    """
    clean, known = noise(3), noise(3, seed=1)

    def right(x: Tensor, time: float) -> Tensor:
        return known - clean if schedule.is_flow else known

    for level, to in ((2, 5), (5, 2), (8, 9)):
        found = align_directly(right, schedule, clean, known, level=level, to=to)
        torch.testing.assert_close(found, clean)
        theta = shift()
        moved = align_directly(
            lambda x, time, theta=theta: right(x, time) + theta, schedule, clean, known, level=level, to=to
        )
        moved.mean().backward()
        alpha, sigma = (float(values[level]) for values in (schedule.alphas, schedule.sigmas))
        alpha_to, sigma_to = (float(values[to]) for values in (schedule.alphas, schedule.sigmas))
        expected = sigma_to / alpha_to - sigma / alpha
        if schedule.is_flow:
            expected = (sigma_to - sigma) / (1 - sigma_to)
        assert theta.grad is not None
        assert float(theta.grad) == pytest.approx(expected)


@pytest.mark.system("s000-005")
def test_relative_rewards_cancel_what_every_picture_has() -> None:
    """k = 0.1: 1.1 · 0.6 − 0.5 = 0.16. What both words are given counts k times only."""
    wanted, unwanted = (torch.tensor([value], dtype=torch.float64) for value in (0.6, 0.5))
    assert float(relative_reward(wanted, unwanted, strength=0.1)) == pytest.approx(0.16)
    biased = relative_reward(wanted + 10, unwanted + 10, strength=0.1)
    assert float(biased) == pytest.approx(0.16 + 0.1 * 10)


# Adjoint matching


def final_variance(denoise: Denoise, sampler: Sampler) -> float:
    """Var(X_K | X_0) of an affine chain: Σ std² Π later slopes²."""
    slopes = [slope_of(denoise, sampler, index) for index in range(sampler.steps)]
    return sum(float(std) ** 2 * math.prod(slopes[index + 1 :]) ** 2 for index, std in enumerate(sampler.std))


def run_adjoint(
    schedule: Schedule, sampler: Sampler, gradient: float, *, count: int = 2, seed: int = 0
) -> tuple[Chain, dict[int, Tensor]]:
    chain = sample(exact(schedule), sampler, noise(count), generators=one_generator(seed))
    at_end = torch.full_like(chain.final, -gradient)
    return chain, lean_adjoints(exact(schedule), sampler, chain, at_end)


@pytest.mark.system("s000-001")
def test_lean_adjoint_of_a_linear_reward() -> None:
    """ã_u = −a s² u / (u² s² + (1 − u)²) with u = 1 − t, on the memoryless schedule, which DDPM's ancestral
    step of a flow is in the limit: std² → 2t/(1 − t) · h.
    """
    schedule = flow(400)
    sampler = ancestral(schedule)
    _, adjoints = run_adjoint(schedule, sampler, SLOPE)
    for index in (100, 200, 300):
        u = 1 - float(schedule.sigmas[index + 1])
        expected = -SLOPE * SPREAD**2 * u / (u**2 * SPREAD**2 + (1 - u) ** 2)
        assert adjoints[index].flatten().tolist() == pytest.approx([expected] * 2, rel=0.02)
        t = float(schedule.sigmas[index])
        assert float(sampler.std[index]) ** 2 * 400 == pytest.approx(2 * t / (1 - t), rel=0.05)


def matched_mean(schedule: Schedule, sampler: Sampler, adjoints: dict[int, Tensor], chain: Chain) -> Tensor:
    """Where chains end, on average, whose every step has the mean that minimises the loss."""
    mean = torch.zeros(1, 1, 1, 1, dtype=torch.float64)
    for index in range(sampler.steps):
        moved = step(exact(schedule), sampler, mean, index).mean
        std = float(sampler.std[index])
        if std:
            target = moved.clone().requires_grad_()
            adjoint = adjoints[index].mean(dim=0, keepdim=True)
            loss = adjoint_matching_loss(target, moved, adjoint, std=std).sum()
            # Quadratic with curvature 2 / std²: one Newton step is the optimum.
            moved = target.detach() - std**2 / 2 * reward_gradient(loss[None], target)
        mean = moved
    return mean


@pytest.mark.system("s000-001")
@pytest.mark.parametrize("schedule", [flow(200), betas(200)], ids=["flow", "betas"])
def test_adjoint_matching_reaches_the_tilted_mean(schedule: Schedule) -> None:
    """Linear reward: the matched model draws N(m + as², s²), mean 1.376; what it adds is a Var(X_1 | X_0)."""
    sampler = ddim(schedule, eta=1.0)
    chain, adjoints = run_adjoint(schedule, sampler, SLOPE)
    moved = float(matched_mean(schedule, sampler, adjoints, chain))
    plain = float(matched_mean(schedule, sampler, {index: 0 * one for index, one in adjoints.items()}, chain))
    assert moved - plain == pytest.approx(SLOPE * final_variance(exact(schedule), sampler), rel=1e-9)
    assert moved - plain == pytest.approx(SLOPE * SPREAD**2, rel=0.03)
    assert moved == pytest.approx(1.376, abs=0.03)


@pytest.mark.system("s000-001")
@pytest.mark.parametrize("schedule", [flow(200), betas(200)], ids=["flow", "betas"])
def test_another_noise_schedule_is_biased_as_predicted(schedule: Schedule) -> None:
    """With a third of the noise X_0 says much about X_1: the mean moves by a Var(X_1 | X_0), far less."""
    sampler = ddim(schedule, eta=0.33)
    chain, adjoints = run_adjoint(schedule, sampler, SLOPE)
    moved = float(matched_mean(schedule, sampler, adjoints, chain))
    plain = float(matched_mean(schedule, sampler, {index: 0 * one for index, one in adjoints.items()}, chain))
    predicted = SLOPE * final_variance(exact(schedule), sampler)
    assert moved - plain == pytest.approx(predicted, rel=1e-9)
    assert predicted < 0.9 * SLOPE * SPREAD**2


@pytest.mark.system("s000-001")
def test_adjoint_matching_of_a_quadratic_reward() -> None:
    """r = −(x − b)²/2c: fitted on its own chains, an affine shift of every step ends at the tilted
    N(−0.114, 0.543).
    """
    b, c = -0.5, 0.8
    schedule = flow(40)
    sampler = ancestral(schedule)
    shifts = torch.zeros(40, 2, dtype=torch.float64)  # of the velocity: constant and slope at every step

    def policy(x: Tensor, time: float) -> Tensor:
        index = round((1 - time) * 40)
        return velocity(x, time) + shifts[index, 0] + shifts[index, 1] * x

    for round_ in range(12):
        start = noise(4000, seed=round_)
        chain = sample(policy, sampler, start, generators=one_generator(round_))
        adjoints = lean_adjoints(velocity, sampler, chain, (chain.final - b) / c)
        for index in sampler.stochastic:
            x, std = chain.before(index).flatten(), float(sampler.std[index])
            # The loss is least where the mean has moved by −σ² a: regress that on x.
            wanted = -(std**2) * adjoints[index].flatten()
            per_velocity = float(
                step(lambda x, t: velocity(x, t) + 1, sampler, chain.before(index), index).mean[0]
                - step(velocity, sampler, chain.before(index), index).mean[0]
            )
            design = torch.stack([torch.ones_like(x), x], dim=1) * per_velocity
            shifts[index] = torch.linalg.lstsq(design, wanted[:, None]).solution.flatten()
    final = sample(policy, sampler, noise(20_000, seed=99), generators=one_generator(99)).final
    assert float(final.mean()) == pytest.approx(-0.1145, abs=0.06)
    assert float(final.var()) == pytest.approx(0.543, abs=0.06)


def test_only_the_policy_has_a_gradient() -> None:
    means = [noise(3, seed=seed).requires_grad_() for seed in range(3)]
    adjoint_matching_loss(means[0], means[1], means[2], std=0.5).sum().backward()
    assert means[0].grad is not None
    assert means[1].grad is None
    assert means[2].grad is None


# VARD


@pytest.mark.system("s000-063")
def test_a_fitted_value_is_the_posterior_mean() -> None:
    """r = ax: V(x_t) = a E[x_0 | x_t], with slope a s² (1 − t)/D, from chains of the sampler alone."""
    schedule = flow(100)
    sampler = ancestral(schedule)
    chain = sample(velocity, sampler, noise(20_000), generators=one_generator(0))
    rewards = linear(chain.final)
    for index in (30, 60, 90):
        x, t = chain.before(index).flatten(), float(schedule.sigmas[index])
        design = torch.stack([torch.ones_like(x), x], dim=1)
        constant, slope = torch.linalg.lstsq(design, rewards[:, None]).solution.flatten().tolist()
        spread = (1 - t) ** 2 * SPREAD**2 + t**2
        expected = SLOPE * SPREAD**2 * (1 - t) / spread
        assert slope == pytest.approx(expected, abs=0.03)
        assert constant == pytest.approx(SLOPE * MEAN - expected * (1 - t) * MEAN, abs=0.03)


@pytest.mark.system("s000-063")
def test_value_loss_by_hand() -> None:
    """−V + η mean Δ²: V = 2, Δ = (1, 3), η = 0.1: −2 + 0.1 · 5 = −1.5; the gradient reaches both."""
    value = torch.tensor([2.0], requires_grad=True)
    policy = torch.tensor([[1.0, 3.0]], requires_grad=True)
    loss = value_loss(value, policy, torch.zeros(1, 2), pull=0.1)
    loss.sum().backward()
    assert float(loss.detach()) == pytest.approx(-1.5)
    assert value.grad is not None
    assert policy.grad is not None
    assert value.grad.tolist() == [-1.0]
    torch.testing.assert_close(policy.grad, torch.tensor([[0.1, 0.3]]))


# Ctrl-U


@pytest.mark.system("s000-003")
def test_uncertain_rewards_count_less() -> None:
    """Identical outputs leave the loss alone; a free U settles at ln ℓ: the gradient 1 − ℓ e^(−U) is zero."""
    assert uncertain_loss(torch.tensor([3.0]), torch.zeros(1)).tolist() == [3.0]
    free = torch.tensor([math.log(3.0)], requires_grad=True)
    uncertain_loss(torch.tensor([3.0]), free).sum().backward()
    assert free.grad is not None
    assert float(free.grad) == pytest.approx(0.0, abs=1e-6)


# R0


@pytest.mark.system("s002-011")
def test_rewards_alone_by_hand() -> None:
    """G = m + θ + sz, R = ax: the gradient a − 2λθ is nothing at θ* = a/(2λ). A reward ten times as large,
    with its gradient ten times as long, is the same loss.
    """
    pull = 0.1
    theta = torch.tensor(SLOPE / (2 * pull), dtype=torch.float64, requires_grad=True)
    drawn = MEAN + theta + SPREAD * noise(5)
    parts = linear(drawn)[:, None]
    (few_step_loss(parts, torch.ones_like(parts)).mean() + pull * theta.square()).backward()
    assert theta.grad is not None
    assert float(theta.grad) == pytest.approx(0.0, abs=1e-12)
    scaled = few_step_loss(torch.cat([parts, 10 * parts], dim=1), torch.tensor([[1.0, 10.0]]).expand(5, 2))
    torch.testing.assert_close(scaled, -2 * parts[:, 0])
