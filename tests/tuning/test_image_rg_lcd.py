"""Reward-guided latent consistency distillation."""

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import LCMScheduler
from safetensors.torch import load_file

from tests.tuning.gaussians import MEAN, SPREAD
from tests.tuning.image_models import save_lcm, save_pipeline, save_sd3
from tests.tuning.image_runs import cancelled_after, make_run, metrics, pair_rows, run
from training.tuning.errors import EXIT_BAD_INPUT, EXIT_CANCELLED, EXIT_DONE
from training.tuning.images.consistency import jumps, picture, solved
from training.tuning.images.renoising import Levels
from training.tuning.losses.latent_proxy import ranking_distillation

QUICK: dict[str, Any] = {
    "max_steps": 3,
    "batch_size": 4,
    "micro_batch_size": 2,
    "lora": {"r": 4, "alpha": 4, "target_modules": "all-linear"},
    "learning_rate": 1e-3,
    "latent_reward_learning_rate": 1e-2,
    "samples": 0,
    "num_inference_steps": 2,
    "guidance_scale": 1.0,
    "height": 16,
    "width": 16,
    "solver_steps": 10,
}
LIGHT = [{"rule": "brightness", "weight": 10.0}]


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_pipeline(tmp_path_factory.mktemp("pipeline"))


def make(folder: Path, base: Path, **changes: Any) -> Path:
    rows = pair_rows(folder / "data" / "media", count=4)
    return make_run(folder, "rg_lcd", base=base, config=QUICK | changes, rows=rows, reward=LIGHT)


def levels(count: int = 1000) -> Levels:
    """A variance-preserving schedule of noise predictions."""
    squares = torch.cos(torch.linspace(0.02, 1.5, count, dtype=torch.float64)) ** 2
    return Levels(squares.sqrt(), (1 - squares).sqrt(), "epsilon")


def noise_of(own: Levels, x: torch.Tensor, timesteps: torch.Tensor) -> torch.Tensor:
    """What a model of N(m, s²) says."""
    alpha, sigma = own.at(timesteps, x)
    return sigma * (x - alpha * MEAN) / (alpha**2 * SPREAD**2 + sigma**2)


@pytest.mark.system("s002-046")
@pytest.mark.parametrize("count", [20, 100])
def test_the_target_of_an_exact_student_is_itself(count):
    """Gaussian data: the consistency function is m + s (x − αm) / √(α²s² + σ²). One step of the solver along
    the exact path leaves it where it was, to an error of the step's square; an equal model guides nowhere.
    """
    own = levels()
    worst = 0.0
    x = torch.linspace(-2, 2, 5, dtype=torch.float64).view(-1, 1)

    def truth(x, at):
        alpha, sigma = own.at(at, x)
        return MEAN + SPREAD * (x - alpha * MEAN) / (alpha**2 * SPREAD**2 + sigma**2).sqrt()

    for first, last in jumps(count, timesteps=1000)[count // 4 :]:
        start, end = torch.full((5,), first), torch.full((5,), last)
        clean = own.clean(x, noise_of(own, x, start), start)
        guidance = torch.linspace(5, 15, 5)
        nearer = solved(own, x, clean, clean, guidance=guidance, start=start, end=end)
        worst = max(worst, float((truth(nearer, end) - truth(x, start)).abs().max()))
    assert worst < 9 / count**2


def test_guidance_is_added_to_the_prompt_s_own():
    """x̂_0 = 1 with the prompt, 0 without, w = 2: 3; so from x at α, σ to α' 3 + σ' (x − 3α) / σ."""
    own, x = levels(), torch.tensor([[0.4]], dtype=torch.float64)
    start, end = torch.tensor([600]), torch.tensor([500])
    one = torch.ones_like(x)
    found = solved(own, x, one, 0 * one, guidance=torch.tensor([2.0]), start=start, end=end)
    alpha, sigma, to_alpha, to_sigma = (
        float(table[at]) for at in (600, 500) for table in (own.alphas, own.sigmas)
    )
    assert found.item() == pytest.approx(to_alpha * 3 + to_sigma * (0.4 - 3 * alpha) / sigma, rel=1e-9)


def test_the_picture_is_the_scheduler_s():
    """f as diffusers' LCMScheduler computes it: its picture at any timestep; at timestep 0 it is x itself."""
    scheduler = LCMScheduler()
    own = Levels(
        scheduler.alphas_cumprod.double().sqrt(), (1 - scheduler.alphas_cumprod.double()).sqrt(), "epsilon"
    )
    x, told = torch.randn(2, 3, 4, 4, generator=torch.Generator().manual_seed(0)).double()
    x, told = x[None], told[None]
    scheduler.set_timesteps(4)
    for timestep in scheduler.timesteps.tolist():
        theirs = scheduler.step(told, timestep, x).denoised
        mine = picture(own, lambda noisy, at: told, x, torch.tensor([timestep]))
        torch.testing.assert_close(mine, theirs.double(), atol=1e-5, rtol=1e-5)
        scheduler._step_index = None
    torch.testing.assert_close(picture(own, lambda noisy, at: told, x, torch.tensor([0])), x)
    assert jumps(50, timesteps=1000)[0] == (19, 0)
    assert jumps(50, timesteps=1000)[-1] == (999, 979)


@pytest.mark.system("s002-046")
def test_the_student_settles_half_a_beta_towards_the_reward():
    """(f − g)² − β a f is least at f = g + β a / 2: with g = 0.5, β = 0.8, a = 3 at 1.7."""
    f = torch.tensor([0.0], requires_grad=True)
    optimizer = torch.optim.SGD([f], lr=0.1)
    for _ in range(200):
        optimizer.zero_grad()
        ((f - 0.5).square().mean() - 0.8 * 3 * f.sum()).backward()
        optimizer.step()
    assert f.item() == pytest.approx(1.7, abs=1e-4)


@pytest.mark.system("s002-046")
def test_the_proxy_learns_rankings_alone():
    """0 where its scores differ from the expert's by a constant of each prompt; by hand for two pictures."""
    expert = torch.tensor([[0.3, 2.0], [1.0, -1.0], [0.2, 0.4]])
    assert ranking_distillation(expert + torch.tensor([5.0, -7.0]), expert).tolist() == pytest.approx(
        [0, 0], abs=1e-6
    )
    found = ranking_distillation(torch.zeros(2, 1), torch.tensor([[math.log(3)], [0.0]]))
    by_hand = 0.75 * math.log(0.75 / 0.5) + 0.25 * math.log(0.25 / 0.5)
    assert found.item() == pytest.approx(by_hand, abs=1e-6)


@pytest.mark.parametrize("through", ["proxy", "pixels"])
def test_it_resumes_exactly(base, tmp_path, through):
    """Student, target and proxy as if nothing had happened; the proxy says 0 at first."""
    changes = {"through": through} | ({} if through == "proxy" else {"latent_reward_learning_rate": 1e-4})
    whole, half = (make(tmp_path / name, base, **changes) for name in ("whole", "half"))
    assert run(whole) == EXIT_DONE
    with cancelled_after(2):
        assert run(half) == EXIT_CANCELLED
    assert run(half) == EXIT_DONE
    one, other = (load_file(folder / "checkpoint-000003" / "weights.safetensors") for folder in (whole, half))
    assert all(torch.equal(value, other[name]) for name, value in one.items())
    rows = metrics(whole)
    assert all(math.isfinite(row["loss"]) for row in rows)
    if through == "proxy":
        assert rows[0]["reward"] == 0
        assert rows[0]["proxy/loss"] > 0


def test_a_proxy_learns_the_ranking_of_a_reward_without_gradient(base, tmp_path):
    """The size as JPEG: its rankings come nearer; a flow has the same method."""
    rows = pair_rows(tmp_path / "run" / "data" / "media", count=4)
    config = QUICK | {"max_steps": 25, "learning_rate": 1e-5, "beta": 0.0, "distance": "l2"}
    reward = [{"rule": "jpeg_size", "weight": 2.0}]
    folder = make_run(tmp_path / "run", "rg_lcd", base=base, config=config, rows=rows, reward=reward)
    assert run(folder) == EXIT_DONE
    losses = [row["proxy/loss"] for row in metrics(folder)]
    assert sum(losses[-5:]) < 0.7 * sum(losses[:5])
    assert run(make(tmp_path / "flow", save_sd3(tmp_path / "sd3"), max_steps=1)) == EXIT_DONE


def test_a_distilled_model_is_no_teacher(tmp_path, capsys):
    assert run(make(tmp_path / "run", save_lcm(tmp_path / "lcm"))) == EXIT_BAD_INPUT
    assert "distilled already" in capsys.readouterr().err
    folder = make(tmp_path / "keys", tmp_path / "lcm", through="pixels")
    assert run(folder) == EXIT_BAD_INPUT
    assert "no use through pixels" in capsys.readouterr().err
