"""Policy gradients on windows of a chain, with branches (HRF, B2-DiffuRL), and on consistency models (RLCM).

Gaussian data and a reward r = a x, as in test_image_online_gaussians.py: with the KL divergence of each step
as price β, training moves the mean of a chain by (a / β) times the variance that the trained steps' noise
brings to its end.
"""

from pathlib import Path
from typing import Any

import pytest
import torch

from tests.tuning.gaussians import MEAN, SPREAD, moments
from tests.tuning.image_models import save_lcm, save_pipeline
from tests.tuning.image_runs import make_run, metrics, run
from tests.tuning.test_image_online import QUICK, make, weights
from tests.tuning.test_image_online_gaussians import TILT, Shifted, betas, noise, surrogates, train
from training.tuning.errors import EXIT_BAD_INPUT, EXIT_DONE
from training.tuning.images.policy_gradient import backward, surrogate
from training.tuning.images.schedules import Sampler, Schedule, beta_schedule, consistency
from training.tuning.images.trajectories import Denoise, sample
from training.tuning.images.windows import window_at
from training.tuning.losses.advantages import contrast_branches, group_relative
from training.tuning.methods import ddpo


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_pipeline(tmp_path_factory.mktemp("pipeline"))


def brought(known: Denoise, sampler: Sampler, steps: range) -> float:
    """The variance at the end that the noise of these steps brings: all, less what is left without it."""
    quiet = Sampler(
        sampler.schedule,
        sampler.clean,
        sampler.noise,
        torch.tensor([0.0 if at in steps else float(std) for at, std in enumerate(sampler.std)]),
    )
    return moments(known, sampler)[1][-1] - moments(known, quiet)[1][-1]


@pytest.mark.system("s004-025")
def test_the_window_grows_backward_from_the_last_step():
    """Of 20 steps the last 14 at first, one more after every 14 training steps, all 20 in the end."""
    keys: dict[str, Any] = {"steps": 20, "size": 14, "every": 14, "order": "growing", "seed": 0}
    found = [window_at(step, **keys) for step in (1, 14, 15, 29, 85, 1000)]
    assert [window.start for window in found] == [6, 6, 5, 4, 0, 0]
    assert {window.stop for window in found} == {20}


@pytest.mark.system("s004-025")
def test_only_the_best_and_the_worst_of_a_branching_teach():
    """z = (1.2, 0.1, -0.9, 0.3, -0.2): the first and the third; none beyond ±0.5: nobody."""
    advantages = torch.tensor([[1.2, 0.1, -0.9, 0.3, -0.2], [0.4, 0.1, -0.5, 0.0, 0.2]])
    found = contrast_branches(advantages, least=0.5)
    torch.testing.assert_close(found, torch.tensor([[1.2, 0, -0.9, 0, 0], [0.0] * 5]))
    assert contrast_branches(torch.tensor([[0.5, 0.6]]), least=0.5).tolist() == [[0.0, pytest.approx(0.6)]]


@pytest.mark.system("s004-025")
def test_branches_differ_by_the_windows_steps_alone():
    """Rewards within a branching vary by a² times what the noise from the window on brings, no more: that
    is what credits those steps. Nothing before the window is learnt.
    """
    known, sampler = betas(10)
    first, ways, branches = 6, 4000, 5
    generator = torch.Generator().manual_seed(0)
    way = sample(known, sampler, noise(ways, 1), generators=generator, end=first)
    policy = Shifted(known, sampler)
    chain = sample(
        policy, sampler, way.final.repeat_interleave(branches, 0), generators=generator, first=first
    )
    rewards = TILT * chain.final.view(ways, branches)
    expected = TILT**2 * brought(known, sampler, range(first, 10))
    assert rewards.var(dim=1).mean().item() == pytest.approx(expected, rel=0.03)  # 16,000 free: 1.1 %
    assert rewards.var().item() > 3 * expected
    advantages = group_relative(rewards, scale="none").flatten()
    for index in range(first, 9):
        surrogate(policy, sampler, chain, index, advantages, clip=1e-4)[0].mean().backward()
    assert policy.shifts.grad is not None
    assert [bool(one) for one in policy.shifts.grad] == [False] * first + [True] * 3 + [
        False
    ]  # the last step has no noise
    with pytest.raises(IndexError, match="not among the steps 6 to 9"):
        chain.before(5)


@pytest.mark.system("s000-002")
@pytest.mark.parametrize("window", [range(0, 3), range(3, 7)])
def test_a_window_earns_what_its_noise_can_bring(window):
    """The optimum with a price β of the KL: the mean moves by (a / β) times the variance of the window's
    noise, the rest stays as it was. That bound is what keeps pictures various.
    """
    known, sampler = betas(10)

    def losses(policy: Shifted, chain: Any) -> torch.Tensor:
        advantages = group_relative(TILT * chain.final.T, scale="none")[0]
        total = torch.zeros(())
        for index in window:
            said = known(chain.before(index), float(sampler.schedule.times[index]))
            each, facts = surrogate(
                policy, sampler, chain, index, advantages, clip=1e-4, reference=said, beta=1.0
            )
            assert torch.equal(facts["ratio"], torch.ones_like(facts["ratio"]))
            total = total + each.mean()
        return total / len(window)

    policy = Shifted(known, sampler)
    mean = moments(known, sampler)[0][-1]
    found = train(policy, sampler, losses, rounds=90)
    assert found == pytest.approx(mean + TILT * brought(known, sampler, window), abs=0.05)
    assert all(bool(shift) == (at in window) for at, shift in enumerate(policy.shifts))


def spied(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """What ddpo trains on, update by update."""
    found = []

    def spy(online: Any, sampler: Any, micros: Any, advantages: Any, steps: Any, **keys: Any) -> Any:
        found.append({"micros": micros, "advantages": advantages, "steps": list(steps)})
        return backward(online, sampler, micros, advantages, steps, **keys)

    monkeypatch.setattr(ddpo, "backward", spy)
    return found


@pytest.mark.system("s000-002")
def test_a_window_of_all_steps_is_ddpo_to_the_bit(base, tmp_path):
    """Of four steps the last has no noise: three in the window are all."""
    keys: dict[str, Any] = {"max_steps": 1, "updates": 2}
    plain = make(tmp_path / "plain", base, "ddpo", **keys)
    whole = make(tmp_path / "whole", base, "ddpo", window=3, **keys)
    part = make(tmp_path / "part", base, "ddpo", window=2, window_order="growing", **keys)
    assert [run(folder) for folder in (plain, whole, part)] == [EXIT_DONE] * 3
    for name, value in weights(plain).items():
        assert torch.equal(value, weights(whole)[name])
    # The pictures of the first step do not depend on the window, what is learnt does.
    assert metrics(plain)[0]["reward"] == metrics(part)[0]["reward"]
    assert any(not torch.equal(value, weights(part)[name]) for name, value in weights(plain).items())


@pytest.mark.system("s000-002")
def test_a_run_draws_a_window_anew_for_each_step(base, tmp_path, monkeypatch):
    found = spied(monkeypatch)
    folder = make(
        tmp_path / "run", base, "ddpo", window=1, branches=2, num_inference_steps=3, max_steps=3, beta=0.0
    )
    assert run(folder) == EXIT_DONE
    windows = [one["steps"] for one in found]
    assert len({tuple(steps) for steps in windows}) > 1
    for one in found:
        assert {micro.chain.first for micro in one["micros"]} == {one["steps"][0]}


@pytest.mark.system("s004-025")
def test_a_run_contrasts_pictures_that_share_a_latent(base, tmp_path, monkeypatch):
    """Across micro-batches of three too, at ratio one; in the second step the window has grown."""
    found = spied(monkeypatch)
    changes: dict[str, Any] = {"window": 2, "window_order": "growing", "branches": 2, "contrast": 0.1}
    folder = make(tmp_path / "run", base, "ddpo", micro_batch_size=3, **changes)
    assert run(folder) == EXIT_DONE
    assert [row["ratio_error"] for row in metrics(folder)] == [0, 0]
    assert [one["steps"] for one in found] == [[1, 2], [0, 1, 2]]
    for one in found:
        micros = sorted(one["micros"], key=lambda micro: micro.rows.start)
        starts = torch.cat([micro.chain.states[0] for micro in micros])
        ends = torch.cat([micro.chain.final for micro in micros])
        assert torch.equal(starts[0::2], starts[1::2])
        assert not torch.equal(starts[0], starts[2])
        assert (ends[0::2] != ends[1::2]).flatten(1).any(dim=1).all()
        taught = one["advantages"].view(-1, 2)
        assert ((taught == 0) | (taught.abs() >= 0.1)).all()


def few_steps(steps: int) -> tuple[Denoise, Sampler]:
    """The consistency function of the data, f = m + s (x - α m) / √(α² s² + σ²), drawn in some steps."""
    squares = torch.linspace(0, 1, steps + 1, dtype=torch.float64)
    schedule = beta_schedule(squares, times=torch.arange(steps).double(), prediction="sample")

    def picture(x: torch.Tensor, time: float) -> torch.Tensor:
        alpha, sigma = levels(schedule, int(time))
        return MEAN + SPREAD * (x - alpha * MEAN) / (alpha**2 * SPREAD**2 + sigma**2) ** 0.5

    return picture, consistency(schedule)


def levels(schedule: Schedule, index: int) -> tuple[float, float]:
    return float(schedule.alphas[index]), float(schedule.sigmas[index])


@pytest.mark.system("s000-084")
@pytest.mark.parametrize("steps", [2, 3, 8])
def test_a_consistency_model_is_a_chain_of_actions(steps):
    """Every number of steps draws N(m, s²). An action is x' ~ N(α' f, σ'²); the last f, without noise, is
    what earns the reward, and no action.
    """
    known, sampler = few_steps(steps)
    means, variances = moments(known, sampler, mean=0.0, variance=1.0)
    assert means[-1] == pytest.approx(MEAN)
    assert variances[-1] == pytest.approx(SPREAD**2)
    assert sampler.stochastic == list(range(steps - 1))
    chain = sample(known, sampler, noise(3, 0), generators=torch.Generator().manual_seed(0))
    alpha, sigma = levels(sampler.schedule, 1)
    said = known(chain.before(0), 0.0)
    density = torch.distributions.Normal(alpha * said, sigma).log_prob(chain.after(0))
    torch.testing.assert_close(chain.logps(0), density[:, 0])
    last = chain.before(steps - 1)
    torch.testing.assert_close(chain.final, known(last, float(steps - 1)))


@pytest.mark.system("s000-084")
def test_policy_gradients_of_a_consistency_model_reach_the_optimum():
    """In three steps: the mean moves by a / β times the variance that the two actions bring to the end."""
    known, sampler = few_steps(3)
    mean = moments(known, sampler)[0][-1]
    optimum = mean + TILT * brought(known, sampler, range(2))
    assert optimum - mean > 0.3
    losses = surrogates(known, sampler, lambda r: group_relative(r[None], scale="none")[0], beta=1.0)
    assert train(Shifted(known, sampler), sampler, losses, rounds=120) == pytest.approx(optimum, abs=0.05)


@pytest.mark.system("s000-084")
def test_ddpo_draws_a_consistency_model_as_it_is_drawn(tmp_path, monkeypatch, capsys):
    """In three steps: the first two are trained, at ratio one, told the guidance without a second pass."""
    lcm = save_lcm(tmp_path / "lcm")
    found = spied(monkeypatch)
    config = QUICK | {"num_inference_steps": 3, "guidance_scale": 8.0, "max_steps": 1}
    rows = [{"prompt": letter} for letter in "ab"]
    reward = [{"rule": "brightness"}]
    folder = make_run(tmp_path / "run", "ddpo", base=lcm, config=config, rows=rows, reward=reward)
    assert run(folder) == EXIT_DONE
    assert metrics(folder)[0]["ratio_error"] == 0
    assert metrics(folder)[0]["grad_norm"] > 0
    assert found[0]["steps"] == [0, 1]
    for number, (changes, message) in enumerate(
        [({"num_inference_steps": 1}, "in two at least"), ({"eta": 0.5}, "draws by consistency")]
    ):
        refused = make_run(
            tmp_path / str(number), "ddpo", base=lcm, config=config | changes, rows=rows, reward=reward
        )
        assert run(refused) == EXIT_BAD_INPUT
        assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"branches": 3}, "multiple of branches"),
        ({"contrast": 0.5}, "contrast needs branches"),
        ({"noise": "consistency", "eta": 0.5}, "eta is the noise of ddim"),
        ({"window": 9}, "fewer than the window"),
    ],
)
def test_what_has_no_use_is_refused(base, tmp_path: Path, capsys, changes, message):
    assert run(make(tmp_path / "run", base, "ddpo", **changes)) == EXIT_BAD_INPUT
    assert message in capsys.readouterr().err
