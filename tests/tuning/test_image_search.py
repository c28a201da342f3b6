"""Searching for pictures: exact on Gaussian data, where what a reward makes of them is known."""

import math

import pytest
import torch
from torch import Tensor

from tests.tuning.gaussians import MEAN, SPREAD, moments, velocity
from tests.tuning.tilted import SLOPE, TILTED_MEAN, betas, exact, flow, linear, noise
from training.tuning.images.schedules import Schedule, ancestral, ddim
from training.tuning.images.search.best_of_n import Cut, best_of_n, kept_of, rank_sum
from training.tuning.images.search.candidates import choose, search_candidates
from training.tuning.images.search.guidance import guided
from training.tuning.images.search.noise import (
    ByGradient,
    ByPolicy,
    find_loss,
    fit_noise,
    noise_log_prob,
    norm_penalty,
    optimise_noise,
)
from training.tuning.images.search.particles import POTENTIALS, Lineages, Steered, steer
from training.tuning.images.search.walk import Walk, one_generator


def walks(schedule: Schedule, *, eta: float = 1.0) -> Walk:
    return Walk.of(exact(schedule), ddim(schedule, eta=eta))


def tilted_end(schedule: Schedule) -> float:
    """m' + as'² of the ancestral walk's own end N(m', s'²), which 40 steps bring near m + as² = 1.376."""
    means, variances = moments(exact(schedule), ancestral(schedule))
    return means[-1] + SLOPE * variances[-1]


SCHEDULES = pytest.mark.parametrize("schedule", [flow(40), betas(40)], ids=["flow", "betas"])

# Best of n


def test_pruning_by_a_true_promise_loses_nothing() -> None:
    """Without chance on the way the order of the clean estimates is that of the pictures: the best stays."""
    walk, calls = walks(flow(20), eta=0.0), []
    start = noise(20)

    def score(x: Tensor) -> Tensor:
        calls.append(len(x))
        return linear(x)

    plain = best_of_n(walk, score, start, generators=one_generator(0))
    cuts = [Cut(2, 0.4), Cut(6, 0.4), Cut(11, 0.5)]
    pruned = best_of_n(walk, score, start, cuts=cuts, generators=one_generator(0))
    assert torch.equal(pruned, plain)
    assert float(plain) == pytest.approx(float(walk.draw(start, generators=one_generator(0)).max()))
    # 20 scored without pruning; with it 20, then 8 and 3; one is left.
    assert calls == [20, 20, 8, 3]
    assert (kept_of(3, 0.5), kept_of(1, 0.1), kept_of(10, 0.3)) == (1, 1, 3)


def test_ranks_of_several_rewards() -> None:
    """Ranks (2, 1, 0) and (0, 1.5, 1.5): the second wins, though the first reward is far larger."""
    parts = torch.tensor([[3000.0, 1.0], [2000.0, 2.0], [1000.0, 2.0]])
    assert rank_sum(parts).tolist() == [2.0, 2.5, 1.5]


# Particles


def weighed(rewards: list[list[float]], potential: str, strength: float) -> Lineages:
    seen = Lineages.fresh(len(rewards[0]), torch.zeros(1))
    for values in rewards[:-1]:
        now = torch.tensor(values, dtype=torch.float64)
        seen.weigh(POTENTIALS[potential](now, seen, strength), now)
    last = torch.tensor(rewards[-1], dtype=torch.float64)
    seen.weigh(strength * last - seen.spent, last)
    return seen


@pytest.mark.system("s001-081")
@pytest.mark.parametrize("potential", ["difference", "max", "sum"])
def test_potentials_multiply_to_the_tilt(potential: str) -> None:
    """Whatever was paid on the way, the product over a lineage is exp(λ r(x_0))."""
    seen = weighed([[0.3, -1.0], [0.1, 2.0], [-0.4, 0.7], [0.25, 1.5]], potential, 3.0)
    assert seen.spent.tolist() == pytest.approx([0.75, 4.5])
    assert seen.log_weights.tolist() == seen.spent.tolist()


@pytest.mark.system("s001-081")
def test_potentials_by_hand() -> None:
    """λ = 2, rewards 0.5, then 0.2: difference 1 and −0.6; max 1 and 1; sum 1 and 1.4."""
    for potential, expected in (("difference", -0.6), ("max", 1.0), ("sum", 1.4)):
        seen = Lineages.fresh(1, torch.zeros(1))
        first, second = (torch.tensor([value], dtype=torch.float64) for value in (0.5, 0.2))
        given = POTENTIALS[potential](first, seen, 2.0)
        assert float(given) == pytest.approx(1.0)
        seen.weigh(given, first)
        assert float(POTENTIALS[potential](second, seen, 2.0)) == pytest.approx(expected)


def mean_of(found: Steered) -> float:
    return float((found.log_weights.softmax(dim=0) * found.latents.flatten()).sum())


@pytest.mark.system("s001-081")
@pytest.mark.parametrize("adaptive", [False, True])
@pytest.mark.parametrize("potential", ["difference", "max", "sum"])
@SCHEDULES
def test_particles_sample_the_tilted_distribution(schedule: Schedule, potential: str, adaptive: bool) -> None:
    """r = ax, λ = 1: the walk's own tilted end.
    Adaptive resampling drops no weight (the authors' code drops what a step without resampling had given).

    Twenty thousand particles: one standard error is about 0.015; those of "sum" are worth fewer.
    """
    found = steer(
        walks(schedule),
        linear,
        noise(20_000),
        at=[16, 28],
        potential=potential,
        strength=1.0,
        adaptive=adaptive,
        generator=one_generator(1),
    )
    assert tilted_end(schedule) == pytest.approx(TILTED_MEAN, abs=0.08)
    assert mean_of(found) == pytest.approx(tilted_end(schedule), abs=0.06)
    assert float(found.best) == float(found.latents.max())


@pytest.mark.system("s001-081")
def test_few_effective_particles_are_drawn_anew_and_many_are_not() -> None:
    """A weak reward never brings the effective number under a half: adaptive steering then draws as a plain
    walk does, with the whole tilt in the weights. A strong one does.
    """

    def run(strength: float) -> Steered:
        return steer(
            walks(flow(10)),
            linear,
            noise(64),
            at=[2, 4, 6, 8],
            potential="difference",
            strength=strength,
            adaptive=True,
            generator=one_generator(1),
        )

    plain = walks(flow(10)).draw(noise(64), generators=one_generator(1))
    weak = run(0.01)
    assert torch.equal(weak.latents, plain)
    torch.testing.assert_close(weak.log_weights, 0.01 * linear(plain))
    assert not torch.equal(run(20.0).latents, plain)


# Candidates at every step


@pytest.mark.system("s004-032")
@SCHEDULES
def test_one_candidate_is_the_plain_walk(schedule: Schedule) -> None:
    start = noise(5)
    plain = walks(schedule).draw(start, generators=one_generator(3))
    found = search_candidates(
        walks(schedule), linear, start, count=1, temperature=0.0, generator=one_generator(3)
    )
    assert torch.equal(found, plain)


@pytest.mark.system("s004-032")
def test_who_is_chosen() -> None:
    """softmax(v / α) of values 0 and ln 3: 1/4 and 3/4 at α = 1, 1/10 and 9/10 at ½; the best at 0."""
    values = torch.tensor([[0.0, math.log(3)]]).expand(20_000, 2)
    for temperature, share in ((1.0, 0.75), (0.5, 0.9), (0.0, 1.0)):
        chosen = choose(values, temperature=temperature, generator=one_generator(0))
        assert float(chosen.double().mean()) == pytest.approx(share, abs=0.015)


@pytest.mark.system("s004-032")
@SCHEDULES
def test_candidates_sample_the_tilted_distribution(schedule: Schedule) -> None:
    """For a linear reward the picture's reward differs from the soft value by a constant: with many
    candidates the mean is 1.376. A deterministic step has nothing to choose from.
    """
    found = search_candidates(
        walks(schedule), linear, noise(4000), count=24, temperature=1.0, generator=one_generator(2)
    )
    assert float(found.mean()) == pytest.approx(tilted_end(schedule), abs=0.08)
    plain = walks(schedule, eta=0.0)
    start = noise(10)
    chosen = search_candidates(plain, linear, start, count=4, temperature=0.0, generator=one_generator(2))
    assert torch.equal(chosen, plain.draw(start, generators=one_generator(0)))


# Noise


@pytest.mark.system("s000-073")
def test_the_norm_penalty_is_least_at_the_usual_length() -> None:
    """½n² − (d − 1) ln n has derivative n − (d − 1)/n: zero at √(d − 1), along the vector."""
    wanted = torch.randn(1, 2, 3, 4, generator=one_generator(0), dtype=torch.float64)
    usual = (wanted / wanted.norm() * math.sqrt(23)).requires_grad_()
    norm_penalty(usual).sum().backward()
    assert usual.grad is not None
    assert float(usual.grad.abs().max()) < 1e-12
    longer = (2 * usual).detach().requires_grad_()
    norm_penalty(longer).sum().backward()
    torch.testing.assert_close(longer.grad, longer.detach() * (1 - 23 / (4 * 23)))


@pytest.mark.system("s000-073")
def test_a_step_of_noise_optimisation_by_hand() -> None:
    """G = m + sε, r = ax: ε moves by lr · [as − λ (1 − (d − 1)/‖ε‖²) ε], by Nesterov 1.9 times."""
    start = noise(1).expand(1, 1, 2, 2).clone() + 0.5
    direction = SLOPE * SPREAD - 0.01 * (1 - 3 / start.square().sum()) * start
    for momentum, factor in ((0.0, 1.0), (0.9, 1.9)):
        settings = ByGradient(iterations=2, learning_rate=0.1, momentum=momentum, clip=1e9)
        found = optimise_noise(lambda x: MEAN + SPREAD * x, linear, start, settings)
        torch.testing.assert_close(found, start + 0.1 * factor * direction)


@pytest.mark.system("s000-073")
def test_the_best_noise_is_kept_whatever_the_penalty_says() -> None:
    """Too large steps overshoot a peak: the best iterate is returned, not the last, and by reward alone."""
    seen: list[float] = []

    def peaked(x: Tensor) -> Tensor:
        value = -(x.flatten(1).sum(dim=1) - 1).abs()
        seen.append(float(value.detach()))
        return value

    settings = ByGradient(iterations=6, learning_rate=0.7, momentum=0.0, clip=10.0, penalty=5.0)
    found = optimise_noise(lambda x: x, peaked, noise(1), settings)
    assert len(seen) == 6
    assert float(peaked(found)) == max(seen) > seen[-2]


@pytest.mark.system("s000-034")
def test_the_gradient_of_a_noise_distribution() -> None:
    """r = a Σx of x = m + sε: E[r ∇_μ log p] is as/d in every dimension (log p is a mean), times ten."""
    settings = ByPolicy(penalty=0.0)
    mean, std = (torch.full((1, 1, 1, 2), value, dtype=torch.float64) for value in (0.0, 1.0))
    mean.requires_grad_()
    drawn = torch.randn(200_000, 1, 1, 2, generator=one_generator(0), dtype=torch.float64)
    log_prob = noise_log_prob(drawn, mean, std)
    rewards = linear(MEAN + SPREAD * drawn)
    find_loss(log_prob, log_prob.detach(), rewards - rewards.mean(), mean, std, settings).backward()
    assert mean.grad is not None
    expected = -10 * SLOPE * SPREAD / 2
    assert mean.grad.flatten().tolist() == pytest.approx([expected] * 2, abs=0.1)


@pytest.mark.system("s000-034")
def test_a_ratio_outside_the_band_teaches_nothing() -> None:
    """ρ = e^0.5 is beyond 1.2: no gradient, whatever the sign of the advantage; inside there is one."""
    for log_ratio, moves in ((0.5, False), (-0.5, False), (0.1, True)):
        for advantage in (1.0, -1.0):
            log_prob = torch.tensor([log_ratio], requires_grad=True)
            loss = find_loss(
                log_prob,
                torch.zeros(1),
                torch.tensor([advantage]),
                torch.zeros(1, 1, 1, 1),
                torch.ones(1, 1, 1, 1),
                ByPolicy(),
            )
            loss.backward()
            assert log_prob.grad is not None
            assert bool(log_prob.grad.abs() > 0) == moves


@pytest.mark.system("s000-034")
def test_a_noise_distribution_moves_towards_the_reward_and_back_without_one() -> None:
    """With a reward μ rises; without, the penalty's optimum is μ = 0, σ = 1, where it starts."""
    settings = ByPolicy(rounds=60, samples=32, learning_rate=5e-3)
    shape = (1, 2, 2)
    options = {"device": torch.device("cpu")}
    moved = fit_noise(lambda x: x, linear, shape, settings, generator=one_generator(0), **options)
    still = fit_noise(
        lambda x: x,
        lambda x: x.flatten(1).sum(dim=1) * 0,
        shape,
        settings,
        generator=one_generator(0),
        **options,
    )
    assert float(moved.mean.mean()) > 0.1
    assert float(still.mean.abs().max()) < 0.02
    assert float((still.std - 1).abs().max()) < 0.02
    drawn = moved.sample(4, one_generator(1))
    assert drawn.shape == (4, *shape)


# Guidance


def posterior(x: Tensor, alpha: float, sigma: float) -> tuple[Tensor, float]:
    """Mean and variance of x_0 given x_t."""
    spread = alpha**2 * SPREAD**2 + sigma**2
    return MEAN + SPREAD**2 * alpha * (x - alpha * MEAN) / spread, SPREAD**2 * sigma**2 / spread


@pytest.mark.system("s002-056")
@SCHEDULES
def test_guidance_by_the_soft_value_is_exact(schedule: Schedule) -> None:
    """r = V_t = aμ(x_t) + ½a²τ²: the guided answer is that of N(m + as², s²), at every step that is not pure
    noise; in a flow ṽ = v − (t/(1−t)) ∂V = v − a s² t/D.
    """
    sampler = ddim(schedule, eta=0.0)
    plain = Walk.of(exact(schedule), sampler)

    def value(x: Tensor, clean: Tensor, index: int) -> Tensor:
        alpha, sigma = float(schedule.alphas[index]), float(schedule.sigmas[index])
        mean, variance = posterior(x, alpha, sigma)
        return (SLOPE * mean + SLOPE**2 * variance / 2).flatten()

    walk = guided(plain, sampler, value, weight=1.0)
    x = noise(7)
    for index in range(1, schedule.steps):
        alpha, sigma = float(schedule.alphas[index]), float(schedule.sigmas[index])
        spread = alpha**2 * SPREAD**2 + sigma**2
        wanted = TILTED_MEAN + SPREAD**2 * alpha * (x - alpha * TILTED_MEAN) / spread
        proposal = walk.propose(x, index)
        torch.testing.assert_close(proposal.clean, wanted)
        torch.testing.assert_close(proposal.noise, (x - alpha * wanted) / sigma)
        if schedule.is_flow:
            given = proposal.noise - proposal.clean
            torch.testing.assert_close(given, velocity(x, sigma) - SLOPE * SPREAD**2 * sigma / spread)
    drawn = walk.draw(noise(4000), generators=one_generator(0))
    before = plain.draw(noise(4000), generators=one_generator(0))
    assert float(drawn.mean() - before.mean()) == pytest.approx(SLOPE * SPREAD**2, abs=0.04)


@pytest.mark.system("s002-056")
def test_guidance_of_weight_0_and_from_pure_noise_changes_nothing() -> None:
    sampler = ancestral(flow(10))
    plain = Walk.of(velocity, sampler)
    reward = lambda x, clean, index: linear(clean)
    start = noise(6)
    zero = guided(plain, sampler, reward, weight=0.0).draw(start, generators=one_generator(0))
    torch.testing.assert_close(zero, plain.draw(start, generators=one_generator(0)))
    first = guided(plain, sampler, reward, weight=5.0).propose(start, 0)
    assert torch.equal(first.mean, plain.propose(start, 0).mean)
