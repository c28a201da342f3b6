"""Which scored candidates are kept: best-of-n, RAFT, rejection sampling, pairs; alone and by ``score``."""

import math
import random
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tests.tuning.text_runs import make_run, read_rows, run
from training.tuning.rewards.compose import Rewards
from training.tuning.rewards.selection import (
    acceptance,
    best_and_worst,
    best_of,
    best_share,
    rejection_sample,
)
from training.tuning.rewards.sources import Measured, RuleReward
from training.tuning.rewards.spec import parse_rewards

ROWS: list[dict[str, Any]] = [
    {"prompt": "p", "candidates": [{"text": "a b c"}, {"text": "a"}, {"text": "a b"}, {"text": "d e f"}]},
    {"prompt": "q", "candidates": [{"text": "a"}, {"text": "b"}]},
]


@pytest.mark.system("s000-080")
def test_pairs_of_best_and_worst_by_hand() -> None:
    """(3, 1, 2, 3): the first best against the worst; all equal: no pair."""
    assert best_and_worst([3, 1, 2, 3]) == (0, 1)
    assert best_and_worst([2, 2, 2]) is None


@pytest.mark.system("s004-029")
def test_kept_answers() -> None:
    """Of 8 uniform rewards the best is 8/9 on average; an increasing transform keeps the same ones."""
    rng = random.Random(0)
    draws = [[rng.random() for _ in range(8)] for _ in range(20_000)]
    mean = sum(own[best_of(own)] for own in draws) / len(draws)
    assert mean == pytest.approx(8 / 9, abs=3e-3)
    moved = [[math.exp(3 * value) - 5 for value in own] for own in draws[:50]]
    assert [best_of(own) for own in moved] == [best_of(own) for own in draws[:50]]
    assert best_share(moved, 0.2) == best_share(draws[:50], 0.2)
    # Across prompts: both of the first prompt beat everything else.
    assert best_share([[5, 4], [1, 2]], 0.5) == [(0, 0), (0, 1)]


@pytest.mark.system("s004-012")
def test_rejection_sampling() -> None:
    """½ below the best at β = ½: accepted with 1/e; small β takes the top in order, large β anything."""
    assert acceptance(1.5, 2.0, beta=0.5) == pytest.approx(math.exp(-1))
    assert acceptance(2.0, 2.0, beta=0.5) == 1
    scores = [0.1, 0.9, 0.5, 0.7]
    rng = random.Random(0)
    assert rejection_sample(scores, keep=3, beta=1e-6, generator=rng) == [1, 3, 2]
    assert rejection_sample(scores, keep=4, beta=1e6, generator=rng) == [0, 1, 2, 3]
    # The maximum is recomputed over what is left: nothing is accepted for having been near an accepted one.
    first = [rejection_sample([0.0, 0.5], keep=1, beta=0.5, generator=rng)[0] for _ in range(20_000)]
    # The lower one comes first in the pass and is accepted with 1/e.
    assert first.count(0) / len(first) == pytest.approx(math.exp(-1), abs=0.01)


@given(st.lists(st.floats(-3, 3), min_size=1, max_size=8), st.integers(1, 8), st.integers(0, 99))
def test_rejection_sampling_keeps_each_once(scores: list[float], keep: int, seed: int) -> None:
    kept = rejection_sample(scores, keep=keep, beta=0.5, generator=random.Random(seed))
    assert len(kept) == len(set(kept)) == min(keep, len(scores))


def selected(tmp_path: Path, **config: Any) -> list[dict[str, Any]]:
    folder = make_run(
        tmp_path / "run", "score", base=None, rows=ROWS, reward=[{"rule": "words"}], config=config
    )
    assert run(folder) == 0
    return read_rows(folder / "result" / "selected.jsonl")


def test_score_writes_what_to_train_on(tmp_path: Path) -> None:
    best = selected(tmp_path / "best", select="best")
    assert [[one["text"] for one in row["candidates"]] for row in best] == [["a b c"], ["a"]]
    share = selected(tmp_path / "share", select="top_share", share=0.34)
    assert [row["candidates"][0]["text"] for row in share] == ["a b c", "d e f"]
    pairs = selected(tmp_path / "pairs", select="pairs")
    assert pairs == [{"prompt": "p", "chosen": "a b c", "rejected": "a"}]
    kept = selected(tmp_path / "rejection", select="rejection", keep=3, beta=1e-6)
    assert [one["text"] for one in kept[0]["candidates"]] == ["a b c", "d e f", "a b"]
    assert kept[0]["judgements"] == [{"kind": "judge", "ranking": [[0, 1], [2]]}]


def test_selected_rows_are_data(tmp_path: Path) -> None:
    """What ``rejection`` wrote is read by ``load_groups``."""
    from training.tuning.reading import load_groups

    selected(tmp_path, select="rejection", keep=2)
    groups = load_groups(tmp_path / "run" / "result" / "selected.jsonl", modality="text")
    assert [len(group.candidates) for group in groups] == [2, 2]


def test_options_without_a_use(tmp_path: Path, capsys: Any) -> None:
    folder = make_run(
        tmp_path / "run", "score", base=None, rows=ROWS, reward=[{"rule": "words"}], config={"share": 0.5}
    )
    assert run(folder) == 1
    assert 'share has a use only with the selection "top_share"' in capsys.readouterr().err


@pytest.mark.system("s004-071")
def test_a_direction_chooses_among_attributes() -> None:
    """The answer kept maximises v · r: helpful with (1, 0), brief with (0, 1), a balance at 45 degrees."""
    outputs = torch.tensor([[4.0, 0.0], [0.0, 4.0], [3.0, 3.0]])  # helpful and brief, of three answers
    half = math.sqrt(0.5)
    for direction, kept in (((1.0, 0.0), 0), ((0.0, 1.0), 1), ((half, half), 2)):
        transform = {"name": "attributes", "weights": list(direction)}
        entries = parse_rewards([{"model": "m", "transform": transform}], modality="text")
        source = RuleReward(lambda prompts, candidates: [], "fixed")
        found = Rewards(entries, [source]).combine([Measured(outputs)], ["p"] * 3, None)
        assert best_of(found.total.tolist()) == kept
