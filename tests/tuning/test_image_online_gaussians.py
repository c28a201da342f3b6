"""Methods on rewards where everything is known: Gaussian data, a reward r = a x, optima in closed form.

The steps of a chain are linear, x' = A x + b + std z, so that the mean that a sampler reaches is exact. A
policy that pays β KL for each step and earns a E[x] moves each step's mean by (a / β) std² Π A of the later
steps; its mean is then off by (a / β) times the variance that the noise of the steps, not the start, has
brought. With memoryless noise that is all of it: the tilted mean m + a s² / β.
"""

import math

import pytest
import torch

from tests.tuning.gaussians import MEAN, SPREAD, by_betas, cosine, moments, velocity
from training.tuning.images.policy_gradient import surrogate
from training.tuning.images.schedules import Sampler, beta_schedule, ddim, flow_grpo, flow_schedule
from training.tuning.images.trajectories import Denoise, propose, replay, sample, step
from training.tuning.losses.advantages import group_relative, remembered_advantages
from training.tuning.losses.policy_gradient import clamped_surrogate
from training.tuning.methods.dpok import divergence

TILT = 0.4  # a


class Shifted:
    """A known predictor plus one number for each step: all that a linear reward asks for."""

    def __init__(self, known: Denoise, sampler: Sampler) -> None:
        self.known, self.times = known, sampler.schedule.times.tolist()
        self.shifts = torch.zeros(sampler.steps, dtype=torch.float64, requires_grad=True)

    def __call__(self, x: torch.Tensor, time: float) -> torch.Tensor:
        return self.known(x, time) + self.shifts[self.times.index(time)]


def flow(steps: int, noise: float) -> tuple[Denoise, Sampler]:
    schedule = flow_schedule(torch.linspace(1, 0, steps + 1, dtype=torch.float64))
    return velocity, flow_grpo(schedule, noise=noise).only(range(steps - 1))


def betas(steps: int) -> tuple[Denoise, Sampler]:
    times = torch.arange(steps, dtype=torch.float64)
    schedule = beta_schedule(cosine(steps), times=times)
    return by_betas("epsilon", schedule), ddim(schedule, eta=1.0)


def noise(count: int, seed: int) -> torch.Tensor:
    return torch.randn(count, 1, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def reach(known: Denoise, sampler: Sampler) -> tuple[float, float, float]:
    """Mean, variance, and the share of the variance that the steps' noise brought."""
    means, variances = moments(known, sampler)
    _, without = moments(known, sampler, variance=0.0)
    return means[-1], variances[-1], without[-1] / variances[-1]


def train(policy: Shifted, sampler: Sampler, losses, *, rounds: int, count: int = 1024) -> float:
    """The mean that the policy's chains reach, averaged over the last third of the rounds."""
    optimizer = torch.optim.Adam([policy.shifts], lr=0.03)
    reached = []
    for number in range(rounds):
        generator = torch.Generator().manual_seed(number)
        chain = sample(policy, sampler, noise(count, 10_000 + number), generators=generator)
        loss = losses(policy, chain)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if number >= rounds * 2 // 3:
            reached.append(moments_of(policy, sampler))
    return sum(reached) / len(reached)


@torch.no_grad()
def moments_of(policy: Shifted, sampler: Sampler) -> float:
    return moments(policy, sampler)[0][-1]


def surrogates(known: Denoise, sampler: Sampler, advantages_of, *, beta: float):
    """The mean of PPO's objective with a KL over all steps."""

    def losses(policy: Shifted, chain) -> torch.Tensor:
        advantages = advantages_of(TILT * chain.final[:, 0])
        total = torch.zeros(())
        for index in sampler.stochastic:
            said = known(chain.before(index), float(sampler.schedule.times[index]))
            each, facts = surrogate(
                policy, sampler, chain, index, advantages, clip=1e-4, reference=said, beta=beta
            )
            assert torch.equal(facts["ratio"], torch.ones_like(facts["ratio"]))
            total = total + each.mean()
        return total / len(sampler.stochastic)

    return losses


@pytest.mark.parametrize(("level", "memoryless"), [(math.sqrt(2), True), (0.4, False)])
def test_flow_grpo_reaches_the_tilted_mean_with_memoryless_noise(level, memoryless):
    """With less noise a part of the reward stays unearned: what the start decides."""
    known, sampler = flow(12, level)
    mean, variance, brought = reach(known, sampler)
    optimum = mean + TILT * variance * brought
    found = train(
        Shifted(known, sampler),
        sampler,
        surrogates(known, sampler, lambda r: group_relative(r[None], scale="none")[0], beta=1.0),
        rounds=120,
    )
    assert found == pytest.approx(optimum, abs=0.05)
    tilted = MEAN + TILT * SPREAD**2
    assert (abs(optimum - tilted) < 0.05) == memoryless
    assert (brought > 0.95) == memoryless


def test_ddpo_reaches_the_tilted_mean():
    """Its advantages are standardised: the reward it sees is a x / (a s)."""
    known, sampler = betas(10)
    mean, variance, brought = reach(known, sampler)
    memory: dict[str, list[float]] = {}

    def advantages(rewards: torch.Tensor) -> torch.Tensor:
        rows = rewards.tolist()
        return torch.tensor(
            remembered_advantages(rows, ["p"] * len(rows), memory, size=len(rows)), dtype=torch.float64
        )

    found = train(
        Shifted(known, sampler), sampler, surrogates(known, sampler, advantages, beta=2.0), rounds=120
    )
    assert brought > 0.99
    assert found == pytest.approx(mean + variance / math.sqrt(variance) / 2, abs=0.05)


def test_dpok_reaches_the_tilted_mean():
    """max w E[r] - β Σ KL: m + w a s² / β, with the KL of the steps, whatever the baseline."""
    known, sampler = betas(10)
    mean, variance, _ = reach(known, sampler)

    def losses(policy: Shifted, chain) -> torch.Tensor:
        total = torch.zeros(())
        for index in sampler.stochastic:
            proposal = step(policy, sampler, chain.before(index), index)
            said = known(chain.before(index), float(sampler.schedule.times[index]))
            other = propose(sampler, chain.before(index), said, index)
            baseline = TILT * proposal.clean.detach()[:, 0]
            gains = TILT * chain.final[:, 0] - baseline
            each = clamped_surrogate(
                proposal.log_prob(chain.after(index)), chain.logps(index), 2.0 * gains, clip=1e-4
            )
            total = total + (each + 2.0 * divergence(proposal, other, kind="step")).mean()
        return total / len(sampler.stochastic)

    found = train(Shifted(known, sampler), sampler, losses, rounds=120)
    assert found == pytest.approx(mean + TILT * variance, abs=0.05)


@pytest.mark.system("s000-040")
def test_dpoks_divergence_by_hand():
    """A constant Δε costs κ² Δε² / (2 std²) in a step, κ = -(1 - A)/√(A (1 - ā)); the code's costs Δε²."""
    known, sampler = betas(6)
    squares = cosine(6)
    x, away = noise(3, 0), 0.25
    for index in sampler.stochastic:
        one = step(known, sampler, x, index)
        other = step(lambda x, time: known(x, time) + away, sampler, x, index)
        ratio = squares[index] / squares[index + 1]
        kappa = -(1 - ratio) / (ratio * (1 - squares[index])).sqrt()
        expected = float(kappa**2 * away**2 / (2 * one.std**2))
        assert divergence(one, other, kind="step").tolist() == pytest.approx([expected] * 3, rel=1e-9)
        assert divergence(one, other, kind="epsilon").tolist() == pytest.approx([away**2] * 3)


def test_what_leaves_the_clip_range_stops_learning_in_dpok():
    """In whichever direction: PPO goes on where a step moved the wrong way."""
    old = torch.zeros(3)
    for advantage in (1.0, -1.0):
        logps = torch.tensor([0.0, 0.2, -0.2], requires_grad=True)
        clamped_surrogate(logps, old, torch.full((3,), advantage), clip=0.1).sum().backward()
        assert logps.grad is not None
        assert logps.grad.tolist() == [-advantage, 0.0, 0.0]


def test_the_gradient_of_the_first_update_by_hand():
    """-A (x' - μ)/std² dμ/dε at ratio one."""
    known, sampler = betas(5)
    policy = Shifted(known, sampler)
    chain = sample(policy, sampler, noise(4, 0), generators=torch.Generator().manual_seed(0))
    advantages = torch.tensor([1.0, -0.5, 0.25, 2.0], dtype=torch.float64)
    index, squares = 2, cosine(5)
    each, _ = surrogate(policy, sampler, chain, index, advantages, clip=1e-4)
    (gradient,) = torch.autograd.grad(each.sum(), policy.shifts)
    ratio = squares[index] / squares[index + 1]
    kappa = -(1 - ratio) / (ratio * (1 - squares[index])).sqrt()
    proposal = step(known, sampler, chain.before(index), index)
    away = (chain.after(index) - proposal.mean)[:, 0] / proposal.std**2
    expected = torch.zeros(5, dtype=torch.float64)
    expected[index] = (-advantages * away * kappa).sum()
    torch.testing.assert_close(gradient, expected)


def test_nothing_is_learnt_outside_of_a_window():
    known, whole = flow(6, 0.7)
    sampler = whole.only(range(1, 3))
    policy = Shifted(known, sampler)
    chain = sample(policy, sampler, noise(8, 0), generators=torch.Generator().manual_seed(0))
    for index in sampler.stochastic:
        replay(policy, sampler, chain, index).sum().backward()
    assert policy.shifts.grad is not None
    assert [bool(value) for value in policy.shifts.grad] == [False, True, True, False, False, False]


def test_a_step_of_the_wrong_guidance_or_batch_is_no_longer_on_policy():
    """The ratio is 1 only for the policy that sampled."""
    known, sampler = betas(5)
    chain = sample(known, sampler, noise(4, 0), generators=torch.Generator().manual_seed(0))
    advantages = torch.ones(4, dtype=torch.float64)
    _, facts = surrogate(lambda x, t: 1.01 * known(x, t), sampler, chain, 2, advantages, clip=1e-4)
    assert (facts["ratio"] != 1).all()
