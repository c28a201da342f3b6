"""Diffusion-DPO's loss by hand, and its optimum on Gaussian data, where it is known."""

import math

import pytest
import torch
from diffusers import DDPMScheduler
from torch import nn

from training.tuning.images.errors import NoisyGroups, denoising_errors
from training.tuning.images.families.noise import BetaNoise
from training.tuning.images.families.stable_diffusion import StableDiffusion
from training.tuning.losses.diffusion_dpo import diffusion_dpo_loss, implicit_reward


def test_loss_by_hand():
    """β = 2: the logit is -(Δ_w - Δ_l); -ln σ(ln 3) = ln 4/3, and with the labels swapped -ln σ(-ln 3) = ln
    4.
    """
    better, same = torch.tensor([1 - math.log(3)]), torch.ones(1)
    forward = diffusion_dpo_loss(better, same, same, same, beta=2.0)
    backward = diffusion_dpo_loss(same, better, same, same, beta=2.0)
    torch.testing.assert_close(torch.cat([forward, backward]), torch.tensor([4 / 3, 4.0]).log())


def test_at_the_reference_loss_is_ln2_and_gradients_are_a_quarter_of_beta():
    beta = 5000.0
    chosen, rejected = (torch.tensor([0.3], requires_grad=True) for _ in range(2))
    loss = diffusion_dpo_loss(chosen, rejected, chosen.detach(), rejected.detach(), beta=beta)
    loss.sum().backward()
    assert loss.item() == pytest.approx(math.log(2), abs=1e-7)
    assert chosen.grad.item() == beta / 4
    assert rejected.grad.item() == -beta / 4


def test_swapping_the_labels_negates_the_logit():
    errors = torch.rand(4, 32, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    chosen, rejected, reference_chosen, reference_rejected = errors
    forward = diffusion_dpo_loss(chosen, rejected, reference_chosen, reference_rejected, beta=10.0)
    backward = diffusion_dpo_loss(rejected, chosen, reference_rejected, reference_chosen, beta=10.0)
    # -ln σ(-z) = z - ln σ(z)
    logit = implicit_reward(chosen, reference_chosen, beta=10.0)
    logit = logit - implicit_reward(rejected, reference_rejected, beta=10.0)
    torch.testing.assert_close(backward, forward + logit)


def test_the_mean_is_taken_outside_the_logarithm():
    """Two draws with logits ±2: mean(-ln σ) = ln(1 + e²) - 1, but -ln σ(mean) would be ln 2."""
    zero = torch.zeros(2)
    loss = diffusion_dpo_loss(torch.tensor([-2.0, 2.0]), zero, zero, zero, beta=2.0).mean()
    assert loss.item() == pytest.approx(math.log(1 + math.exp(2)) - 1, abs=1e-6)
    assert loss.item() > math.log(2) + 0.1


class Shifted(nn.Module):
    """The optimal ε of N(m, s²) data, ε* = σ(x - αm) / (α²s² + σ²), plus a shift that is trained."""

    def __init__(self, schedule: DDPMScheduler, *, mean: float, deviation: float) -> None:
        super().__init__()
        self.shift = nn.Parameter(torch.zeros((), dtype=torch.float64))
        self.alphas_cumprod = schedule.alphas_cumprod.double()
        self.mean, self.deviation = mean, deviation

    def forward(self, noisy, timesteps, *, encoder_hidden_states, added_cond_kwargs, return_dict):
        square = self.alphas_cumprod[timesteps].view(-1, 1, 1, 1)
        alpha, sigma = square.sqrt(), (1 - square).sqrt()
        noise = sigma * (noisy - alpha * self.mean) / (square * self.deviation**2 + 1 - square)
        return (noise + self.shift,)


@pytest.mark.parametrize("timestep", [200, 600])
def test_gaussian_optimum(timestep):
    """Annotators prefer larger means: P(w > l) = σ(a (x̄_w - x̄_l)).

    Moving ε by a constant δ changes the errors' difference by 2δ times that of the residuals
    ε* - ε, so with shared noise the logit is -β δ σα / (α²s² + σ²) (x̄_w - x̄_l): the optimum is
    δ = -a (α²s² + σ²) / (β α σ), exactly, whatever the sample.
    """
    mean, deviation, a, beta = 0.7, 1.3, 0.4, 3.0
    schedule = DDPMScheduler(beta_schedule="scaled_linear")
    family = object.__new__(StableDiffusion)  # a noise schedule is all that errors need of a family
    family.noise = BetaNoise(schedule)
    unet = Shifted(schedule, mean=mean, deviation=deviation)
    generator = torch.Generator().manual_seed(0)
    groups = 64
    shape = (2 * groups, 1, 2, 2)
    batch = NoisyGroups(
        latents=(mean + deviation * torch.randn(shape, generator=generator)).double(),
        owner=torch.arange(groups).repeat_interleave(2),
        noise=torch.randn((groups, *shape[1:]), generator=generator).double(),
        timesteps=torch.full((groups,), timestep),
        conditioning={"embeddings": torch.zeros(groups, 1, 1)},
    )
    means = batch.latents.flatten(1).mean(dim=1)
    preferred = torch.sigmoid(a * (means[::2] - means[1::2]))
    with torch.no_grad():
        reference = denoising_errors(family, unet, batch)
    optimizer = torch.optim.LBFGS(unet.parameters(), lr=1, max_iter=50, line_search_fn="strong_wolfe")

    def loss() -> torch.Tensor:
        optimizer.zero_grad()
        errors = denoising_errors(family, unet, batch)
        first, second = errors[::2], errors[1::2]
        first_reference, second_reference = reference[::2], reference[1::2]
        wins = diffusion_dpo_loss(first, second, first_reference, second_reference, beta=beta)
        losses = diffusion_dpo_loss(second, first, second_reference, first_reference, beta=beta)
        value = (preferred * wins + (1 - preferred) * losses).mean()
        value.backward()
        return value

    optimizer.step(loss)
    square = schedule.alphas_cumprod[timestep].item()
    expected = -a * (square * deviation**2 + 1 - square) / (beta * math.sqrt(square * (1 - square)))
    assert unet.shift.item() == pytest.approx(expected, rel=1e-3)
    # A smaller predicted noise leaves a larger mean behind: the model moves where people want it.
    assert unet.shift.item() < 0
