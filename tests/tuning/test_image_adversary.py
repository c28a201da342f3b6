"""Adv-GRPO: a reward model that is trained against the policy."""

import math
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from tests.tuning.image_models import save_pipeline
from tests.tuning.image_runs import make_run, metrics, pair_rows, run
from training.tuning.errors import EXIT_BAD_INPUT, EXIT_DONE
from training.tuning.losses.advantages import group_relative
from training.tuning.losses.adversarial import hinge_loss, pairs_loss

QUICK: dict[str, Any] = {
    "max_steps": 4,
    "batch_size": 2,
    "num_generations": 3,
    "micro_batch_size": 3,
    "lora": {"r": 4, "alpha": 4, "target_modules": "all-linear"},
    "learning_rate": 1e-3,
    "samples": 0,
    "num_inference_steps": 3,
    "guidance_scale": 1.0,
    "height": 16,
    "width": 16,
    "adversary_learning_rate": 1e-2,
    "save_every": 2,
}


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_pipeline(tmp_path_factory.mktemp("pipeline"))


@pytest.fixture(scope="module")
def reward(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("reward")
    make_run(folder, "image_reward_model", base=None, config={"max_steps": 1, "width": 16, "hidden": 4})
    assert run(folder) == EXIT_DONE
    return folder / "result"


def make(folder: Path, base: Path, reward: Path, **changes: Any) -> Path:
    rows = pair_rows(folder / "data" / "media", count=4)
    entries = [{"model": str(reward)}]
    return make_run(folder, "adv_grpo", base=base, config=QUICK | changes, rows=rows, reward=entries)


def weights(folder: Path, step: int) -> dict[str, torch.Tensor]:
    return load_file(folder / f"checkpoint-{step:06d}" / "weights.safetensors")


@pytest.mark.system("s003-057")
def test_the_adversary_s_losses_by_hand():
    """No difference: ln 2, and ½ (1 + 1) = 1 for the hinge; two apart around 0 the hinge is over."""
    zero = torch.zeros(1)
    assert pairs_loss(zero, zero).item() == pytest.approx(math.log(2))
    assert hinge_loss(zero, zero).item() == 1.0
    assert hinge_loss(torch.tensor([0.5]), torch.tensor([-0.2])).item() == pytest.approx((0.5 + 0.8) / 2)
    assert hinge_loss(torch.tensor([1.0]), torch.tensor([-1.5])).item() == 0.0


@pytest.mark.system("s003-057")
@pytest.mark.parametrize("loss", [pairs_loss, hinge_loss])
def test_a_reward_that_learns_is_not_hacked(loss):
    """Pictures are numbers, drawn from N(θ, 1); liked ones are near 1. A reward r = a x with a > 0 is hacked:
    group-relative ascent drives θ beyond 10. With r = a x − b x² trained against the policy, θ stays at 1.
    """
    generator = torch.Generator().manual_seed(0)
    ends = []
    for learns in (False, True):
        theta, features = torch.zeros(()), torch.tensor([0.5, 0.0])
        path = []
        for _ in range(600):
            drawn = theta + torch.randn(8, 16, generator=generator)
            liked = 1 + torch.randn(8, 16, generator=generator)
            scores = features[0] * drawn - features[1] * drawn**2
            advantages = group_relative(scores, scale="none")
            theta = theta + 0.1 * (advantages * (drawn - theta)).mean().clamp(-1, 1)
            if learns:
                now = features.clone().requires_grad_()
                real, fake = (now[0] * x - now[1] * x**2 for x in (liked.flatten(), drawn.flatten()))
                (slope,) = torch.autograd.grad(loss(real, fake).mean(), now)
                features = 0.97 * (features - 0.2 * slope)
            path.append(float(theta))
        ends.append(sum(path[-300:]) / 300)
    assert ends[0] > 10
    assert ends[1] == pytest.approx(1, abs=0.3)


def test_the_reward_learns_in_every_step_and_the_policy_in_some(base, reward, tmp_path):
    """Policy every 4: it has not moved at step 2, when the reward has; the first ratio is exactly 1."""
    folder = make(tmp_path, base, reward, policy_every=4)
    assert run(folder) == EXIT_DONE
    rows = metrics(folder)
    assert ["ratio_error" in row for row in rows] == [False, False, False, True]
    assert rows[-1]["ratio_error"] == 0
    assert rows[-1]["adversary/loss"] < rows[0]["adversary/loss"]
    assert 0 <= rows[0]["adversary/accuracy"] <= 1
    two, four = weights(folder, 2), weights(folder, 4)
    before = load_file(reward / "reward.safetensors")
    policy = [name for name in two if name.startswith("policy.") and "lora_B" in name]
    assert policy
    assert all(float(two[name].abs().max()) == 0 for name in policy)
    assert any(float(four[name].abs().max()) > 0 for name in policy)
    judge = [name for name in two if name.startswith("reward.")]
    assert any(not torch.equal(two[name], before[name.removeprefix("reward.")]) for name in judge)
    assert any(not torch.equal(two[name], four[name]) for name in judge)


@pytest.mark.parametrize("adversary", ["pairs", "hinge"])
def test_it_resumes_exactly(base, reward, tmp_path, adversary):
    """Interrupted after two steps: the same policy and the same reward, to the bit."""
    whole = make(tmp_path / "whole", base, reward, adversary=adversary)
    half = make(tmp_path / "half", base, reward, adversary=adversary)
    for folder in (whole, half):
        assert run(folder) == EXIT_DONE
    for gone in ("result", "checkpoint-000004"):
        shutil.rmtree(half / gone)
    assert run(half) == EXIT_DONE
    one, other = weights(whole, 4), weights(half, 4)
    assert all(torch.equal(value, other[name]) for name, value in one.items())


def test_what_it_needs(base, reward, tmp_path, capsys):
    rules = [{"rule": "brightness"}]
    rows = pair_rows(tmp_path / "rules" / "data" / "media", count=2)
    folder = make_run(tmp_path / "rules", "adv_grpo", base=base, config=QUICK, rows=rows, reward=rules)
    assert run(folder) == EXIT_BAD_INPUT
    assert "must be an image reward model" in capsys.readouterr().err
    rows = [{"prompt": "a b"}]
    entries = [{"model": str(reward)}]
    folder = make_run(tmp_path / "none", "adv_grpo", base=base, config=QUICK, rows=rows, reward=entries)
    assert run(folder) == EXIT_BAD_INPUT
    assert "no preferred picture for the adversary" in capsys.readouterr().err
