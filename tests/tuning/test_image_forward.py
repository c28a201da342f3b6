"""Methods on the forward process: their optima on Gaussian data, and runs on a tiny pipeline.

Flow: t = 0 data, x_t = (1 - t) x_0 + t e, v = e - x_0; data N(m, s²), D = (1 - t)² s² + t².
"""

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from tests.tuning.image_models import save_pipeline, save_sd3
from tests.tuning.image_runs import cancelled_after, make_run, metrics, run
from tests.tuning.test_image_direct import LORA, values
from tests.tuning.test_image_direct_losses import TIMES, M, S, data_velocity, gaussian_grid
from training.tuning.errors import EXIT_CANCELLED, EXIT_DONE
from training.tuning.images.families import load_family
from training.tuning.images.forward import clean_scale
from training.tuning.losses.forward_process import (
    adaptive_anchor,
    centred_reward_loss,
    diffusion_nft_loss,
    kept_share,
    optimality,
    sized_error,
)

CPU = torch.device("cpu")


@pytest.mark.parametrize("t", TIMES)
@pytest.mark.parametrize("beta", [1.0, 0.1])
def test_nft_reaches_its_optimum(t, beta):
    """r = 1/2 + k x_0: v_old + (2/β) Cov(r, v | x_t) is the old velocity minus (2k/β) s² t / D, the data
    tilted by exp(2k x / β). The loss is a quadratic of a line's two numbers, so one Newton step finds it.
    """
    k = 0.1
    clean, noise, probability = gaussian_grid(24)
    noisy = (1 - t) * clean + t * noise
    old, target, optimal = data_velocity(noisy, t), noise - clean, 0.5 + k * clean

    def loss(line: torch.Tensor) -> torch.Tensor:
        policy = line[0] + line[1] * noisy
        terms = diffusion_nft_loss(
            policy[:, None], old[:, None], target[:, None], optimal, beta=beta, scale=None
        )
        return (probability * terms).sum()

    start = torch.zeros(2, dtype=torch.float64, requires_grad=True)
    (slope,) = torch.autograd.grad(loss(start), start, create_graph=True)
    curvature = torch.autograd.functional.hessian(loss, start)
    line = start.detach() - torch.linalg.solve(curvature, slope.detach())
    d = (1 - t) ** 2 * S**2 + t**2
    for x in (-1.0, 0.0, 2.0):
        before = data_velocity(torch.tensor(x, dtype=torch.float64), t).item()
        tilted = data_velocity(torch.tensor(x, dtype=torch.float64), t, mean=M + 2 * k / beta * S**2).item()
        assert (line[0] + line[1] * x).item() == pytest.approx(before - 2 * k / beta * S**2 * t / d, abs=1e-8)
        assert (line[0] + line[1] * x).item() == pytest.approx(tilted, abs=1e-8)


def test_nft_by_hand():
    """Prediction 1, old 0, target 2, β = 1/2: v⁺ = 1/2 and v⁻ = -1/2, errors 9/4 and 25/4. As errors of x̂_0
    with the scale 1/2, over their sizes 3/4 and 5/4: (9/16) / (3/4) = 3/4 and 5/4.
    """
    one = torch.ones(1, 1)
    r = torch.tensor([0.75])
    assert diffusion_nft_loss(one, 0 * one, 2 * one, r, beta=0.5).item() == pytest.approx(
        0.75 * 2.25 + 0.25 * 6.25
    )
    found = diffusion_nft_loss(one, 0 * one, 2 * one, r, beta=0.5, scale=torch.tensor([0.5]))
    assert found.item() == pytest.approx(0.75 * 0.75 + 0.25 * 1.25)
    torch.testing.assert_close(optimality(torch.tensor([-9.0, 0, 2.5])), torch.tensor([0, 0.5, 0.75]))


def test_a_perfect_prediction_divides_nothing_by_zero():
    exact = torch.zeros(2, 3, requires_grad=True)
    sized_error(exact, torch.zeros(2, 3), torch.ones(2)).sum().backward()
    assert torch.isfinite(exact.grad).all()


@pytest.mark.system("s002-005")
def test_crd_slope_of_the_implicit_reward():
    """At one x_t: v = (x_t - x_0) / t, and R = ‖v_old - v‖² - ‖v_θ - v‖² has the slope -2 d / t in x_0."""
    t, noisy, old, away = 0.4, 0.3, -0.2, 0.7
    clean = torch.linspace(-2, 2, 5, dtype=torch.float64)[:, None]
    target = (noisy - clean) / t
    flat = torch.full_like(clean, old)
    reward = sized_error(flat, target, None) - sized_error(flat + away, target, None)
    slopes = reward.diff() / clean[:, 0].diff()
    assert slopes.tolist() == pytest.approx([-2 * away / t] * 4)


@pytest.mark.system("s002-005")
def test_crd_regresses_centred_rewards_and_ignores_constants():
    """A = k x_0 at one x_t is met exactly by d = -k t / (2β), whatever is added to all rewards, or to R."""
    t, k, beta = 0.4, 0.3, 2.0
    clean = torch.tensor([-1.0, 0.5, 2.0], dtype=torch.float64)
    implicit = -2 * (-k * t / (2 * beta)) / t * clean
    for constant, log_z in ((0.0, 0.0), (3.0, 0.0), (0.0, -5.0)):
        rewards, own = k * clean + constant, implicit + log_z
        losses = centred_reward_loss(
            own,
            rewards,
            mean_implicit=own.mean().expand(3),
            mean_optimal=rewards.mean().expand(3),
            beta=beta,
        )
        assert losses.abs().max() < 1e-12


@pytest.mark.system("s002-005")
def test_crd_anchor_and_old_policies():
    """κ = 0.1: 1e-4 for the worst picture, κ for the best. The old policy's share is held at its bounds."""
    found = adaptive_anchor(torch.tensor([0.0, 0.5, 1.0]), weight=0.1)
    torch.testing.assert_close(found, torch.tensor([1e-4, 0.1 * (1e-3 + 0.5 * 0.999), 0.1]))
    nft = {"start": 0.0, "rate": 0.001, "delay": 0, "most": 0.5}
    assert [kept_share(step, **nft) for step in (1, 100, 900)] == pytest.approx([0.001, 0.1, 0.5])
    late = {"start": 0.0, "rate": 0.0075, "delay": 75, "most": 0.999}
    assert [kept_share(step, **late) for step in (75, 77, 500)] == pytest.approx([0.0, 0.015, 0.999])


def test_scales_of_clean_pictures(tmp_path):
    """What an error of the prediction is in x̂_0, against the family's own noising, at one timestep."""
    folders = {
        "epsilon": save_pipeline(tmp_path / "epsilon"),
        "v": save_pipeline(tmp_path / "v", prediction_type="v_prediction"),
        "flow": save_sd3(tmp_path / "flow"),
    }
    times = torch.tensor([300])
    for name, folder in folders.items():
        family = load_family(str(folder), device=CPU)
        clean, noise = (torch.full((1, 4, 8, 8), value) for value in (0.7, -0.4))
        alpha = family.add_noise(torch.ones(1, 4, 8, 8), torch.zeros(1, 4, 8, 8), times)[0, 0, 0, 0]
        noisy, target = family.add_noise(clean, noise, times), family.target(clean, noise, times)
        sigma = ((noisy - alpha * clean) / noise)[0, 0, 0, 0]
        wrong = target + 0.01
        if name == "epsilon":
            recovered = (noisy - sigma * wrong) / alpha
        elif name == "v":
            recovered = alpha * noisy - sigma * wrong
        else:
            recovered = noisy - sigma * wrong
        error = (recovered - clean).abs().max().item() / 0.01
        assert clean_scale(family, times).item() == pytest.approx(error, rel=1e-3)


QUICK: dict[str, Any] = {
    "max_steps": 3,
    "batch_size": 2,
    "num_generations": 2,
    "lora": LORA,
    "learning_rate": 1e-3,
    "save_every": 1,
    "samples": 0,
    "num_inference_steps": 2,
    "guidance_scale": 1.0,
}
BRIGHT = [{"rule": "brightness"}]
METHODS = {
    "diffusion_nft": QUICK | {"updates": 2, "anchor": 0.01},
    "diffusion_nft plain": QUICK | {"normalise": False, "lora": None, "old_start": 0.2},
    "crd": QUICK | {"anchor_guidance": 2.0, "drawing_delay": 1},
}


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_pipeline(tmp_path_factory.mktemp("pipeline"))


@pytest.mark.parametrize("name", METHODS)
def test_resuming_equals_not_stopping(base, tmp_path, name):
    """Cancelled after step 2, run again: the same weights and values, to the bit; old policies come back."""
    folders = [tmp_path / "through", tmp_path / "stopped"]
    for folder in folders:
        make_run(folder, name.split()[0], base=base, config=METHODS[name], reward=BRIGHT)
    assert run(folders[0]) == EXIT_DONE
    with cancelled_after(2):
        assert run(folders[1]) == EXIT_CANCELLED
    assert run(folders[1]) == EXIT_DONE
    assert values(folders[0], "loss", "reward", "grad_norm") == values(
        folders[1], "loss", "reward", "grad_norm"
    )
    found = [load_file(sorted(folder.glob("checkpoint-*"))[-1] / "weights.safetensors") for folder in folders]
    assert all(torch.equal(value, found[1][key]) for key, value in found[0].items())


@pytest.mark.parametrize("method", ["diffusion_nft", "crd"])
def test_the_reward_rises(tmp_path, method):
    """On a flow model, trained where it is sampled: brighter by more than the pictures differ."""
    base = save_sd3(tmp_path / "flow", shift=1.0)
    config = QUICK | {"lora": None, "learning_rate": 3e-3, "max_steps": 20, "num_generations": 8}
    config |= {"timesteps": [499, 999], "anchor": 1e-3}
    config |= {"anchor_guidance": 1.0} if method == "crd" else {"beta": 0.5}
    assert run(make_run(tmp_path / "run", method, base=base, config=config, reward=BRIGHT)) == EXIT_DONE
    rows = metrics(tmp_path / "run")
    rewards = [row["reward"] for row in rows if "reward" in row]
    assert sum(rewards[-4:]) / 4 > sum(rewards[:2]) / 2 + rows[0]["reward_std"], rewards
