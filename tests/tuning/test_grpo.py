"""GRPO and its variants on tiny models: step 0, invariance, learning, resuming."""

from pathlib import Path
from typing import Any

import pytest
import torch

from tests.tuning.text_models import save_causal
from tests.tuning.text_runs import make_run, metrics, result_weights, run, state
from training.tuning.__main__ import main
from training.tuning.losses.advantages import entropy_guided_weights
from training.tuning.text.variants import VARIANTS

PROMPTS = [
    {"prompt": prompt} for prompt in ("Why?", "How do I do it?", "Who", "Where is it", "When?", "And?")
]
WORDS = [{"rule": "words"}]
VOWELS = [{"rule": "pattern:[aeiou]"}]  # 0 or 1
QUICK: dict[str, Any] = {
    "max_new_tokens": 6,
    "num_generations": 4,
    "batch_size": 3,
    "max_steps": 3,
    "log_every": 1,
    "samples": 0,
    "learning_rate": 1e-2,
    "warmup": 0,
}


@pytest.fixture(scope="module")
def llama(tmp_path_factory: Any) -> Path:
    return save_causal(tmp_path_factory.mktemp("llama"), "llama", sharp=False)


def make(folder: Path, base: Path, *, reward: Any = WORDS, method: str = "grpo", **config: Any) -> Path:
    """A run; keys of ``QUICK`` that a method does not have are given as None, to be left out."""
    keys = {name: value for name, value in (QUICK | config).items() if value is not None or name == "lora"}
    return make_run(folder, method, base=base, config=keys, rows=PROMPTS, reward=reward)


@pytest.mark.parametrize("loss", sorted(VARIANTS))
def test_every_variant_starts_on_policy(tmp_path: Path, llama: Path, loss: str) -> None:
    """Ratio one exactly, so that nothing is clipped, and no divergence from the reference."""
    reward = VOWELS if loss in ("nft", "w_reinforce") else WORDS
    folder = make(tmp_path / "run", llama, loss=loss, reward=reward, max_steps=2)
    assert run(folder) == 0
    first, second = metrics(folder)
    assert (first["kl"], first["clip_share"]) == (0, 0)
    assert first["answers/logprob_gap"] < 1e-4
    assert second["kl"] != 0
    assert any(bool(value.any()) for name, value in result_weights(folder).items() if "lora_B" in name)


@pytest.mark.parametrize("loss", ["grpo", "dr_grpo", "dapo", "gspo", "troll"])
def test_how_a_step_is_split_changes_nothing(tmp_path: Path, llama: Path, loss: str) -> None:
    whole = make(tmp_path / "whole", llama, loss=loss)
    parts = make(tmp_path / "parts", llama, loss=loss, micro_batch_size=1, generation_batch_size=4)
    assert run(whole) == run(parts) == 0
    for one, other in zip(metrics(whole), metrics(parts), strict=True):
        assert one == pytest.approx(other, abs=2e-4, rel=1e-3)
    for name, value in result_weights(whole).items():
        torch.testing.assert_close(value, result_weights(parts)[name], atol=2e-4, rtol=1e-2)


def test_resumed_equals_uninterrupted(tmp_path: Path, llama: Path) -> None:
    config = {"max_steps": 4, "save_every": 2, "updates": 2}
    whole = make(tmp_path / "whole", llama, **config)
    assert run(whole) == 0
    parts = make(tmp_path / "parts", llama, **config)
    cut = make(tmp_path / "cut", llama, **config)
    assert run(cut) == 0
    (cut / "checkpoint-000002").rename(parts / "checkpoint-000002")
    assert main([str(parts)]) == 0
    assert metrics(parts)[-2:] == metrics(whole)[-2:]
    for name, value in result_weights(whole).items():
        assert torch.equal(value, result_weights(parts)[name])


def test_it_learns_what_is_rewarded(tmp_path: Path, llama: Path) -> None:
    """Answers of one token; those with a vowel are rewarded."""
    folder = make(
        tmp_path / "run",
        llama,
        reward=VOWELS,
        lora=None,
        learning_rate=3e-3,
        scheduler="constant",
        max_steps=60,
        num_generations=16,
        max_new_tokens=1,
        beta=0.0,
        batch_size=6,
    )
    assert run(folder) == 0
    rewards = [row["reward"] for row in metrics(folder)]
    assert sum(rewards[:3]) / 3 < 0.5
    assert sum(rewards[-3:]) / 3 > 0.9


def test_resampling_replaces_even_groups(tmp_path: Path, llama: Path) -> None:
    config = {"reward": VOWELS, "num_generations": 2, "max_new_tokens": 1, "max_steps": 1, "batch_size": 4}
    plain, again = (
        make(tmp_path / "plain", llama, **config),
        make(tmp_path / "again", llama, resample=8, **config),
    )
    assert run(plain) == run(again) == 0
    assert metrics(again)[0]["answers/even"] < metrics(plain)[0]["answers/even"]


@pytest.mark.system("s000-093")
def test_mastered_prompts_are_rehearsed_and_not_rewarded(tmp_path: Path, llama: Path) -> None:
    """A reward that everything earns leaves rehearsal alone, whose gradient at the start is zero."""
    folder = make(
        tmp_path / "run", llama, reward=[{"rule": "pattern:$"}], mastered="forward_kl", max_steps=2, beta=0.0
    )
    assert run(folder) == 0
    rows = metrics(folder)
    assert [row["loss/mastered"] for row in rows] == pytest.approx([0, 0], abs=1e-6)
    assert all(row["grad_norm"] == pytest.approx(0, abs=1e-5) for row in rows)
    assert "reward" not in rows[0]


def test_evaluation_and_options_that_have_no_use(tmp_path: Path, llama: Path, capsys: Any) -> None:
    folder = make_run(
        tmp_path / "run", "grpo", base=llama, config=QUICK | {"max_steps": 1}, rows=PROMPTS,
        held_out=[{"prompt": "Which?"}], reward=WORDS,
    )  # fmt: skip
    assert run(folder) == 0
    assert {"eval/reward", "eval/kl", "eval/answers/length"} <= set(metrics(folder)[-1])
    for config, message in [
        ({"trust_region": 0.1}, 'trust_region has no use with the loss "grpo"'),
        ({"loss": "nft", "clip": 0.1}, 'the loss "nft" does not clip'),
        ({"overlong_buffer": 6}, "overlong_buffer must be shorter"),
    ]:
        assert run(make(tmp_path / message[:9], llama, **config)) == 1
        assert message in capsys.readouterr().err
    assert run(make(tmp_path / "none", llama, reward=None)) == 1
    assert "grpo needs a list of rewards" in capsys.readouterr().err
    assert state(folder)["status"] == "done"


@pytest.mark.system("s000-068")
def test_good_and_uncertain_answers_count_most(tmp_path: Path, llama: Path) -> None:
    """Advantages 0 and ln 3 weigh ½ and 1½, whatever the entropy if alpha is 0; entropy ln 3 of the first
    makes them even. A huge temperature is no weighting at all."""
    advantages, entropies = torch.tensor([[0.0, 3.0]]), torch.tensor([[3.0, 1.0]])
    advantages[0, 1] = entropies[0, 0] = torch.tensor(3.0).log()
    entropies[0, 1] = 0
    plain = entropy_guided_weights(advantages, entropies, alpha=0.0, temperature=1.0)
    torch.testing.assert_close(plain, torch.tensor([[0.5, 1.5]]))
    even = entropy_guided_weights(advantages, entropies, alpha=1.0, temperature=1.0)
    torch.testing.assert_close(even, torch.ones(1, 2))
    runs = {
        name: make(tmp_path / name, llama, **keys)
        for name, keys in {
            "plain": {},
            "flat": {"entropy_weight": 1.0, "entropy_temperature": 1e6},
            "sharp": {"entropy_weight": 0.0, "entropy_temperature": 0.3},
        }.items()
    }
    assert all(run(folder) == 0 for folder in runs.values())
    weights = {name: result_weights(folder) for name, folder in runs.items()}
    for name, value in weights["plain"].items():
        torch.testing.assert_close(weights["flat"][name], value, atol=1e-4, rtol=1e-2)
    gaps = [float((weights["sharp"][name] - value).abs().max()) for name, value in weights["plain"].items()]
    assert max(gaps) > 1e-3
