"""Better starting noise for one prompt: by the reward's gradient (ReNO), or by its value alone (FIND)."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn

from training.tuning.images.search.walk import Chosen, Latents, Score
from training.tuning.images.trajectories import draw_noise

Draw = Callable[[Latents], Latents]  # from starting noise to the picture's latents


def norm_penalty(noise: Latents) -> Float[Tensor, " N"]:
    """½‖ε‖² − (d − 1) ln ‖ε‖, in float32 at least: minus the log-density of a normal vector's length.

    Least at ‖ε‖ = √(d − 1). ReNO, arXiv:2406.04312.
    """
    flat = noise.flatten(1)
    flat = flat if flat.dtype == torch.float64 else flat.float()
    squares = flat.square().sum(dim=1)
    return squares / 2 - (flat.shape[1] - 1) / 2 * squares.log()


@dataclass(frozen=True)
class ByGradient:
    """Settings of ReNO, as the authors' code has them."""

    iterations: int = 50
    learning_rate: float = 5.0
    momentum: float = 0.9
    clip: float = 0.1
    penalty: float = 0.01


def optimise_noise(draw: Draw, reward: Score, noise: Latents, settings: ByGradient) -> Latents:
    """The iterate with the highest reward, of gradient ascent on the noise (1, …) of one picture.

    ``draw`` must be the same function at every call: for a chain that adds noise on the way, the same noise.
    There is no update after the last evaluation.
    """
    noise = noise.detach().clone().requires_grad_()
    optimizer = torch.optim.SGD(
        [noise], lr=settings.learning_rate, momentum=settings.momentum, nesterov=settings.momentum > 0
    )
    best, kept = -torch.inf, noise.detach().clone()
    for iteration in range(settings.iterations):
        with torch.set_grad_enabled(iteration + 1 < settings.iterations):
            found = reward(draw(noise)).sum()
        if float(found.detach()) > best:
            best, kept = float(found.detach()), noise.detach().clone()
        if iteration + 1 < settings.iterations:
            optimizer.zero_grad()
            (settings.penalty * norm_penalty(noise).sum() - found).backward()
            nn.utils.clip_grad_norm_([noise], settings.clip)
            optimizer.step()
    return kept


@dataclass(frozen=True)
class ByPolicy:
    """Settings of FIND, as the authors' code has them."""

    rounds: int = 300
    samples: int = 8
    updates: int = 5
    learning_rate: float = 1e-3
    value_learning_rate: float = 1e-4
    clip: float = 0.2
    clip_norm: float = 0.1
    reward_weight: float = 10.0
    penalty: float = 0.01


def noise_log_prob(noise: Latents, mean: Chosen, std: Chosen) -> Float[Tensor, " N"]:
    """log N(ε; μ, σ²), the mean over dimensions, as FIND takes it."""
    return torch.distributions.Normal(mean, std).log_prob(noise).flatten(1).mean(dim=1)


def find_loss(
    log_prob: Float[Tensor, " N"],
    old: Float[Tensor, " N"],
    advantage: Float[Tensor, " N"],
    mean: Chosen,
    std: Chosen,
    settings: ByPolicy,
) -> Float[Tensor, ""]:
    """−10 · mean(A · clamp(ρ, 1 ± 0.2)) + 0.01 · mean(μ² + (σ − 1)²): FIND's code; a clamp alone, no max.

    A sample whose ratio has left the band teaches nothing more.
    """
    ratio = (log_prob - old).exp().clamp(1 - settings.clip, 1 + settings.clip)
    pull = (mean.square() + (std - 1).square()).mean()
    return settings.penalty * pull - settings.reward_weight * (advantage.detach() * ratio).mean()


class Baseline(nn.Module):
    """What reward to expect from a noise distribution: of the means of μ and σ in every channel."""

    def __init__(self, channels: int, *, hidden: int = 64) -> None:
        super().__init__()
        last = nn.Linear(hidden, 1)
        nn.init.zeros_(last.weight)
        nn.init.zeros_(last.bias)
        self.layers = nn.Sequential(nn.Linear(2 * channels, hidden), nn.SiLU(), last)

    def forward(self, mean: Latents, std: Latents) -> Float[Tensor, ""]:
        seen = torch.cat([mean.mean(dim=(0, 2, 3)), std.mean(dim=(0, 2, 3))]).detach()
        return self.layers(seen.float())[0]


@dataclass(frozen=True)
class NoiseDistribution:
    """N(μ, diag σ²) of starting noise; each (1, C, h, w)."""

    mean: Latents
    std: Latents

    def sample(self, count: int, generator: torch.Generator) -> Latents:
        """Noises (count, C, h, w)."""
        spread = self.mean.expand(count, -1, -1, -1)
        return spread + self.std * draw_noise(spread, generator)


def fit_noise(
    draw: Draw,
    reward: Score,
    shape: tuple[int, int, int],
    settings: ByPolicy,
    *,
    generator: torch.Generator,
    device: torch.device,
) -> NoiseDistribution:
    """The distribution of noise that draws well, by policy gradient: any reward will do. FIND.

    Each round draws pictures from the current distribution, compares their rewards with a learned baseline,
    and moves μ and σ with the ratio to the distribution that drew them.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(generator.initial_seed())
        baseline = Baseline(shape[0]).to(device)
    mean = nn.Parameter(torch.zeros(1, *shape, device=device))
    std = nn.Parameter(torch.ones(1, *shape, device=device))
    policy = torch.optim.AdamW([mean, std], lr=settings.learning_rate, weight_decay=0.0)
    value = torch.optim.AdamW(baseline.parameters(), lr=settings.value_learning_rate)
    for _ in range(settings.rounds):
        now = NoiseDistribution(mean.detach().clone(), std.detach().clone())
        noise = now.sample(settings.samples, generator)
        with torch.no_grad():
            rewards = reward(draw(noise)).float()
            old = noise_log_prob(noise, now.mean, now.std)
            advantage = rewards - baseline(now.mean, now.std)
        for _ in range(settings.updates):
            policy.zero_grad()
            find_loss(noise_log_prob(noise, mean, std), old, advantage, mean, std, settings).backward()
            nn.utils.clip_grad_norm_([mean, std], settings.clip_norm)
            policy.step()
            with torch.no_grad():
                std.clamp_(min=1e-4)
        for _ in range(settings.updates):
            value.zero_grad()
            (rewards - baseline(now.mean, now.std)).square().mean().backward()
            value.step()
    return NoiseDistribution(mean.detach(), std.detach())
