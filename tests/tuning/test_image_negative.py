"""Self-NPO: a negative model without data, and guidance away from it."""

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from tests.tuning.gaussians import MEAN, SPREAD, by_betas, cosine
from tests.tuning.image_models import save_pipeline, save_sd3
from tests.tuning.image_runs import cancelled_after, make_run, metrics, run
from tests.tuning.test_image_online import QUICK, weights
from training.tuning.errors import EXIT_BAD_INPUT, EXIT_CANCELLED, EXIT_DONE
from training.tuning.images.families import load_family
from training.tuning.images.loading import load_for_sampling
from training.tuning.images.negative import NegativeModel
from training.tuning.images.renoising import levels_of, renoised
from training.tuning.images.schedules import beta_schedule
from training.tuning.images.trajectories import Guidance, guided_denoiser
from training.tuning.losses.pseudo_huber import pseudo_huber

pytestmark = pytest.mark.system("s000-069")
CPU = torch.device("cpu")


@pytest.mark.parametrize("kind", ["betas", "flow"])
def test_renoising_is_the_forward_process(kind):
    """What is α_k x_0 + σ_k ε becomes α_j x_0 + σ_j ε': mean and variance by number, and in two steps as in
    one; at pure noise nothing of the picture is left.
    """
    pairs = {"betas": [(0.9, math.sqrt(0.19)), (0.6, 0.8), (0.28, 0.96)], "flow": [(0.7, 0.3), (0.2, 0.8)]}
    (alpha, sigma), *noisier = pairs[kind]
    for to_alpha, to_sigma in [*noisier, (0.0, 1.0)]:
        keys: dict[str, Any] = {
            "alpha": alpha,
            "sigma": sigma,
            "to_alpha": torch.tensor(to_alpha).double(),
            "to_sigma": torch.tensor(to_sigma).double(),
        }
        one, zero = torch.ones(1, 1).double(), torch.zeros(1, 1).double()
        share, added = renoised(one, zero, **keys).item(), renoised(zero, one, **keys).item()
        assert share * alpha == pytest.approx(to_alpha)
        assert (share * sigma) ** 2 + added**2 == pytest.approx(to_sigma**2)


def test_the_distance_by_hand():
    """√(3² + 4²) - 4 = 1 and √(0 + 4²) - 4 = 0: ½ on average; the slope is one far away and 0 at 0."""
    error = torch.tensor([[3.0, 0.0]], requires_grad=True)
    assert pseudo_huber(error, torch.zeros(1, 2), scale=4.0).item() == pytest.approx(0.5)
    pseudo_huber(error, torch.zeros(1, 2), scale=1e-6).sum().backward()
    assert error.grad is not None
    assert error.grad.tolist() == [[pytest.approx(0.5), 0.0]]


def test_what_is_learnt_is_the_model_without_prompt():
    """An unfinished guess E[x_0 | x_k], seen from a noisier x_j, is on average E[x_0 | x_j]: an exact teacher
    teaches an exact model nothing. A model that was told something else (another mean) is drawn to what
    the teacher knows without the prompt.
    """
    schedule = beta_schedule(cosine(10), times=torch.arange(10).double(), prediction="sample")
    known = by_betas("sample", schedule)
    generator = torch.Generator().manual_seed(0)

    def draw() -> torch.Tensor:
        return torch.randn(200_000, 1, dtype=torch.float64, generator=generator)

    k, j = 6, 3
    alpha, sigma = float(schedule.alphas[k]), float(schedule.sigmas[k])
    noisy = alpha * (MEAN + SPREAD * draw()) + sigma * draw()
    target = known(noisy, float(k))
    again = renoised(
        noisy,
        draw(),
        alpha=alpha,
        sigma=sigma,
        to_alpha=schedule.alphas[j],
        to_sigma=schedule.sigmas[j],
    )
    away = target - known(again, float(j))
    error = 5 * away.std().item() / math.sqrt(len(away))
    assert away.mean().item() == pytest.approx(0, abs=error)
    assert (away * again).mean().item() == pytest.approx(0, abs=5 * error)
    told = by_betas("sample", schedule)
    wrong = target - (told(again, float(j)) + 0.5)
    assert wrong.mean().item() == pytest.approx(-0.5, abs=error)


@pytest.mark.parametrize("kind", ["epsilon", "v_prediction", "flow"])
def test_levels_are_those_of_the_family(tmp_path, kind):
    """A right prediction gives the picture back at every timestep, and the noisier ones are those above."""
    folder = save_sd3(tmp_path) if kind == "flow" else save_pipeline(tmp_path, prediction_type=kind)
    family = load_family(str(folder), device=CPU)
    levels = levels_of(family)
    clean, noise = torch.randn(2, 3, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    times = torch.tensor([0, 500, 999])
    noisy = family.add_noise(clean, noise, times)
    found = levels.clean(noisy, family.target(clean, noise, times), times)
    torch.testing.assert_close(found[:2], clean[:2], atol=1e-4, rtol=1e-4)
    alpha, sigma = float(levels.alphas[400]), float(levels.sigmas[400])
    assert levels.noisier_than(alpha, sigma) == list(range(401, 1000))
    assert levels.noisier_than(0.0, 1.0) == [999]


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_pipeline(tmp_path_factory.mktemp("pipeline"))


def make(folder: Path, base: Path, **changes: Any) -> Path:
    config = QUICK | {"num_generations": 2, "max_steps": 3, "save_every": 1, "teacher_kept": 0.9} | changes
    rows = [{"prompt": letter} for letter in "abcd"]
    return make_run(folder, "self_npo", base=base, config=config, rows=rows, held_out=[{"prompt": "x"}])


@pytest.fixture(scope="module")
def trained(base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = make(tmp_path_factory.mktemp("negative"), base, learning_rate=0.05)
    assert run(folder) == EXIT_DONE
    return folder


def test_a_run_goes_on_to_the_bit(base, trained, tmp_path):
    stopped = make(tmp_path / "stopped", base, learning_rate=0.05)
    with cancelled_after(2):
        assert run(stopped) == EXIT_CANCELLED
    assert run(stopped) == EXIT_DONE
    assert all(torch.equal(value, weights(stopped)[name]) for name, value in weights(trained).items())
    losses = [[row["loss"] for row in metrics(folder) if "loss" in row] for folder in (trained, stopped)]
    assert losses[0] == losses[1]
    assert min(losses[0]) > 0


def predictions(model: NegativeModel, scale: float = 3.0) -> torch.Tensor:
    x = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        return model.denoiser(["a b"], scale=scale, autocast=None)(x, 500.0)


def test_a_negative_that_learnt_nothing_is_plain_guidance(base, trained, tmp_path):
    """n + s (c - n) with n = u; with what it learnt it is something else; at s = 1 it is c alone."""
    empty = tmp_path / "empty"
    empty.mkdir()
    result = trained / "result"
    for file in result.iterdir():
        (empty / file.name).write_bytes(file.read_bytes())
    name = "pytorch_lora_weights.safetensors"
    settings = load_file(result / name)
    with safe_open(result / name, framework="pt") as opened:
        header = opened.metadata()
    save_file(
        {key: torch.zeros_like(value) for key, value in settings.items()}, empty / name, metadata=header
    )
    family = load_for_sampling(str(base), device=CPU)
    x = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    told = family.encode_prompts(["a b"])
    guidance = Guidance(3.0, family.encode_prompts([""]))
    with torch.no_grad():
        plain = guided_denoiser(family, family.denoiser, told, guidance=guidance)(x, 500.0)
        alone = guided_denoiser(family, family.denoiser, told)(x, 500.0)
    dull, learnt = (
        NegativeModel(
            load_for_sampling(str(base), device=CPU), base=str(base), negative=str(folder), merge=0.0
        )
        for folder in (empty, result)
    )
    torch.testing.assert_close(predictions(dull), plain, atol=2e-5, rtol=0)
    assert (predictions(learnt) - plain).abs().max() > 1e-3
    torch.testing.assert_close(predictions(learnt, 1.0), alone, atol=2e-5, rtol=0)


def test_the_negative_of_a_tuned_model_has_as_much_of_its_tuning_as_is_asked_for(base, trained):
    """One adapter as the model's own and as what was learnt: base + (2 - merge) Δ, here for every layer's sum
    seen through the predictions: merge 1 is the adapter alone, whatever the model's own tuning.
    """
    result = str(trained / "result")
    x = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    found = []
    for own, merge in ((str(base), 0.0), (result, 1.0), (result, 0.0)):
        family = load_for_sampling(own, device=CPU)
        model = NegativeModel(family, base=own, negative=result, merge=merge)
        empty = family.encode_prompts([""])
        with torch.no_grad(), model.active():
            found.append(guided_denoiser(family, family.denoiser, empty)(x, 500.0))
    torch.testing.assert_close(found[0], found[1], atol=2e-5, rtol=0)
    assert (found[2] - found[1]).abs().max() > 1e-4


def generate(folder: Path, base: Path, negative: Path | None, **changes: Any) -> Path:
    config = {"num_inference_steps": 3, "guidance_scale": 4.0, "guide_away": True} | changes
    reward = [{"model": str(negative)}] if negative else [{"rule": "brightness"}]
    return make_run(folder, "image_generate", base=base, config=config, rows=[{"prompt": "a"}], reward=reward)


def test_pictures_are_drawn_away_from_it(base, trained, tmp_path, capsys):
    folders = [tmp_path / "away", tmp_path / "plain"]
    assert run(generate(folders[0], base, trained / "result")) == EXIT_DONE
    rows = [{"prompt": "a"}]
    config = {"num_inference_steps": 3, "guidance_scale": 4.0}
    assert run(make_run(folders[1], "image_generate", base=base, config=config, rows=rows)) == EXIT_DONE
    drawn = [(folder / "result" / "media" / "000000-00.png").read_bytes() for folder in folders]
    assert drawn[0] != drawn[1]
    for number, (negative, changes, message) in enumerate(
        [
            (None, {}, "needs one model"),
            (base, {}, "a negative model is an adapter"),
            (trained / "result", {"guidance_scale": 1.0}, "a scale above 1"),
            (trained / "result", {"eta": 1.0}, "neither search nor eta"),
        ]
    ):
        assert run(generate(tmp_path / str(number), base, negative, **changes)) == EXIT_BAD_INPUT
        assert message in capsys.readouterr().err
