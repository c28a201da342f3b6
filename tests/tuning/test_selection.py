"""Which scored candidates are kept: best-of-n, RAFT, rejection sampling, pairs; alone and by ``score``."""

import math
import random
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tests.tuning.text_models import save_causal
from tests.tuning.text_runs import make_run, read_rows, run
from training.tuning.rewards.compose import Rewards
from training.tuning.rewards.selection import (
    acceptance,
    best_and_worst,
    best_of,
    best_share,
    binary_information,
    rejection_sample,
    sure_pairs,
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


@pytest.mark.system("s004-026")
def test_pairs_that_passes_agree_about() -> None:
    """Passes .9, .1 in turn: ln 2 − .3251 = .3681. Passes that agree tell nothing, at ½ too: ties are not
    filtered. A pair that most see the other way is dropped; of the others a share, weighted by 1 − BALD: the
    sure one (1) is drawn before the open one (w) with the chance 1 / (1 + w).
    """
    assert binary_information([0.9, 0.1] * 5) == pytest.approx(0.3681, abs=5e-5)
    assert binary_information([0.5] * 10) == 0
    clear, open_one = [3.0] * 20, [math.log(9)] * 11 + [-math.log(9)] * 9
    rng = random.Random(0)
    assert sure_pairs([clear, [-1.0, -1.0, 1.0], open_one], share=1.0, generator=rng) == [0, 2]
    weight = 1 - binary_information([0.9] * 11 + [0.1] * 9)
    first = [sure_pairs([clear, open_one], share=0.5, generator=rng) for _ in range(20_000)]
    assert first.count([0]) / len(first) == pytest.approx(1 / (1 + weight), abs=0.015)


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


@pytest.mark.system("s004-026")
def test_a_round_of_sure_pairs(tmp_path: Path) -> None:
    """Passes with dropout make members whose mean nears the score without; people's pairs are mixed in; the
    features do not depend on the batch.
    """
    base = save_causal(tmp_path / "llama", sharp=False)
    train = [{"prompt": "p", "chosen": "a b", "rejected": "c"}] * 2
    reward = make_run(
        tmp_path / "rm", "reward_model", base=base, rows=train, config={"max_steps": 1, "lora": None}
    )
    assert run(reward) == 0
    judged = [row | {"judgements": [{"choice": 1}]} for row in ROWS]
    config = {"passes": 256, "dropout": 0.2, "select": "sure_pairs", "share": 1.0, "features": 5}
    found, rows = {}, {}
    for name, more in (("plain", {"features": 5, "batch_size": 1}), ("all", config),
                       ("mixed", config | {"judged_share": 0.5})):  # fmt: skip
        folder = make_run(tmp_path / name, "score", base=reward / "result", rows=judged, config=more)
        assert run(folder) == 0
        found[name] = read_rows(folder / "result" / "scores.jsonl")
        rows[name] = read_rows(folder / "result" / "selected.jsonl") if name != "plain" else []
    for row, exact in zip(found["all"], found["plain"], strict=True):
        spread = max(row["disagreement"])
        assert spread > 0
        assert row["scores"] == pytest.approx(exact["scores"], abs=5 * spread / 16)
        for one, other in zip(row["features"], exact["features"], strict=True):
            assert len(one) == 5
            assert one == pytest.approx(other, abs=1e-5)
    assert rows["all"]
    assert rows["mixed"][: len(rows["all"])] == rows["all"]
    people = [{"prompt": "p", "chosen": "a", "rejected": other["text"]} for other in ROWS[0]["candidates"]]
    people.append({"prompt": "q", "chosen": "b", "rejected": "a"})
    assert len(rows["mixed"]) == 2 * len(rows["all"])
    assert all(row in people for row in rows["mixed"][len(rows["all"]) :])


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ({"passes": 4}, "needs a reward model as base"),
        ({"features": 4}, "needs a reward model as base"),
        ({"select": "sure_pairs"}, "needs an ensemble, or passes"),
        ({"select": "best", "judged_share": 0.5}, 'only with the selection "sure_pairs"'),
        ({"dropout": 0.5}, "only with passes"),
    ],
)
def test_what_needs_a_model(tmp_path: Path, capsys: Any, config: dict[str, Any], words: str) -> None:
    folder = make_run(
        tmp_path / "run", "score", base=None, rows=ROWS, reward=[{"rule": "words"}], config=config
    )
    assert run(folder) == 1
    assert words in capsys.readouterr().err


def test_options_without_a_use(tmp_path: Path, capsys: Any) -> None:
    folder = make_run(
        tmp_path / "run", "score", base=None, rows=ROWS, reward=[{"rule": "words"}], config={"share": 0.5}
    )
    assert run(folder) == 1
    assert 'share has a use only with the selection "top_share" or' in capsys.readouterr().err


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
