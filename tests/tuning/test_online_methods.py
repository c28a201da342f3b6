"""RLOO, PPO, online DPO and best of n on tiny models: step 0, invariance, resuming, what each is about."""

from pathlib import Path
from typing import Any

import pytest
import torch

from tests.tuning.test_grpo import VOWELS, make
from tests.tuning.text_models import save_causal
from tests.tuning.text_runs import metrics, result_weights, run
from training.tuning.__main__ import main
from training.tuning.rewards.spec import parse_rewards
from training.tuning.run import Run
from training.tuning.rundir import RunDir
from training.tuning.text.generation import Answer
from training.tuning.text.judging import Judge
from training.tuning.text.rollouts import lay_out, make_rollout, open_prompts
from training.tuning.text.setup import open_group_tokenizer, open_policy

SETTINGS: dict[str, dict[str, Any]] = {
    "rloo": {"num_generations": 4},
    "ppo": {"updates": 2, "minibatches": 2, "micro_batch_size": 1, "kl_target": 1.0},
    "online_dpo": {},
    "best_of_n": {"num_generations": 4},
}
ONE_TOKEN: dict[str, Any] = {
    "lora": None,
    "learning_rate": 3e-3,
    "scheduler": "constant",
    "max_steps": 60,
    "max_new_tokens": 1,
    "batch_size": 6,
}


@pytest.fixture(scope="module")
def llama(tmp_path_factory: Any) -> Path:
    return save_causal(tmp_path_factory.mktemp("llama"), "llama", sharp=False)


def settle(method: str, **changes: Any) -> dict[str, Any]:
    """``make`` gives keys for GRPO; those that a method does not have are left out."""
    options = SETTINGS[method] | changes
    return options if "num_generations" in options else {"num_generations": None, **options}


def start(folder: Path, base: Path, method: str, **changes: Any) -> Path:
    return make(folder, base, method=method, **settle(method, **changes))


@pytest.mark.parametrize("method", sorted(SETTINGS))
def test_first_step_is_on_policy(tmp_path: Path, llama: Path, method: str) -> None:
    folder = start(tmp_path / "run", llama, method, max_steps=2)
    assert run(folder) == 0
    first, second = metrics(folder)
    assert first["kl"] == 0
    assert second["kl"] != 0
    assert any(bool(value.any()) for name, value in result_weights(folder).items() if "lora_B" in name)


def test_online_dpo_starts_at_ln_2(tmp_path: Path, llama: Path) -> None:
    folder = start(tmp_path / "run", llama, "online_dpo", max_steps=1)
    assert run(folder) == 0
    (row,) = metrics(folder)
    assert row["loss"] == pytest.approx(0.6931471805599453, abs=1e-6)
    assert (row["rewards/margin"], row["rewards/accuracy"]) == (0, 0.5)


@pytest.mark.parametrize("method", sorted(SETTINGS))
def test_resumed_equals_uninterrupted(tmp_path: Path, llama: Path, method: str) -> None:
    config = {"max_steps": 4, "save_every": 2}
    whole, parts, cut = (
        start(tmp_path / name, llama, method, **config) for name in ("whole", "parts", "cut")
    )
    assert run(whole) == run(cut) == 0
    (cut / "checkpoint-000002").rename(parts / "checkpoint-000002")
    assert main([str(parts)]) == 0
    assert metrics(parts)[-2:] == metrics(whole)[-2:]
    for name, value in result_weights(whole).items():
        assert torch.equal(value, result_weights(parts)[name])


@pytest.mark.parametrize("method", ["rloo", "online_dpo", "best_of_n"])
def test_how_a_step_is_split_changes_nothing(tmp_path: Path, llama: Path, method: str) -> None:
    whole = start(tmp_path / "whole", llama, method)
    parts = start(tmp_path / "parts", llama, method, micro_batch_size=1, generation_batch_size=4)
    assert run(whole) == run(parts) == 0
    for one, other in zip(metrics(whole), metrics(parts), strict=True):
        assert one == pytest.approx(other, abs=2e-4, rel=1e-3)


@pytest.mark.parametrize(
    ("method", "config"),
    [
        ("rloo", {"beta": 0.0, "num_generations": 8}),
        ("ppo", {"beta": 0.0, "minibatches": 1, "kl_target": None, "micro_batch_size": None}),
        (
            "ppo",
            {
                "beta": 0.1,
                "loss": "apa",
                "batch_size": 6,
                "max_steps": 150,
                "minibatches": 1,
                "kl_target": None,
                "micro_batch_size": None,
            },
        ),
        ("online_dpo", {"beta": 0.02, "max_steps": 200}),
        ("best_of_n", {"num_generations": 8}),
    ],
    ids=["rloo", "ppo", "apa", "online_dpo", "best_of_n"],
)
def test_it_learns_what_is_rewarded(tmp_path: Path, llama: Path, method: str, config: dict[str, Any]) -> None:
    folder = start(tmp_path / "run", llama, method, reward=VOWELS, **ONE_TOKEN | config)
    assert run(folder) == 0
    rewards = [row["reward"] for row in metrics(folder)]
    assert sum(rewards[:4]) / 4 < 0.5
    assert sum(rewards[-4:]) / 4 > 0.85


def test_ppo_steers_its_kl_weight(tmp_path: Path, llama: Path) -> None:
    """KL 0 in the first step is all below the target: beta falls by a fifth of 3 / 10."""
    folder = start(tmp_path / "run", llama, "ppo", kl_horizon=10, max_steps=2)
    assert run(folder) == 0
    first, second = metrics(folder)
    assert first["beta"] == 0.05
    assert second["beta"] == pytest.approx(0.05 * (1 - 0.2 * 3 / 10))


@pytest.mark.system("s004-029")
def test_best_of_n_keeps_by_order_alone(tmp_path: Path, llama: Path) -> None:
    """A strictly increasing transform of the reward leaves the trained weights as they are."""
    plain = start(tmp_path / "plain", llama, "best_of_n")
    bent = start(
        tmp_path / "bent", llama, "best_of_n", reward=[{"rule": "words", "transform": [{"name": "sigmoid"}]}]
    )
    assert run(plain) == run(bent) == 0
    assert metrics(plain)[0]["reward"] != metrics(bent)[0]["reward"]
    for name, value in result_weights(plain).items():
        assert torch.equal(value, result_weights(bent)[name])
    assert metrics(plain)[0]["reward/kept"] > metrics(plain)[0]["reward"]


def test_exploration_needs_the_reference(tmp_path: Path, llama: Path, capsys: Any) -> None:
    assert run(start(tmp_path / "bad", llama, "online_dpo", alpha=0.1)) == 1
    assert "alpha needs second=reference" in capsys.readouterr().err
    folder = start(tmp_path / "xpo", llama, "online_dpo", alpha=1e-3, second="reference", labels="sampled")
    assert run(folder) == 0
    assert metrics(folder)[-1]["step"] == 3


@pytest.mark.system("s001-021")
def test_implicit_rewards_go_to_their_tokens(tmp_path: Path, llama: Path) -> None:
    """RTO: clip(beta log pi_dpo / pi_ref) for every token; without the clip their sum is the answer's."""
    tuned = start(tmp_path / "tuned", llama, "rloo", max_steps=2)
    assert run(tuned) == 0
    tokens = {"model": str(tuned / "result"), "weight": 0.5, "credit": "tokens"}
    clip = {"name": "clip", "low": -0.1, "high": 0.1}  # before the weight, so 0.05 after it
    reward = [tokens | {"transform": clip}, {"rule": "words"}]
    folder = start(tmp_path / "run", llama, "ppo", reward=reward)
    training = Run(RunDir(folder))
    policy = open_policy(training, kind="causal")
    frozen = policy.frozen_start()
    tokenizer = open_group_tokenizer(training.base, max_length=None)
    prompts = open_prompts(training.train, tokenizer, run=training)
    rollouts = []
    for number, prompt in enumerate(prompts):
        (ids,) = tokenizer.encode(prompt.text, ["a short answer " * (1 + number % 2)]).answers
        rollouts.append(make_rollout(policy, prompt, [Answer(ids, [0.0] * len(ids), ended=True)]))
    step = lay_out(policy, frozen, rollouts, training.config)
    found = {}
    for name, first in (("free", tokens), ("clipped", reward[0]), ("whole", tokens | {"credit": None})):
        training.reward = parse_rewards([first, {"rule": "words"}], modality="text")
        judge = Judge(training, policy, frozen, prompts, context=tokenizer.context)
        found[name] = judge.score(rollouts)
    free, clipped, whole = found["free"], found["clipped"], found["whole"]
    torch.testing.assert_close(free.whole, free.scored.scores[:, 1])  # the words alone are left to the answer
    torch.testing.assert_close(step.sums(free.tokens), whole.scored.parts[:, 0], atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(free.total, whole.total, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(clipped.tokens, free.tokens.clamp(-0.05, 0.05))
    assert float(free.tokens.abs().max()) > 0.05
    assert run(folder) == 0


def test_token_rewards_need_a_tuned_policy(tmp_path: Path, llama: Path, capsys: Any) -> None:
    reward = [{"rule": "words", "credit": "tokens"}]
    assert run(start(tmp_path / "run", llama, "ppo", reward=reward)) == 1
    assert 'the credit "tokens" needs a model' in capsys.readouterr().err
