"""Trajectories: steps by hand, Gaussians whose chains are known, and replays that give ratio one."""

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import DDIMScheduler

from tests.tuning.gaussians import MEAN, SPREAD, by_betas, cosine, moments, velocity
from tests.tuning.image_models import (
    save_flux,
    save_lcm,
    save_pipeline,
    save_pixart,
    save_sana,
    save_sd3,
    save_sdxl,
)
from training.tuning.images.data import to_image
from training.tuning.images.families import Family, load_family
from training.tuning.images.families.consistency import LatentConsistency
from training.tuning.images.schedules import (
    Sampler,
    Schedule,
    ancestral,
    beta_schedule,
    consistency,
    dance_grpo,
    ddim,
    flow_grpo,
    flow_schedule,
    schedule_of,
)
from training.tuning.images.trajectories import (
    Denoise,
    NoDensity,
    guided_denoiser,
    make_guidance,
    replay,
    sample,
    start_noise,
    step,
    told_guidance,
)

CPU = torch.device("cpu")
KINDS: dict[str, Any] = {
    "sd": save_pipeline,
    "sd-v": lambda folder: save_pipeline(folder, prediction_type="v_prediction"),
    "sdxl": save_sdxl,
    "sd3": save_sd3,
    "flux": save_flux,
    "pixart": lambda folder: save_pixart(folder, scheduler=DDIMScheduler(clip_sample=False)),
    "sana": lambda folder: save_sana(folder, solver_order=1),
    "lcm": save_lcm,
}


@pytest.fixture(scope="module", params=KINDS)
def family(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Family:
    return load_family(str(KINDS[request.param](tmp_path_factory.mktemp(request.param))), device=CPU)


def seeded(*seeds: int) -> list[torch.Generator]:
    return [torch.Generator().manual_seed(seed) for seed in seeds]


def flow(steps: int) -> Schedule:
    return flow_schedule(torch.linspace(1, 0, steps + 1, dtype=torch.float64))


def betas(steps: int, prediction: str = "epsilon") -> tuple[Schedule, Denoise]:
    times = torch.arange(steps, dtype=torch.float64)
    schedule = beta_schedule(cosine(steps), times=times, prediction=prediction)
    return schedule, by_betas(prediction, schedule)


def wide(count: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(count, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def sampler_of(family: Family, steps: int = 4) -> Sampler:
    schedule = schedule_of(family, steps=steps, height=16, width=16)
    if schedule.skip is not None:
        return consistency(schedule)
    return flow_grpo(schedule) if schedule.is_flow else ddim(schedule, eta=1.0)


def denoiser_of(
    family: Family, *, scale: float = 3.0, gradient: bool = True, autocast: Any = None
) -> Denoise:
    conditioning = told_guidance(family, family.encode_prompts(["a b", "c"]), scale=scale)
    guidance = make_guidance(family, scale=scale, count=2, gradient=gradient)
    return guided_denoiser(family, family.denoiser, conditioning, guidance=guidance, autocast=autocast)


# Steps by hand


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction", "sample"])
def test_a_ddim_step_is_the_published_one(prediction):
    """x' = √ā' x̂_0 + √(1 - ā' - std²) ε̂, std² = (1 - ā')/(1 - ā)·(1 - ā/ā') for η = 1."""
    schedule, denoise = betas(5, prediction)
    x, index, eta = wide(2), 2, 0.6
    now, following = cosine(5)[index], cosine(5)[index + 1]
    variance = eta**2 * (1 - following) / (1 - now) * (1 - now / following)
    noise = by_betas("epsilon", schedule)(x, index)
    clean = (x - (1 - now).sqrt() * noise) / now.sqrt()
    proposal = step(denoise, ddim(schedule, eta=eta), x, index)
    expected = following.sqrt() * clean + (1 - following - variance).sqrt() * noise
    torch.testing.assert_close(proposal.mean, expected)
    torch.testing.assert_close(proposal.clean, clean)
    torch.testing.assert_close(proposal.noise, noise)
    assert proposal.std == pytest.approx(float(variance.sqrt()), rel=1e-12)


def test_what_the_noise_does_to_a_ddpm_step():
    """dμ/dε = -(1 - A)/√(A (1 - ā)), A = ā/ā'."""
    schedule, _ = betas(6)
    for index in range(6):
        said = torch.zeros(1, 1, dtype=torch.float64, requires_grad=True)
        proposal = step(lambda x, time, said=said: said + 0 * x, ancestral(schedule), wide(1)[:, :1], index)
        (slope,) = torch.autograd.grad(proposal.mean.sum(), said)
        ratio = cosine(6)[index] / cosine(6)[index + 1]
        expected = -(1 - ratio) / (ratio * (1 - cosine(6)[index])).sqrt()
        assert float(slope) == pytest.approx(float(expected), rel=1e-9)


def test_the_flows_sde_is_the_published_one():
    """Flow-GRPO: μ = x + [v + g²/2t (x + (1-t) v)] dt; DanceGRPO: μ = x + v dt - ½ η² score dt; dt < 0."""
    sigmas = torch.tensor([1.0, 0.8, 0.5, 0.1, 0.0], dtype=torch.float64)
    schedule = flow_schedule(sigmas)
    for index, (t, following) in enumerate(zip(sigmas[:-1].tolist(), sigmas[1:].tolist(), strict=True)):
        x, dt = wide(2, seed=index), following - t
        v = velocity(x, t)
        g = 0.7 * math.sqrt(t / (1 - (0.8 if t == 1 else t)))
        theirs = x + (v + g**2 / (2 * t) * (x + (1 - t) * v)) * dt
        ours = step(velocity, flow_grpo(schedule, noise=0.7), x, index)
        torch.testing.assert_close(ours.mean, theirs)
        assert ours.std == pytest.approx(g * math.sqrt(-dt))

        score = -(x - (1 - t) * (x - t * v)) / t**2
        theirs = x + v * dt - 0.5 * 0.3**2 * score * dt
        ours = step(velocity, dance_grpo(schedule, noise=0.3), x, index)
        torch.testing.assert_close(ours.mean, theirs)
        assert ours.std == pytest.approx(0.3 * math.sqrt(-dt))


def test_kl_of_a_flows_step():
    """‖Δμ‖²/(2 g² |dt|) = |dt|/2 · (g (1-t)/2t + 1/g)² ‖Δv‖², as means over the numbers."""
    sampler = flow_grpo(flow(10))
    x, away = wide(2), 0.3
    for index in (1, 5, 9):
        t, dt = 1 - index / 10, 0.1
        one = step(velocity, sampler, x, index)
        other = step(lambda x, t: velocity(x, t) + away, sampler, x, index)
        g = one.std / math.sqrt(dt)
        expected = dt / 2 * (g * (1 - t) / (2 * t) + 1 / g) ** 2 * away**2
        assert one.kl(other).tolist() == pytest.approx([expected] * 2, rel=1e-9)


# Gaussians


def test_log_probabilities_are_the_gaussians():
    """By torch's own Normal, and by hand: at the mean -log(std √2π), one std away ½ less."""
    schedule, denoise = betas(4)
    sampler = ancestral(schedule)
    chain = sample(denoise, sampler, wide(5), generators=torch.Generator().manual_seed(1))
    for index in sampler.stochastic:
        proposal = step(denoise, sampler, chain.before(index), index)
        normal = torch.distributions.Normal(proposal.mean, proposal.std)
        torch.testing.assert_close(chain.logps(index), normal.log_prob(chain.after(index)).mean(dim=1))
        peak = -math.log(proposal.std * math.sqrt(2 * math.pi))
        assert proposal.log_prob(proposal.mean).tolist() == pytest.approx([peak] * 5)
        assert proposal.log_prob(proposal.mean + proposal.std).tolist() == pytest.approx([peak - 0.5] * 5)
        drawn = (chain.after(index) - proposal.mean) / proposal.std
        torch.testing.assert_close(drawn, chain.noises[index])


def test_log_probabilities_do_not_grow_with_the_picture():
    """A mean, not a sum: clipping ranges and β hold for any resolution."""
    schedule, denoise = betas(4)
    large = [
        sample(denoise, ancestral(schedule), wide(1)[:, :1].expand(1, size), generators=torch.Generator())
        for size in (4, 400)
    ]
    assert all(abs(float(chain.logps(1))) < 10 for chain in large)


NOISES = {
    "flow_grpo": lambda steps: (velocity, flow_grpo(flow(steps), noise=0.7)),
    "flow_grpo, less": lambda steps: (velocity, flow_grpo(flow(steps), noise=0.2)),
    "dance_grpo": lambda steps: (velocity, dance_grpo(flow(steps), noise=0.3)),
    "dance_grpo, more": lambda steps: (velocity, dance_grpo(flow(steps), noise=1.0)),
    "flow, ddim": lambda steps: (velocity, ddim(flow(steps), eta=1.0)),
    "flow, ode": lambda steps: (velocity, ddim(flow(steps), eta=0.0)),
    "betas, ode": lambda steps: (betas(steps)[1], ddim(betas(steps)[0], eta=0.0)),
    "betas, half": lambda steps: (betas(steps)[1], ddim(betas(steps)[0], eta=0.5)),
    "betas, ddpm": lambda steps: (betas(steps)[1], ddim(betas(steps)[0], eta=1.0)),
}


@pytest.mark.parametrize("name", NOISES)
def test_marginals_are_those_of_the_data_for_any_noise(name):
    """x_t ~ N(α m, α² s² + σ²) at every level, the last one the data; the error falls with the step.

    Flow-GRPO's g is singular at t = 1: what its first steps get wrong is looked at where it has faded.
    """
    errors = []
    for steps in (250, 1000):
        denoise, sampler = NOISES[name](steps)
        schedule = sampler.schedule
        means, variances = moments(denoise, sampler)
        expected = schedule.alphas**2 * SPREAD**2 + schedule.sigmas**2
        off = [
            (torch.tensor(means, dtype=torch.float64) - MEAN * schedule.alphas).abs(),
            (torch.tensor(variances, dtype=torch.float64) - expected).abs(),
        ]
        looked_at = slice(steps // 2, None) if name == "flow_grpo" else slice(None)
        errors.append(max(float(one[looked_at].max()) for one in off))
    assert errors[1] < 0.02
    assert errors[1] < 0.75 * errors[0]


@pytest.mark.parametrize("name", ["flow, ode", "betas, ode"])
def test_without_noise_a_chain_is_the_map_from_noise_to_data(name):
    """x_0 = m + s z."""
    denoise, sampler = NOISES[name](2000)
    start = wide(4)
    final = sample(denoise, sampler, start, generators=torch.Generator()).final
    torch.testing.assert_close(final, MEAN + SPREAD * start, atol=5e-3, rtol=0)


@pytest.mark.parametrize("steps", [1, 3, 8])
def test_a_consistency_model_samples_the_data_in_any_number_of_steps(steps):
    """f = m + s (x - α m)/√(α² s² + σ²), written as skip · x + out · x̂_0 with x̂_0 from ε."""
    squares = torch.cat([torch.zeros(1), torch.linspace(0.2, 0.9, steps)]).double()[: steps + 1]
    schedule = beta_schedule(squares, times=torch.arange(steps).double(), prediction="sample")

    def picture(x: torch.Tensor, time: float) -> torch.Tensor:
        alpha, sigma = float(schedule.alphas[int(time)]), float(schedule.sigmas[int(time)])
        return MEAN + SPREAD * (x - alpha * MEAN) / math.sqrt(alpha**2 * SPREAD**2 + sigma**2)

    means, variances = moments(picture, consistency(schedule))
    assert means[-1] == pytest.approx(float(schedule.alphas[-1]) * MEAN)
    assert variances[-1] == pytest.approx(
        float(schedule.alphas[-1]) ** 2 * SPREAD**2 + float(schedule.sigmas[-1]) ** 2
    )


# Windows, branches, errors


def test_chance_only_in_a_window():
    sampler = flow_grpo(flow(6)).only(range(2, 4))
    assert sampler.stochastic == [2, 3]
    start = wide(3)
    chain = sample(velocity, sampler, start, generators=torch.Generator().manual_seed(0))
    plain = sample(velocity, ddim(flow(6), eta=0.0), start, generators=torch.Generator())
    assert torch.equal(chain.before(2), plain.before(2))
    assert not torch.equal(chain.after(2), plain.after(2))
    for index in (0, 1, 4, 5):
        following = chain.before(index) - velocity(chain.before(index), 1 - index / 6) / 6
        torch.testing.assert_close(chain.after(index), following)
        with pytest.raises(NoDensity, match=f"step {index} has no noise"):
            replay(velocity, sampler, chain, index)
        with pytest.raises(NoDensity, match=f"step {index} was sampled without noise"):
            chain.logps(index)


def test_a_deterministic_sampler_has_no_log_probabilities():
    schedule, denoise = betas(4)
    sampler = ddim(schedule, eta=0.0)
    chain = sample(denoise, sampler, wide(2), generators=torch.Generator())
    assert sampler.stochastic == []
    with pytest.raises(NoDensity, match="eta > 0"):
        replay(denoise, sampler, chain, 0)


def test_the_last_step_without_noise_is_not_trained():
    """A schedule that ends at ā = 1 has std → 0 there; one that ends before keeps its density."""
    times = torch.arange(2).double()
    ends = beta_schedule(torch.tensor([0.1, 0.5, 1.0]), times=times)
    stays = beta_schedule(torch.tensor([0.1, 0.5, 0.99]), times=times)
    assert ancestral(ends).stochastic == [0]
    assert ancestral(stays).stochastic == [0, 1]


def test_a_branch_goes_on_where_a_chain_was():
    """From step 3 with the chain's noise: the same end; with other noise another, from the same start."""
    sampler = flow_grpo(flow(6))
    generator = torch.Generator().manual_seed(0)
    head = sample(velocity, sampler, wide(2), generators=generator, end=3)
    states = generator.get_state()
    tail = sample(velocity, sampler, head.final, generators=generator, first=3)
    whole = sample(velocity, sampler, wide(2), generators=torch.Generator().manual_seed(0))
    assert (head.end, tail.first, tail.end) == (3, 3, 6)
    assert torch.equal(tail.final, whole.final)
    for index in (3, 4, 5):
        assert torch.equal(tail.logps(index), whole.logps(index))
    other = sample(velocity, sampler, head.final, generators=torch.Generator().set_state(states), first=3)
    assert torch.equal(other.final, tail.final)
    branch = sample(velocity, sampler, whole.before(3), generators=torch.Generator().manual_seed(9), first=3)
    assert torch.equal(branch.before(3), whole.before(3))
    assert not torch.equal(branch.final, whole.final)
    with pytest.raises(IndexError, match="step 2 is not among the steps 3 to 5"):
        branch.before(2)


def test_steps_are_computed_in_the_latents_type():
    """A denoiser in bfloat16 does not make the step so: differences of log-probabilities are below 2⁻⁸."""
    schedule, denoise = betas(4)
    x = wide(2).float()
    coarse = step(lambda x, time: denoise(x, time).bfloat16(), ancestral(schedule), x, 1)
    fine = step(lambda x, time: denoise(x, time).bfloat16().float(), ancestral(schedule), x, 1)
    assert coarse.mean.dtype == torch.float32
    assert torch.equal(coarse.mean, fine.mean)


# Families


@pytest.mark.parametrize("autocast", [None, torch.bfloat16], ids=["fp32", "bf16"])
@pytest.mark.parametrize("gradient", [True, False], ids=["both branches", "one branch"])
def test_replay_gives_ratio_one_exactly(family, gradient, autocast):
    sampler = sampler_of(family)
    denoise = denoiser_of(family, gradient=gradient, autocast=autocast)
    generators = seeded(1, 2)
    start = start_noise(family.latent_shape(16, 16), generators, CPU)
    chain = sample(denoise, sampler, start, generators=generators)
    family.denoiser.requires_grad_(True)
    for index in sampler.stochastic:
        logps = replay(denoise, sampler, chain, index)
        assert logps.requires_grad
        assert (logps - chain.logps(index)).exp().tolist() == [1.0, 1.0]
    family.denoiser.requires_grad_(False)


def test_guidance_is_the_same_in_sampling_and_training(family):
    """Another scale replays to another ratio, so that a loop which forgets guidance shows."""
    if family.reads_guidance and not family.denoiser.config.get("guidance_embeds", True):
        pytest.skip("has no guidance")
    sampler, generators = sampler_of(family), seeded(1, 2)
    start = start_noise(family.latent_shape(16, 16), generators, CPU)
    chain = sample(denoiser_of(family, scale=3.0), sampler, start, generators=generators)
    index = sampler.stochastic[1]
    assert not torch.equal(replay(denoiser_of(family, scale=1.0), sampler, chain, index), chain.logps(index))


def test_the_branch_without_prompt_learns_only_if_asked(family):
    if family.reads_guidance:
        pytest.skip("never draws without a prompt")
    sampler, generators = sampler_of(family), seeded(1, 2)
    x = start_noise(family.latent_shape(16, 16), generators, CPU)
    family.denoiser.requires_grad_(True)
    found = []
    for gradient in (True, False):
        proposal = step(denoiser_of(family, gradient=gradient), sampler, x, 1)
        weight = family.denoiser.get_parameter(next(name for name, _ in family.denoiser.named_parameters()))
        found.append((proposal.mean.detach(), torch.autograd.grad(proposal.mean.square().sum(), weight)[0]))
    family.denoiser.requires_grad_(False)
    torch.testing.assert_close(found[0][0], found[1][0], atol=1e-4, rtol=1e-4)
    assert not torch.allclose(found[0][1], found[1][1], rtol=1e-2)


def test_without_noise_it_draws_what_the_pipeline_draws(family):
    """A consistency model's only step without noise is the last one."""
    scale, side = 3.0, max(16, family.pixel_multiple)
    steps = 1 if isinstance(family, LatentConsistency) else 4
    schedule = schedule_of(family, steps=steps, height=side, width=side)
    sampler = ddim(schedule, eta=0.0) if steps > 1 else consistency(schedule)
    start = start_noise(family.latent_shape(side, side), seeded(1, 2), CPU)
    final = sample(denoiser_of(family, scale=scale), sampler, start, generators=seeded(1, 2)).final
    with torch.no_grad():
        ours = [to_image(pixels) for pixels in family.decode_latents(final)]
    latents = start
    if hasattr(family.pipeline, "_pack_latents"):
        latents = family.pipeline._pack_latents(start, *start.shape)
    theirs = family.pipeline(
        ["a b", "c"],
        num_inference_steps=steps,
        guidance_scale=scale,
        height=side,
        width=side,
        latents=latents,
        output_type="pt",
        **family.sampling_options,
    ).images
    for one, other in zip(ours, theirs, strict=True):
        gap = (
            torch.tensor(list(one.tobytes())).int()
            - torch.tensor(list(to_image(other * 2 - 1).tobytes())).int()
        )
        assert gap.abs().max() <= 1


def test_a_chain_has_its_own_noise(family):
    """Whoever else is in the batch."""
    shape = family.latent_shape(16, 16)
    both = start_noise(shape, seeded(1, 2), CPU)
    assert torch.equal(start_noise(shape, seeded(2), CPU)[0], both[1])


def test_the_shift_of_a_flow_can_depend_on_the_size(tmp_path: Path):
    family = load_family(str(save_flux(tmp_path)), device=CPU)
    plain = schedule_of(family, steps=4, height=16, width=16)
    assert plain.sigmas.tolist() == pytest.approx([1, 0.75, 0.5, 0.25, 0])
    family.pipeline.scheduler.register_to_config(use_dynamic_shifting=True)
    small, large = (schedule_of(family, steps=4, height=side, width=side) for side in (16, 64))
    assert 0.75 < small.sigmas[1] < large.sigmas[1]


def test_drawing_chains_leaves_the_pipelines_scheduler_as_it_is(family):
    """Another number of steps, before the pipeline draws by itself."""
    scheduler = family.pipeline.scheduler
    before = dict(scheduler.config), scheduler.timesteps.tolist()
    sampler_of(family, steps=7)
    assert family.pipeline.scheduler is scheduler
    assert (dict(scheduler.config), scheduler.timesteps.tolist()) == before
