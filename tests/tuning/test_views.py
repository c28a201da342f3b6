"""Learning from the choices in one aspect, from ratings, or turn by turn: as if it were all that is asked."""

from pathlib import Path
from typing import Any

import pytest

from tests.tuning.text_runs import QUICK, make_run, metrics, pair_rows, run
from training.tuning.config import DPOConfig, KTOConfig, PairKeys, UFTConfig
from training.tuning.data import Group
from training.tuning.labels import Label, make_labels
from training.tuning.pairs import Pair, make_pairs, why_no_pairs
from training.tuning.views import aspects_of, at_turns, by_rating, in_aspect

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
    assert 'nobody judged the aspect "ton"; there are: length, tone' in capsys.readouterr().err


# Ratings


def rated(*ratings: dict[str, Any] | None, **said: Any) -> Group:
    candidates = [{"text": letter} for letter in "abcde"[: len(ratings)]]
    judgements = [{"choice": 0, "thumbs": [1] * len(ratings), "ratings": list(ratings), **said}]
    return Group.model_validate({"prompt": "p", "candidates": candidates, "judgements": judgements})


def test_ratings_by_hand() -> None:
    """4, 2, 5, 3: with margin 0 the order c a d b; with 1 no step is larger, in 4, 2, 6, 3 one is."""
    four = [{"help": 4, "style": 1}, {"help": 2}, {"help": 5, "style": 1}, {"help": 3}]
    order = by_rating(rated(*four), margin=0, name="help").judgements[0]
    assert (order.ranking, order.choice, order.thumbs) == ([[2], [0], [3], [1]], None, None)
    assert make_pairs(by_rating(rated(*four), margin=1, name="help"), PairKeys()) == []
    four[2] = {"help": 6}
    above = by_rating(rated(*four), margin=1, name="help")
    assert above.judgements[0].ranking == [[2], [0, 3, 1]]
    assert make_pairs(above, PairKeys()) == [Pair(2, 0), Pair(2, 1), Pair(2, 3)]
    assert [pair.target for pair in make_pairs(above, PairKeys(ties="half"))].count(0.5) == 3
    # The mean of the first is 2.5, of the others 2, 6 and 3; who has no rating has no rank.
    mean = by_rating(rated(*four, None), margin=0, name=None)
    assert mean.judgements[0].ranking == [[2], [3], [0], [1]]
    assert by_rating(rated({"help": 1}, None), margin=0, name=None).judgements[0].ranking is None


def test_labels_of_ratings_and_aspects() -> None:
    """The best rated answer is good and the worst bad; thumbs say nothing when the aspect is asked."""
    found = make_labels(by_rating(rated({"x": 1}, {"x": 3}, {"x": 2}), margin=0, name="x"), KTOConfig())
    assert found == [Label(0, 0.0, 1.0), Label(1, 1.0, 0.0)]
    tone = in_aspect(rated({"x": 1}, {"x": 3}, aspects={"tone": {"choice": 1}}), "tone")
    assert make_labels(tone, UFTConfig()) == [Label(0, 0.0, 1.0), Label(1, 1.0, 0.0)]


# Turn by turn


def say(*words: str) -> list[dict[str, str]]:
    roles = ("assistant", "user")
    return [{"role": roles[at % 2], "content": word} for at, word in enumerate(words)]


def chats(turns: list[dict[str, Any]], *texts: Any) -> Group:
    candidates = [{"text": text} for text in texts]
    judgement = {"annotator": "a", "choice": 1, "strength": 3, "turns": turns}
    return Group.model_validate({"prompt": "p", "candidates": candidates, "judgements": [judgement]})


def test_turns_by_hand() -> None:
    """The first turn answers the prompt. The second is compared where the first was the same: in b and c."""
    said = [{"turn": 0, "choice": 0}, {"turn": 1, "choice": 2}]
    group = chats(said, say("x", "u", "1"), say("y", "u", "2"), say("y", "u", "3"))
    first, second = at_turns(group)
    assert first.prompt == "p"
    assert [candidate.text[0].content for candidate in first.candidates] == ["x", "y", "y"]
    assert make_pairs(first, PairKeys()) == [Pair(0, 1), Pair(0, 2)]
    assert [message.content for message in second.prompt] == ["p", "y", "u"]
    assert [message.role for message in second.prompt] == ["user", "assistant", "user"]
    assert [candidate.text[0].content for candidate in second.candidates] == ["2", "3"]
    assert make_pairs(second, PairKeys()) == [Pair(1, 0)]
    assert second.judgements[0].strength is None


def test_turns_that_cannot_be_compared() -> None:
    """After different words, of equal answers, or where the better one was said after other words."""
    different = chats([{"turn": 1, "choice": 0}], say("x", "u", "1"), say("y", "u", "2"))
    assert list(at_turns(different)) == []
    assert list(at_turns(chats([{"turn": 0, "choice": "tie"}], "x", "x"))) == []
    elsewhere = chats([{"turn": 1, "choice": 0}], *(say(a, "u", b) for a, b in ("x1", "y2", "y3")))
    (group,) = at_turns(elsewhere)
    assert make_pairs(group, PairKeys()) == []
    (tied,) = at_turns(chats([{"turn": 0, "choice": "tie"}], "x", "y"))
    assert make_pairs(tied, PairKeys(ties="half")) == [Pair(0, 1, target=0.5)]


def test_one_part_at_a_time() -> None:
    for both in ({"aspect": "a", "turns": True}, {"rating_margin": 0, "turns": True}):
        with pytest.raises(ValueError, match="use one"):
            DPOConfig(**both)
    with pytest.raises(ValueError, match="needs a rating_margin"):
        DPOConfig(margin_rating="help")


@pytest.mark.parametrize("method", ["dpo", "kto"])
@pytest.mark.parametrize("part", ["rating_margin", "turns"])
def test_a_run_on_a_part_is_a_run_on_its_choices(method: str, part: str, tmp_path: Path, llama: Path) -> None:
    """Ratings 3 and 1, or one turn: the same training as the choice that they say, whatever `choice` says."""
    plain = pair_rows()
    other = []
    for row in plain:
        choice = row["judgements"][0]["choice"]
        ratings = [{"x": 1}, {"x": 1}]
        ratings[choice] = {"x": 3}
        said = {"ratings": ratings} if part == "rating_margin" else {"turns": [{"turn": 0, "choice": choice}]}
        judgement = {"annotator": row["judgements"][0]["annotator"], "choice": 1 - choice, **said}
        other.append(row | {"judgements": [judgement]})
        row["judgements"] = row["judgements"][:1]
    config = {"max_length": 128, "log_every": 1, "max_steps": 2, "learning_rate": 1e-3, "samples": 0}
    asked = config | {part: 1 if part == "rating_margin" else True}
    one = make_run(tmp_path / "one", method, base=llama, config=config, rows=plain)
    two = make_run(tmp_path / "two", method, base=llama, config=asked, rows=other)
    assert (run(one), run(two)) == (0, 0)
    assert metrics(one) == metrics(two)


@pytest.mark.parametrize("part", [{"turns": True}, {"rating_margin": 1}])
def test_a_part_that_nobody_judged(part: dict[str, Any], tmp_path: Path, llama: Path, capsys: Any) -> None:
    folder = make_run(tmp_path / "run", "dpo", base=llama, config=QUICK | part, rows=pair_rows())
    assert run(folder) == 1
    assert "there are none in the data" in capsys.readouterr().err
