"""Writing answers as rewards would have it: best of n, guided tokens, accepted segments."""

import math
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.tuning.text_models import save_causal
from tests.tuning.text_runs import make_run, pair_rows, read_rows, run
from training.tuning.rewards.compose import open_rewards
from training.tuning.rewards.selection import acceptance, segment_start, segment_threshold
from training.tuning.rewards.spec import parse_rewards
from training.tuning.text.guided import Segments, guided_logits, write_by_segments
from training.tuning.text.loading import load_for_use

WRITE = {"max_new_tokens": 12, "samples_per_prompt": 2}
CPU = torch.device("cpu")


def answers(tmp_path: Path, base: Path, reward: Any = None, **config: Any) -> list[str]:
    rows = [{"prompt": row["prompt"]} for row in pair_rows(3)]
    more = {"reward": reward} if reward else {}
    folder = make_run(tmp_path, "generate", base=base, config=WRITE | config, rows=rows, **more)
    assert run(folder) == 0
    found = read_rows(folder / "result" / "generations.jsonl")
    return [candidate["text"] for row in found for candidate in row["candidates"]]


@pytest.mark.system("s001-011")
def test_guided_tokens_by_hand() -> None:
    """Base (.5, .5), guide (.8, .2): α = 1 → (.8, .2); 2 → (.9412, .0588); 0, or uniform → the base."""
    base = torch.tensor([[0.5, 0.5]]).log()
    reward = torch.tensor([[0.8, 0.2]]).log() + 3  # logits have no fixed offset
    uniform = torch.zeros(1, 2)
    for guides, weights, expected in (
        ([reward], [1.0], [0.8, 0.2]),
        ([reward], [2.0], [0.9412, 0.0588]),
        ([reward], [0.0], [0.5, 0.5]),
        ([uniform], [1.0], [0.5, 0.5]),
        ([reward, reward], [0.5, 0.5], [0.8, 0.2]),
    ):
        found = guided_logits(base, guides, weights).softmax(dim=1)[0]
        assert found.tolist() == pytest.approx(expected, abs=5e-5)


@pytest.mark.system("s001-011")
def test_guides_in_a_run(tmp_path: Path, llama: Path) -> None:
    """Weight 0 changes nothing. A model guided by itself with weight 1 is itself at half the temperature."""
    other = save_causal(tmp_path / "other", seed=1)
    plain = answers(tmp_path / "plain", llama)
    assert answers(tmp_path / "zero", llama, [{"model": str(other), "weight": 0}], guidance="models") == plain
    assert answers(tmp_path / "one", llama, [{"model": str(other)}], guidance="models") != plain
    cold = answers(tmp_path / "cold", llama, temperature=0.5)
    assert answers(tmp_path / "self", llama, [{"model": str(llama)}], guidance="models") == cold
    # What is written does not depend on what it is batched with.
    reward = [{"model": str(other)}]
    one = answers(tmp_path / "single", llama, reward, guidance="models", batch_size=1)
    assert one == answers(tmp_path / "many", llama, reward, guidance="models", batch_size=6)


def test_the_best_of_several(tmp_path: Path, llama: Path) -> None:
    """The longest of 8 samples is never shorter than the longest of the first 2, and longer in the mean."""
    reward = [{"rule": "characters"}]
    best = answers(tmp_path / "best", llama, reward, best_of=8)
    few = answers(tmp_path / "few", llama, reward, best_of=2)
    assert all(len(one) >= len(other) for one, other in zip(best, few, strict=True))
    assert sum(map(len, best)) > sum(map(len, few))


@pytest.mark.system("s000-107")
def test_threshold_of_a_segment_by_hand() -> None:
    """r(prompt) 0, r* 8.5, N 128, α ½: r_0 4.25, τ(64) 6.375, never above r*; r 5.675 at β .7 is .3679."""
    start = segment_start(0.0, 8.5, alpha=0.5)
    assert start == 4.25
    assert segment_threshold(start, 8.5, tokens=64, horizon=128) == 6.375
    assert segment_threshold(start, 8.5, tokens=500, horizon=128) == 8.5
    assert acceptance(5.675, 6.375, beta=0.7) == pytest.approx(math.exp(-1))
    assert acceptance(6.375, 6.375, beta=0.7) == acceptance(9.0, 6.375, beta=0.7) == 1


@pytest.mark.system("s000-107")
def test_accepted_segments_score_higher(tmp_path: Path, llama: Path) -> None:
    """Answers that shall hold the letter e: more of them do than of plain ones, at a share near the goal."""
    model = load_for_use(str(llama), kind="causal", precision="fp32", device=CPU)
    reward = parse_rewards([{"rule": "pattern:e", "weight": 4.0}], modality="text")
    rewards = open_rewards(reward, modality="text", device=CPU)
    ids = model.tokenizer("a question", add_special_tokens=False)["input_ids"]

    def share(goal: float) -> float:
        settings = Segments(goal=goal, horizon=8, entropy=3.0, alpha=1.0, beta=0.2)
        texts = [
            write_by_segments(
                model, ids, "a question", rewards, settings, key=str(n), max_new_tokens=8, temperature=1.0
            )
            for n in range(12)
        ]
        return sum("e" in text for text in texts) / len(texts)

    assert share(4.0) > share(-10.0) + 0.2


def test_segments_in_a_run(tmp_path: Path, llama: Path) -> None:
    """With a learned reward, which scores the bare prompt too; the same seed gives the same answers."""
    train = make_run(tmp_path / "rm", "reward_model", base=llama, config={"max_steps": 1, "max_length": 96})
    assert run(train) == 0
    reward = [{"model": str(train / "result")}]
    config: dict[str, Any] = {"guidance": "segments", "segment_goal": 0.5, "max_new_tokens": 8}
    once = answers(tmp_path / "once", llama, reward, **config)
    assert once == answers(tmp_path / "twice", llama, reward, **config)
    assert len(once) == 6


@pytest.mark.parametrize(
    ("config", "reward", "words"),
    [
        ({"best_of": 2}, None, "need a list of rewards"),
        ({}, [{"rule": "words"}], "rewards have no use here"),
        ({"guidance": "models"}, [{"rule": "words"}], "a guide is a language model"),
        ({"guidance": "segments"}, [{"rule": "words"}], "segment_goal"),
        ({"best_of": 2, "guidance": "models"}, [{"rule": "words"}], "take one of them"),
        ({"segment_beta": 0.1}, None, "segment_beta has a use only"),
    ],
)
def test_what_cannot_be_used(
    config: dict[str, Any], reward: Any, words: str, tmp_path: Path, llama: Path, capsys: Any
) -> None:
    more = {"reward": reward} if reward else {}
    folder = make_run(tmp_path / "run", "generate", base=llama, config=config, **more)
    assert run(folder) == 1
    assert words in capsys.readouterr().err


def test_a_guide_with_other_tokens_is_refused(tmp_path: Path, llama: Path, capsys: Any) -> None:
    from tests.tuning.text_models import tiny_tokenizer

    other = save_causal(tmp_path / "other", tokenizer=tiny_tokenizer(vocabulary=300))
    reward = [{"model": str(other)}]
    folder = make_run(tmp_path / "run", "generate", base=llama, config={"guidance": "models"}, reward=reward)
    assert run(folder) == 1
    assert "tokens of the model that writes" in capsys.readouterr().err
