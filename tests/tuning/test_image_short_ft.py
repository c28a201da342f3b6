"""ShortFT: gradients through chains that jump, and an adapter whose parts count one after another."""

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import pytest
import torch
from torch import Tensor

from tests.tuning.gaussians import velocity
from tests.tuning.image_models import save_flux, save_pipeline, save_sd3
from tests.tuning.image_runs import cancelled_after, make_run, metrics, run
from tests.tuning.test_image_gradient_runs import evaluations, weights
from tests.tuning.tilted import betas, flow, noise
from training.tuning.config import LoraConfig
from training.tuning.errors import EXIT_BAD_INPUT, EXIT_CANCELLED, EXIT_DONE, BadInput
from training.tuning.images.backprop import draw_last_steps
from training.tuning.images.generation import Request, Sampling, generate_images
from training.tuning.images.loading import load_for_sampling, load_for_training
from training.tuning.images.parts import AdapterParts, stretch_of
from training.tuning.images.policies import POLICY
from training.tuning.images.schedules import Schedule, ddim
from training.tuning.images.search.walk import one_generator
from training.tuning.images.shortcuts import shortened, stage_of, stretches
from training.tuning.images.trajectories import sample, step

CPU = torch.device("cpu")
LORA = {"r": 2, "alpha": 2, "target_modules": "all-linear"}
QUICK: dict[str, Any] = {
    "max_steps": 8,
    "batch_size": 2,
    "num_generations": 2,
    "lora": LORA,
    "learning_rate": 1e-2,
    "samples": 0,
    "num_inference_steps": 6,
    "guidance_scale": 1.0,
    "height": 16,
    "width": 16,
    "parts": 2,
}
BRIGHT = [{"rule": "brightness", "weight": 10.0}]


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_pipeline(tmp_path_factory.mktemp("pipeline"))


def make(folder: Path, base: Path, *, reward: Any = BRIGHT, **changes: Any) -> Path:
    rows = [{"prompt": letter} for letter in "abcd"]
    held_out = [{"prompt": "x"}, {"prompt": "y"}, {"prompt": "z"}] if changes.pop("held_out", False) else None
    config = QUICK | changes
    return make_run(folder, "short_ft", base=base, config=config, rows=rows, held_out=held_out, reward=reward)


# Chains


def test_the_paper_s_chain() -> None:
    """50 steps of 1,000 in four parts: the levels that were published, and eight calls of fifty."""
    times = torch.arange(981, 0, -20, dtype=torch.float64)
    levels = torch.linspace(1, 0, 51, dtype=torch.float64)
    schedule = Schedule(1 - levels, levels, times, "velocity")
    parts = stretches(schedule, span=1000.0, count=4)
    assert [len(part) for part in parts] == [12, 13, 12, 13]
    first = shortened(schedule, parts, stage=0)
    assert first.schedule.times.tolist() == [981, 761, 741, 501, 481, 261, 241, 1]
    assert first.jumps == {981, 741, 481, 241}
    assert first.last == 8
    # A jump of 741 ends at the level of 501, and the step of 501 at that of 481.
    assert first.schedule.sigmas[2:5].tolist() == [levels[12], levels[24], levels[25]]
    third = shortened(schedule, parts, stage=2)
    assert third.schedule.times.tolist() == [*times[:25].tolist(), 481, 261, 241, 1]
    assert third.jumps == {481, 241}
    assert third.last == 4


def test_stretches_and_stages() -> None:
    assert [stretch_of(share, count=4) for share in (1.0, 0.751, 0.75, 0.5, 0.25, 0.0)] == [0, 0, 1, 2, 3, 3]
    assert [stage_of(at, total_steps=8, count=4) for at in range(1, 9)] == [0, 0, 1, 1, 2, 2, 3, 3]
    # Fewer steps of training than parts leave stages out, but the last.
    assert [stage_of(at, total_steps=2, count=4) for at in (1, 2)] == [0, 2]
    with pytest.raises(BadInput, match="leave part 2 of 4 without one"):
        stretches(flow(2), span=0.5, count=4)


def falling(schedule: Schedule) -> Schedule:
    """With times that fall to 1 / K, as those of a flow."""
    return replace(schedule, times=flow(schedule.steps).times)


@pytest.mark.system("s000-041")
@pytest.mark.parametrize("recompute", [False, True])
@pytest.mark.parametrize("schedule", [flow(12), falling(betas(12))], ids=["flow", "betas"])
def test_an_exact_jump_carries_the_whole_chain_s_gradient(schedule: Schedule, recompute: bool) -> None:
    """Where jumps end as the steps that they replace do, the picture and what reaches θ of each part and the
    first latents are those of the chain with all its steps.

    All steps here are affine, x' = a + b x, so a jump's a and b are known, and with them what a denoiser has
    to say for one step of the short chain to end there.
    """
    span = float(schedule.times[0]) * 1.0001
    parts = stretches(schedule, span=span, count=3)
    short = shortened(schedule, parts, stage=0)
    sampler, brief = ddim(schedule, eta=0.0), ddim(short.schedule, eta=0.0)
    trained = {float(schedule.times[part[-1]]): number for number, part in enumerate(parts)}
    theta = torch.zeros(3, dtype=torch.float64, requires_grad=True)

    def full(x: Tensor, time: float) -> Tensor:
        return velocity(x, time) + (theta[trained[time]] if time in trained else 0.0)

    def jumping(x: Tensor, time: float) -> Tensor:
        if time not in short.jumps:
            return full(x, time)
        part = next(part for part in parts if float(schedule.times[part[0]]) == time)
        end = x
        for index in range(part[0], part[-1]):
            end = step(velocity, sampler, end, index).mean
        # Every step is affine in what is said as well: by two guesses.
        at = short.schedule.times.tolist().index(time)
        none = step(lambda x, time: torch.zeros_like(x), brief, x, at).mean
        one = step(lambda x, time: torch.ones_like(x), brief, x, at).mean
        return (end - none) / (one - none)

    found = []
    for denoise, way, last in ((full, sampler, 12), (jumping, brief, short.last)):
        start = noise(3).requires_grad_()
        drawn = draw_last_steps(
            denoise, way, start, generators=one_generator(0), last=last, recompute=recompute
        )
        found.append((drawn, *torch.autograd.grad((2 * drawn).sum(), [theta, start])))
    for ours, theirs in zip(*found, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-11)
    assert (found[1][1].abs() > 1e-6).all()
    assert short.schedule.steps == 6


# Parts


def of_parts(base: Path, *, count: int = 2) -> tuple[Any, AdapterParts]:
    """A policy in parts with weights that matter."""
    lora = LoraConfig(r=2 * count, alpha=2 * count, target_modules="all-linear")
    policy = load_for_training(str(base), lora=lora, keep_copy=False, seed=0, device=CPU, parts=count)
    parts = AdapterParts(policy.family, count=count, name=POLICY)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for weight in policy.trained.values():
            weight.add_(0.2 * torch.randn(weight.shape, generator=generator))
    return policy, parts


def said(policy: Any, time: float) -> Tensor:
    family = policy.family
    latents = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(2))
    return family.predict(
        policy.denoiser, latents, torch.tensor([float(time)]), family.encode_prompts(["a b"])
    )


@pytest.mark.system("s000-041")
@pytest.mark.parametrize("save", [save_pipeline, save_sd3, save_flux], ids=["sd", "sd3", "flux"])
def test_a_stage_trains_its_own_parts(save: Any, tmp_path: Path) -> None:
    """An update of the second stage leaves what the model says above the middle as it was, bit for bit,
    though gradient and momentum reach all weights; below the middle it changes.
    """
    policy, parts = of_parts(save(tmp_path))
    optimizer = torch.optim.AdamW(policy.trained.values(), lr=0.1, weight_decay=0.1)
    said(policy, 300.0).square().sum().backward()
    optimizer.step()  # momentum for all
    before = [said(policy, time).detach() for time in (900.0, 300.0)]
    said(policy, 300.0).square().sum().backward()
    with parts.held(1):
        optimizer.step()
    after = [said(policy, time).detach() for time in (900.0, 300.0)]
    assert torch.equal(before[0], after[0])
    assert not torch.equal(before[1], after[1])
    parts.replaced = True
    with torch.no_grad():
        jumped = said(policy, 300.0)
    with policy.as_reference():
        assert torch.equal(jumped, said(policy, 300.0))


def test_a_part_hears_only_of_its_stretch(base: Path) -> None:
    """Above the middle the second part's weights have no gradient; below it both have."""
    policy, parts = of_parts(base)
    for time, second in ((900.0, False), (300.0, True)):
        said(policy, time).square().sum().backward()
        layer = parts.layers[0]
        rows = layer.lora_A[POLICY].weight.grad.abs().sum(dim=1)
        assert bool((rows[:2] > 0).all())
        assert bool((rows[2:] > 0).any()) is second
        policy.denoiser.zero_grad()


# Runs


@pytest.mark.system("s000-041")
def test_the_reward_of_new_prompts_rises(base: Path, tmp_path: Path) -> None:
    """Drawn with all steps and no jump, as the result will be."""
    before = make(
        tmp_path / "before", base, held_out=True, max_steps=1, learning_rate=1e-9, num_inference_steps=8
    )
    after = make(tmp_path / "after", base, held_out=True, num_inference_steps=8)
    assert run(before) == run(after) == EXIT_DONE
    assert evaluations(after)[-1] > evaluations(before)[-1] + 0.002
    rows = metrics(after)
    assert [row["stage"] for row in rows if "stage" in row] == [1.0] * 4 + [2.0] * 4
    assert [row["calls"] for row in rows if "calls" in row] == [4.0] * 4 + [6.0] * 4


def test_it_is_the_same_however_interrupted(base: Path, tmp_path: Path) -> None:
    """Cancelled in the first of two stages, with guidance; the result draws as the cards says."""
    changes = {"max_steps": 4, "save_every": 1, "guidance_scale": 3.0}
    whole, parts = (make(tmp_path / name, base, **changes) for name in ("whole", "parts"))
    assert run(whole) == EXIT_DONE
    with cancelled_after(2):
        assert run(parts) == EXIT_CANCELLED
    first = weights(parts)
    assert run(parts) == EXIT_DONE
    ours, theirs = weights(whole), weights(parts)
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    for name in ours:  # of the second stage: the first part's rows of A, or columns of B, stay
        held, free = (slice(0, 2), slice(2, 4)) if "lora_A" in name else (np.s_[:, :2], np.s_[:, 2:])
        assert torch.equal(first[name][held], ours[name][held])
        assert not torch.equal(first[name][free], ours[name][free])
    as_the_card_says(base, whole / "result")


def as_the_card_says(base: Path, result: Path) -> None:
    """diffusers with the card's code draws what we draw; without it, something else."""
    family = load_for_sampling(str(result), device=CPU)
    ours = generate_images(family, [Request("a b", 3)], Sampling(4, 1.0, 16, 16))[0]
    code = (result / "README.md").read_text().split("```python")[1].split("```")[0]
    lines = [
        line for line in code.splitlines() if "load_lora_weights" not in line and "import Diff" not in line
    ]
    pipeline = diffusers.DiffusionPipeline.from_pretrained(base)
    pipeline.set_progress_bar_config(disable=True)
    pipeline.load_lora_weights(result, weight_name="pytorch_lora_weights.safetensors")
    told = {"num_inference_steps": 4, "guidance_scale": 1.0, "height": 16, "width": 16}
    plain = pipeline("a b", generator=torch.Generator().manual_seed(3), **told).images[0]
    scope = {"pipeline": pipeline}
    hooks = [line for line in lines if not line.startswith("pipeline =")]
    exec("\n".join(hooks), scope)
    theirs = pipeline("a b", generator=torch.Generator().manual_seed(3), **told).images[0]
    assert np.abs(np.asarray(ours).astype(int) - np.asarray(theirs)).max() <= 1
    assert np.abs(np.asarray(ours).astype(int) - np.asarray(plain)).max() > 1


def test_an_adapter_of_few_steps_jumps(base: Path, tmp_path: Path) -> None:
    """Step 0: with an adapter that changes nothing yet the jumps are the model's own; another changes them.
    Recomputing in the backward pass changes nothing.
    """
    found = []
    for name, moved, more in (
        ("self", None, {}),
        ("same", 0.0, {}),
        ("other", 0.3, {"shortcut_guidance": 1.0}),
        ("recomputed", 0.3, {"gradient_checkpointing": True}),
    ):
        reward = [*BRIGHT]
        if moved is not None:
            reward = [{"model": str(save_jumper(tmp_path / f"{name}-jumper", base, moved))}, *reward]
            more = more | {"shortcut": "model"}
        folder = make(tmp_path / name, base, reward=reward, max_steps=1, **more)
        assert run(folder) == EXIT_DONE
        found.append(metrics(folder)[0])
    losses, norms = ([row[key] for row in found] for key in ("loss", "grad_norm"))
    assert losses[0] == losses[1]
    assert losses[2] != losses[1]
    assert losses[3] == pytest.approx(losses[2], rel=1e-6)
    assert norms[3] == pytest.approx(norms[2], rel=1e-4)
    assert math.isfinite(norms[0])


def save_jumper(folder: Path, base: Path, moved: float) -> Path:
    """An adapter beside its base."""
    lora = LoraConfig(r=2, alpha=2, target_modules="all-linear")
    policy = load_for_training(str(base), lora=lora, keep_copy=False, seed=5, device=CPU)
    generator = torch.Generator().manual_seed(6)
    with torch.no_grad():
        for weight in policy.trained.values():
            weight.add_(moved * torch.randn(weight.shape, generator=generator))
    folder.mkdir()
    policy.save(folder)
    (folder / "metadata.json").write_text(f'{{"base": "{base}"}}')
    return folder


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"lora": None}, "lora must be set"),
        ({"num_inference_steps": 1}, "without one"),
        ({"shortcut": "model"}, "one adapter of few steps"),
        ({"reward": [{"rule": "jpeg_size"}]}, "jpeg_size has no gradient"),
    ],
)
def test_what_cannot_be_used(
    base: Path, tmp_path: Path, changes: dict[str, Any], words: str, capsys: Any
) -> None:
    assert run(make(tmp_path / "run", base, **changes)) == EXIT_BAD_INPUT
    assert words in capsys.readouterr().err


def test_a_result_in_parts_is_trained_on_as_such(base: Path, tmp_path: Path, capsys: Any) -> None:
    """By short_ft with as many parts, from where it was; by others it is refused."""
    first = make(tmp_path / "first", base, max_steps=2)
    assert run(first) == EXIT_DONE
    again = make(tmp_path / "again", first / "result", max_steps=1, learning_rate=1e-12)
    assert run(again) == EXIT_DONE
    ours, theirs = weights(first), weights(again)
    assert all(torch.allclose(ours[name], theirs[name], atol=1e-8) for name in ours)
    assert run(make(tmp_path / "three", first / "result", parts=3)) == EXIT_BAD_INPUT
    assert "an adapter in 2 parts" in capsys.readouterr().err


def test_sampling_a_chain_with_its_parts(base: Path, tmp_path: Path) -> None:
    """The pipeline's own sampler and ours let the same parts count."""
    result = make(tmp_path / "run", base, max_steps=2, learning_rate=3e-2)
    assert run(result) == EXIT_DONE
    family = load_for_sampling(str(result / "result"), device=CPU)
    with torch.no_grad():
        chain = sample(
            lambda x, time: family.predict(
                family.denoiser, x, torch.full((1,), time), family.encode_prompts(["a"])
            ),
            ddim(flow_or_betas(family), eta=0.0),
            torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(3)),
            generators=torch.Generator(),
        )
        pixels = family.decode_latents(chain.final)
    drawn = generate_images(family, [Request("a", 3)], Sampling(4, 1.0, 16, 16))[0]
    ours = ((pixels[0] + 1) * 127.5).round().permute(1, 2, 0).numpy()
    assert np.abs(ours - np.asarray(drawn)).max() <= 1


def flow_or_betas(family: Any) -> Schedule:
    from training.tuning.images.schedules import schedule_of

    return schedule_of(family, steps=4, height=16, width=16)
