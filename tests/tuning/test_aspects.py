"""Learning from the choices in one aspect: as if it were all that had been asked."""

from pathlib import Path
from typing import Any

import pytest

from tests.tuning.text_runs import QUICK, make_run, metrics, pair_rows, run
from training.tuning.config import PairKeys
from training.tuning.data import Group, aspects_of, in_aspect
from training.tuning.pairs import Pair, make_pairs, why_no_pairs

ASPECTS = {"tone": {"choice": 2, "strength": 3}, "length": {"choice": "tie"}}
GROUP = Group.model_validate(
    {
        "prompt": "p",
        "candidates": [{"text": "a"}, {"text": "b"}, {"text": "c"}],
        "judgements": [
            {"choice": 0, "strength": 1, "aspects": ASPECTS},
            {"ranking": [[0], [1], [2]], "aspects": {"tone": {"choice": 2}}},
            {"choice": 1},
        ],
    }
)


def test_by_hand() -> None:
    assert aspects_of([GROUP]) == ["length", "tone"]
    tone = in_aspect(GROUP, "tone")
    assert [(one.choice, one.strength, one.ranking) for one in tone.judgements] == [
        (2, 3, None), (2, None, None), (None, None, None),
    ]  # fmt: skip
    assert make_pairs(tone, PairKeys(strength="weight")) == [Pair(2, 0, weight=4), Pair(2, 1, weight=4)]
    length = in_aspect(GROUP, "length")
    assert (make_pairs(length, PairKeys()), why_no_pairs(length)) == ([], "only ties or both-bad")
    assert make_pairs(GROUP, PairKeys()) != make_pairs(tone, PairKeys())


@pytest.mark.parametrize("method", ["dpo", "reward_model"])
def test_a_run_on_an_aspect_is_a_run_on_its_choices(method: str, tmp_path: Path, llama: Path) -> None:
    """The choice as a whole says the opposite and does not matter, in training and in evaluation."""
    plain = pair_rows()
    both = [
        row
        | {
            "judgements": [
                {"annotator": one["annotator"], "choice": 1 - one["choice"]}
                | {"aspects": {"tone": {"choice": one["choice"]}}}
                for one in row["judgements"]
            ]
        }
        for row in plain
    ]
    config = {"max_length": 128, "log_every": 1, "max_steps": 2, "learning_rate": 1e-3}
    config |= {"samples": 0} if method == "dpo" else {}
    one = make_run(tmp_path / "one", method, base=llama, config=config, rows=plain, held_out=plain[:4])
    two = make_run(
        tmp_path / "two", method, base=llama, config=config | {"aspect": "tone"}, rows=both, held_out=both[:4]
    )
    assert (run(one), run(two)) == (0, 0)
    assert metrics(one) == metrics(two)


def test_an_aspect_that_nobody_judged(tmp_path: Path, llama: Path, capsys: Any) -> None:
    row = GROUP.model_dump(exclude_none=True, exclude={"line"})
    folder = make_run(tmp_path / "run", "dpo", base=llama, config=QUICK | {"aspect": "ton"}, rows=[row])
    assert run(folder) == 1
    assert 'nobody judged the aspect "ton"; aspects in the data: length, tone' in capsys.readouterr().err
