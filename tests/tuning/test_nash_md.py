"""Nash-MD: the equilibrium of a cyclic preference, the mixture, and runs."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.tuning.test_grpo import QUICK, VOWELS, make
from tests.tuning.text_runs import metrics, result_weights, run
from training.tuning.__main__ import main
from training.tuning.config import LoraConfig
from training.tuning.losses.nash import nash_advantages, win_probabilities
from training.tuning.losses.policy_gradient import policy_gradient
from training.tuning.methods.nash_md import opponent
from training.tuning.text.attention import ordinary_attention
from training.tuning.text.generation import sample_answers, sample_tokens, uniforms
from training.tuning.text.loading import load_for_training

# Rock beats scissors .9, scissors paper .8, paper rock .7: no reward says so.
CYCLE = torch.tensor([[0.5, 0.3, 0.9], [0.7, 0.5, 0.2], [0.1, 0.8, 0.5]], dtype=torch.float64)
START = torch.tensor([0.6, 0.2, 0.2], dtype=torch.float64).log()
BETA = 0.2


@pytest.fixture(scope="module")
def llama(learner: Callable[[str], Path]) -> Path:
    return learner("llama")


def geometric_mixture(policy: Tensor, reference: Tensor, *, share: float) -> Tensor:
    """log of π^(1−share) π_ref^share, normalised: the opponent of Nash-MD, from logits of both."""
    mixed = (1 - share) * policy.log_softmax(dim=1) + share * reference.log_softmax(dim=1)
    return mixed.log_softmax(dim=1)


def equilibrium() -> Tensor:
    """Log of π = π_ref exp(P(· ≻ π) / β), normalised: the game's only symmetric equilibrium; by damped
    iteration."""
    policy = START
    for _ in range(4000):
        best = (START + CYCLE @ policy.exp() / BETA).log_softmax(0)
        policy = (0.98 * policy + 0.02 * best).log_softmax(0)
    return policy


def solve(share: float, *, steps: int, generator: torch.Generator) -> Tensor:
    """Nash-MD by its own functions: sampled answers, sampled opponents, sampled preferences."""
    logits = START.clone().requires_grad_()
    optimizer = torch.optim.Adam([logits], lr=0.01)
    path = []
    for step in range(steps):
        logp = logits.log_softmax(0)
        mixture = geometric_mixture(logits.detach()[None], START[None], share=share)[0]
        own = torch.multinomial(logp.exp().detach(), 256, replacement=True, generator=generator)
        other = torch.multinomial(mixture.exp(), 256, replacement=True, generator=generator)
        wins = torch.rand(256, generator=generator, dtype=torch.float64) < CYCLE[own, other]
        advantages = nash_advantages(wins.double(), (logp - START)[own], beta=BETA)
        optimizer.zero_grad()
        policy_gradient(logp[own], advantages).mean().backward()
        optimizer.step()
        if step > steps // 2:
            path.append(logits.detach().log_softmax(0).exp())
    return torch.stack(path).mean(0)


def test_a_cyclic_preference_ends_in_its_equilibrium() -> None:
    """Against itself (mixture 0) the policy comes to rest where π = π_ref exp(P(· ≻ π)/β): no reward model
    has this optimum, and no other policy is preferred to it by more than what the divergence pays."""
    wanted = equilibrium().exp()
    assert (wanted - START.exp()).abs().max() > 0.05
    found = solve(0.0, steps=3000, generator=torch.Generator().manual_seed(0))
    assert (found - wanted).abs().max() < 0.02
    game = CYCLE @ wanted - BETA * (wanted.log() - START)
    torch.testing.assert_close(game, game.mean().expand(3), atol=1e-6, rtol=0)


def test_the_mixture_by_hand() -> None:
    """π (.8, .2), π_ref (.2, .8): half and half in the exponent is even; shares 0 and 1 are the two."""
    policy, reference = torch.tensor([[0.8, 0.2]]).log(), torch.tensor([[0.2, 0.8]]).log()
    for share, wanted in ((0.5, [0.5, 0.5]), (0.0, [0.8, 0.2]), (1.0, [0.2, 0.8])):
        mixed = geometric_mixture(policy, reference, share=share).exp()[0].tolist()
        assert mixed == pytest.approx(wanted)


def test_who_wins_by_hand() -> None:
    """Rewards ln 3 apart: 3/4. Scores that are probabilities, .7 and .3, say .7."""
    rewards = torch.tensor([[1.0986123, 0.0], [0.7, 0.3]])
    assert win_probabilities(rewards, are_probabilities=False)[0].item() == pytest.approx(0.75)
    assert win_probabilities(rewards, are_probabilities=True)[1].item() == pytest.approx(0.7)
    advantages = nash_advantages(torch.tensor([0.75]), torch.tensor([2.0]), beta=0.1)
    assert advantages.item() == pytest.approx(0.75 - 0.5 - 0.2)


def test_the_opponent_writes_as_the_mixture(llama: Path) -> None:
    """Its first token is that of the mixture of both models' logits, with the same random number."""
    torch.manual_seed(0)
    policy = load_for_training(
        str(llama), kind="causal", lora=LoraConfig(), lora_was_set=False, precision="fp32",
        device=torch.device("cpu"),
    )  # fmt: skip
    with torch.no_grad():
        for name, value in policy.model.named_parameters():
            if "lora_B" in name:
                value += torch.randn(value.shape)
    frozen, ids, keys = policy.frozen_start(), [40, 41, 42], [str(number) for number in range(40)]
    guided = opponent(policy, frozen, share=0.3)
    found = sample_answers(policy, [ids], keys=keys, max_new_tokens=3, temperature=1.0, guided=guided)
    with torch.no_grad(), ordinary_attention(policy.inner):
        now = policy.inner(torch.tensor([ids])).logits[:, -1]
        with frozen():
            start = policy.inner(torch.tensor([ids])).logits[:, -1]
    mixed = geometric_mixture(now, start, share=0.3).expand(40, -1)
    wanted = sample_tokens(mixed, uniforms(keys, 1)[:, 0], temperature=1.0, top_p=1.0)
    assert [one.ids[0] for one in found] == wanted.tolist()
    assert [one.logprobs[0] for one in found] == pytest.approx(mixed[0][wanted].tolist(), abs=1e-5)


SETTINGS: dict[str, Any] = {"num_generations": None, "method": "nash_md"}


def test_first_step_is_on_policy_and_resuming_is_exact(tmp_path: Path, llama: Path) -> None:
    config = SETTINGS | {"max_steps": 4, "save_every": 2}
    whole, parts, cut = (make(tmp_path / name, llama, **config) for name in ("whole", "parts", "cut"))
    assert run(whole) == run(cut) == 0
    assert metrics(whole)[0]["kl"] == 0
    assert metrics(whole)[1]["kl"] != 0
    (cut / "checkpoint-000002").rename(parts / "checkpoint-000002")
    assert main([str(parts)]) == 0
    assert metrics(parts)[-2:] == metrics(whole)[-2:]
    for name, value in result_weights(whole).items():
        assert torch.equal(value, result_weights(parts)[name])


def test_it_learns_what_is_preferred(tmp_path: Path, llama: Path) -> None:
    """With Bradley-Terry's preference of a reward, what wins is what is rewarded."""
    config: dict[str, Any] = {
        "lora": None, "learning_rate": 3e-3, "scheduler": "constant", "max_steps": 120, "max_new_tokens": 1,
        "batch_size": 6, "beta": 0.01,
    }  # fmt: skip
    reward = [VOWELS[0] | {"weight": 5.0}]
    folder = make(tmp_path / "run", llama, reward=reward, **SETTINGS | config)
    assert run(folder) == 0
    rewards = [row["reward"] for row in metrics(folder)]
    assert sum(rewards[:4]) / 4 < 2.5
    assert sum(rewards[-8:]) / 8 > 3.5
    assert "learning_rate" in QUICK
