"""What is said of a reward, each figure by hand; and the job that says it."""

import json
import math
import random
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from tests.tuning.image_runs import make_run as make_image_run
from tests.tuning.text_runs import make_run, run
from training.tuning.config import EvaluateConfig
from training.tuning.data import Group, plain_text
from training.tuning.errors import EXIT_BAD_INPUT, BadInput
from training.tuning.evaluation.figures import (
    beats_all,
    best_of_credit,
    consistent,
    fleiss_kappa,
    reciprocal_rank,
    ties_of,
    within_correlation,
)
from training.tuning.evaluation.probes import OPENERS, similarity, trigrams
from training.tuning.evaluation.report import make_report
from training.tuning.evaluation.rows import items_of


def verified(prompt: str, *texts: str, correct: Any = (0,), **meta: Any) -> Group:
    rows = [{"text": text} for text in texts]
    return Group.model_validate(
        {"prompt": prompt, "candidates": rows, "meta": {"correct": list(correct), **meta}}
    )


def judged(prompt: str, first: str, second: str, *choices: Any) -> Group:
    return Group.model_validate(
        {
            "prompt": prompt,
            "candidates": [{"text": first}, {"text": second}],
            "judgements": [{"annotator": str(at), "choice": choice} for at, choice in enumerate(choices)],
        }
    )


def numbers(groups: Any) -> list[list[float]]:
    """A reward that reads the first number in an answer; none is 0."""
    found = []
    for group in groups:
        words = [plain_text(one.text).split() for one in group.candidates]
        found.append(
            [next((float(w) for w in own if w.lstrip("-").replace(".", "").isdigit()), 0.0) for own in words]
        )
    return found


def report_of(*groups: Group, score: Any = numbers, attacked: int = 0, **keys: Any) -> dict[str, Any]:
    return make_report(groups, score, EvaluateConfig(**keys), attacked=attacked)


@pytest.mark.system("s001-018")
def test_best_of_k_shares_the_credit_of_ties() -> None:
    """(1, 1, 0, 0): the right one is one of two at the top; a constant scorer gets 1/4, a random one too."""
    assert best_of_credit([1, 1, 0, 0], [0]) == 0.5
    assert best_of_credit([1, 1, 0, 0], [2]) == 0
    assert best_of_credit([3, 3, 3, 3], [1]) == 0.25
    assert best_of_credit([0, 2, 1, 0], [1]) == 1
    draws = random.Random(0)
    drawn = [best_of_credit([draws.random() for _ in range(4)], [0]) for _ in range(4000)]
    assert sum(drawn) / 4000 == pytest.approx(0.25, abs=0.035)  # five standard errors of .0068


@pytest.mark.system("s001-018")
def test_ties_are_a_weighted_score() -> None:
    """Two questions. The first: right ones 5 and 4, wrong 1: gap 3 > spread 1; its reference leads by 2.
    The second: right ones 9 and 5, wrong 4: gap 1, spread 4; its reference is lost, 1 against 2.

    tied 1, reference ½, preferred ½, hard ½ (min(2, 3) > 1), margin (tanh(2/1 − 1) + tanh(−1/4 − 1)) / 2.
    """
    tied = {"a": ([5.0, 4.0, 1.0], [0, 1]), "b": ([9.0, 5.0, 4.0], [0, 1])}
    reference = {"a": ([3.0, 1.0], [0]), "b": ([1.0, 2.0], [0])}
    found = ties_of(tied, reference)
    assert found is not None
    assert (found.tied, found.reference, found.preferred, found.preferred_hard) == (1, 0.5, 0.5, 0.5)
    assert found.margin == pytest.approx((math.tanh(1) + math.tanh(-1.25)) / 2)
    assert found.score == pytest.approx(0.3 + 0.15 + 0.1 + 0.1 + 0.01 * found.margin)


def test_right_answers_without_a_spread() -> None:
    """A gap over nothing counts as one beyond measure; nothing over nothing as none."""
    sure = ties_of({"a": ([2.0, 2.0, 1.0], [0, 1])}, {"a": ([2.0, 1.0], [0])})
    constant = ties_of({"a": ([1.0, 1.0, 1.0], [0, 1])}, {"a": ([1.0, 1.0], [0])})
    assert sure is not None
    assert constant is not None
    assert sure.score == pytest.approx(1.01)
    assert (constant.margin, constant.score) == (0, 0)
    assert ties_of({"a": ([1.0, 0.0], [0])}, {}) is None


@pytest.mark.system("s001-018")
def test_subsets_have_a_mean_of_their_own() -> None:
    """Focus ½ (one of two right), ties 1.01; their mean counts each once, however many rows there are."""
    rows = [
        verified("a", "9 x", "1 y", "2 z", "3 w", subset="Focus"),
        verified("b", "1 x", "9 y", "2 z", "3 w", subset="Focus"),
        verified("c", "5 x", "5 y", "1 z", correct=[0, 1], subset="Ties", id="tied:c"),
        verified("c", "5 x", "1 z", subset="Ties", id="ref:c"),
    ]
    found = report_of(*rows)
    assert [(one["name"], one["rate"]) for one in found["subsets"]] == [("Focus", 0.5), ("Ties", 1.01)]
    assert found["figures"]["subsets"] == pytest.approx((0.5 + 1.01) / 2)
    assert (found["best_of"]["n"], found["best_of"]["rate"], found["best_of"]["chance"]) == (2, 0.5, 0.25)
    assert found["figures"]["ties"] == pytest.approx(1.01)


@pytest.mark.system("s004-035")
def test_one_right_answer_against_many_wrong_ones() -> None:
    """Above all nine or not at all; nearly right pairwise is not enough. Equal is not above."""
    assert beats_all([5, 1, 2, 3, 4, 0, 1, 2, 3, 4], 0)
    assert not beats_all([5, 1, 2, 3, 4, 0, 1, 2, 3, 6], 0)
    assert not beats_all([5, 5], 0)
    assert reciprocal_rank([5, 1, 6, 7], 0) == pytest.approx(1 / 3)
    assert reciprocal_rank([5, 5, 5], 1) == pytest.approx(1 / 3)
    wrong = [f"{n} w" for n in range(9)]
    found = report_of(verified("a", "20 x", *wrong), verified("b", "7.5 x", *wrong))
    # The second beats eight of nine: 17 of 18 pairs, but one question of two; ranks 1 and 2.
    assert found["one_to_many"]["rate"] == 0.5
    assert found["one_to_many"]["mrr"] == pytest.approx(0.75)
    assert found["agreement"]["rate"] == pytest.approx(17 / 18)


def test_agreement_with_most_people() -> None:
    """Two of three say the first; the reward agrees in the first row, not in the second; the third is tied
    among people and says nothing; of the fourth the scores are equal, which is half right.
    """
    found = report_of(
        judged("a", "2 x", "1 y", 0, 0, 1),
        judged("b", "2 x", "1 y", 1),
        judged("c", "2 x", "1 y", 0, 1),
        judged("d", "1 x", "1 y", 0),
    )
    assert (found["agreement"]["rate"], found["agreement"]["n"]) == (0.5, 3)
    assert found["agreement"]["low"] == pytest.approx(0.5 - 0.3747, abs=1e-4)  # 1.96 / 2.2805 · √.19004
    assert (found["rows"], found["used"], found["undecided"]) == (4, 3, 1)
    assert found["figures"]["agreement"] == 0.5
    assert "best_of" not in found


def test_calibration_by_hand() -> None:
    """A margin of ln 3 says ¾. Of four votes three agree: no error. Of four that all agree: ¼."""
    margin = f"{math.log(3):.8f} x"
    right = report_of(judged("a", margin, "0 y", 0, 0, 0, 1))["calibration"]
    assert right["ece"] == pytest.approx(0, abs=1e-6)
    assert right["temperature"] == pytest.approx(1, abs=1e-5)
    timid = report_of(judged("a", margin, "0 y", 0, 0, 0, 0))["calibration"]
    assert timid["ece"] == pytest.approx(0.25, abs=1e-6)
    assert timid["temperature"] is None  # more certainty is always better


def test_length_bias_is_what_people_do_not_share() -> None:
    """The reward pays for characters; people like the short answer in two rows of three."""

    def size(groups: Any) -> list[list[float]]:
        return [[float(len(plain_text(one.text))) for one in group.candidates] for group in groups]

    rows = [judged("a", "short", "much longer", 0), judged("b", "longer by far", "brief", 1)]
    found = report_of(*rows, judged("c", "long enough", "no", 0), score=size)["length"]
    assert found["longer"] == 1
    assert found["people"] == pytest.approx(1 / 3)
    assert found["bias"] == pytest.approx(2 / 3)
    assert (found["right_if_longer"]["rate"], found["right_if_shorter"]["rate"]) == (1, 0)
    assert found["correlation"] == pytest.approx(1)
    assert within_correlation([([1.0, 1.0], [3.0, 4.0])]) is None


def test_a_reward_that_likes_what_stands_first() -> None:
    """It adds 10 to the first: with both orders it prefers the first always, and changes its mind always."""

    def first(groups: Any) -> list[list[float]]:
        return [[10.0 * (at == 0) for at, _ in enumerate(group.candidates)] for group in groups]

    found = report_of(judged("a", "x", "yy", 0), judged("b", "x", "yy", 1), score=first)["order"]
    assert (found["changed"], found["first"], found["n"]) == (1, 1, 2)
    fair = report_of(judged("a", "2 x", "1 y", 0), judged("b", "2 x", "1 y", 1))["order"]
    assert (fair["changed"], fair["first"]) == (0, 0.5)
    assert "order" not in report_of(judged("a", "2 x", "1 y", 0), reverse_order=False)


@pytest.mark.system("s001-033")
def test_one_question_in_several_languages() -> None:
    """Three versions choose 0, 0, 1: one pair of three agrees. With a family that agrees: (⅓ + 1) / 2 = ⅔.

    Of five choices four are 0: chance is .8² + .2² = .68, κ = (⅔ − .68) / .32. Agreement by language: the
    English versions are right twice, the German once in two, the French never.
    """
    rows = [
        verified("good?", "2 yes", "1 no", family="q1", language="en"),
        verified("gut?", "2 ja", "1 nein", family="q1", language="de"),
        verified("bon ?", "1 oui", "2 non", family="q1", language="fr"),
        verified("bad?", "2 yes", "1 no", family="q2", language="en"),
        verified("schlecht?", "1.5 ja", "1 nein", family="q2", language="de"),
        verified("alone?", "1 yes", "2 no", family="q3", language="en"),
    ]
    found = report_of(*rows)["versions"]
    assert found["rate"] == pytest.approx(2 / 3)
    assert found["kappa"] == pytest.approx((2 / 3 - 0.68) / 0.32)
    assert [(one["name"], one["rate"]) for one in found["languages"]] == [("de", 1), ("en", 1), ("fr", 0)]
    assert fleiss_kappa([[0, 0], [1, 1]]) == 1
    assert fleiss_kappa([[0, 1], [1, 0]]) == -1
    assert fleiss_kappa([[0, 0]]) is None


@pytest.mark.system("s003-022")
def test_like_prompts_prefer_their_own_answers() -> None:
    """A constant reward is never consistent, nor is one that reads answers alone; one that reads both is."""
    assert consistent((2, 2), (1, 1))
    assert not consistent((1, 1), (1, 1))
    assert not consistent((2, 1), (1, 2))
    rows = [
        verified("How do I open an account?", "1 open", "0 no"),
        verified("How do I close an account?", "2 close", "0 no"),
        verified("Something else entirely", "3 else", "0 no"),
    ]
    assert report_of(*rows)["contrast"] == report_of(*rows, like_prompts=0.5)["contrast"]
    found = report_of(*rows)["contrast"]
    assert (found["rate"], found["n"]) == (0, 1)  # 2 close beats 1 open under both prompts

    def reading(groups: Any) -> list[list[float]]:
        return [
            [float(plain_text(one.text).split()[-1] in plain_text(group.prompt)) for one in group.candidates]
            for group in groups
        ]

    assert report_of(*rows, score=reading)["contrast"]["rate"] == 1
    assert "contrast" not in report_of(*rows, like_prompts=None)


def test_likeness_of_prompts() -> None:
    """ " abc " and " abd ": of five trigrams … " ab" alone of "abc", "bc ", "abd", "bd " is shared."""
    assert similarity(trigrams("ABC"), trigrams("abd")) == pytest.approx(1 / 5)
    assert similarity(trigrams("a  b"), trigrams("A b")) == 1


@pytest.mark.system("s001-041")
def test_openers_without_an_answer() -> None:
    """A reward that gives a colon 5 and all else what it says: at ten prompts the right answer scores 9 in
    seven and 4 in three, so that the colon passes for an answer in 30 %. One that never says yes is fooled
    by nothing, and agrees with nobody: both figures stand side by side.
    """
    rows = [verified(f"question {at}", f"{9 if at < 7 else 4} right", "3 wrong") for at in range(10)]

    def colon(groups: Any) -> list[list[float]]:
        return [
            [
                5.0 if plain_text(one.text) == ":" else score
                for one, score in zip(g.candidates, own, strict=True)
            ]
            for g, own in zip(groups, numbers(groups), strict=True)
        ]

    found = report_of(*rows, score=colon, attacked=10)
    assert [one["text"] for one in found["openers"]] == list(OPENERS)
    assert {one["text"]: one["rate"] for one in found["openers"]}[":"] == pytest.approx(0.3)
    assert sum(one["rate"] for one in found["openers"]) == pytest.approx(0.3)
    assert found["figures"]["openers"] == pytest.approx(0.3)

    def never(groups: Any) -> list[list[float]]:
        return [[0.0 if plain_text(one.text) in OPENERS else 1.0 for one in g.candidates] for g in groups]

    dull = report_of(*rows, score=never, attacked=10)
    assert (dull["figures"]["openers"], dull["figures"]["agreement"]) == (0, 0.5)
    assert report_of(*rows, attacked=2)["openers"][0]["n"] == 2


def test_what_cannot_be_scored_is_counted() -> None:
    """A reward gives the second row nothing: it stands nowhere else, and neither does its reversal."""

    def half(groups: Any) -> list[list[float]]:
        return [[math.nan] * len(g.candidates) if g.prompt == "b" else numbers([g])[0] for g in groups]

    found = report_of(judged("a", "2 x", "1 y", 0), judged("b", "2 x", "1 y", 0), score=half, attacked=5)
    assert (found["used"], found["unscored"]) == (1, 1)
    assert (found["order"]["n"], found["agreement"]["n"], found["openers"][0]["n"]) == (1, 1, 1)


@pytest.mark.parametrize("correct", [[2], [-1], [], [0, 1], "0", [True]])
def test_verified_answers_that_are_none(correct: Any) -> None:
    group = Group.model_validate(
        {"prompt": "p", "candidates": [{"text": "a"}, {"text": "b"}], "meta": {"correct": correct}}
    )
    with pytest.raises(BadInput, match=r"meta\.correct"):
        items_of([group])


def test_most_people_choose_among_three() -> None:
    row = {
        "prompt": "p",
        "candidates": [{"text": "1 a"}, {"text": "3 b"}, {"text": "2 c"}],
        "judgements": [{"annotator": "x", "choice": 1}, {"annotator": "y", "ranking": [[1], [0], [2]]}],
    }
    (item,) = items_of([Group.model_validate(row)])
    assert (item.right, item.verified) == ((1,), False)
    assert report_of(item.group)["best_of"]["rate"] == 1


def test_the_job(tmp_path: Path) -> None:
    """A rule, from the command line: the report, its figures among the metrics; without answers: refused."""
    rows = [
        {"prompt": f"question {n}", "candidates": [{"text": "long wrong answer"}, {"text": "kind"}],
         "meta": {"correct": [0]}}
        for n in range(3)
    ]  # fmt: skip
    folder = make_run(tmp_path / "rule", "evaluate", base=None, rows=rows, reward=[{"rule": "words"}])
    assert run(folder) == 0
    report = json.loads((folder / "result" / "report.json").read_text())
    assert (report["figures"]["agreement"], report["length"]["n"]) == (1, 3)
    assert json.loads((folder / "result" / "metadata.json").read_text())["report"] == report
    last = json.loads((folder / "metrics.jsonl").read_text().splitlines()[-1])
    assert last["eval/agreement"] == 1
    assert not (folder / "result" / "README.md").exists()
    empty = rows[0] | {"meta": {}}
    nothing = make_run(tmp_path / "none", "evaluate", base=None, rows=[empty], reward=[{"rule": "words"}])
    assert run(nothing) == EXIT_BAD_INPUT


def test_the_job_with_a_model(tmp_path: Path, llama: Path) -> None:
    """What the order changes of a model that reads each answer by itself is nothing; blanks have no score."""
    config = {"max_steps": 1, "max_length": 64, "lora": None}
    trained = make_run(tmp_path / "model", "reward_model", base=llama, config=config)
    assert run(trained) == 0
    folder = make_run(tmp_path / "run", "evaluate", base=trained / "result", config={"attacked_prompts": 3})
    assert run(folder) == 0
    report = json.loads((folder / "result" / "report.json").read_text())
    assert report["order"] == {"changed": 0, "first": 0.5, "n": 12}
    assert [one["n"] for one in report["openers"]] == [0] + [3] * 9
    assert 0 <= report["figures"]["ece"] <= 0.5


def test_pictures(tmp_path: Path) -> None:
    """Red is brighter than blue; whoever said so agrees. Neither lengths nor openers are spoken of."""
    media = tmp_path / "run" / "data" / "media"
    media.mkdir(parents=True)
    for name in ("red", "blue"):
        Image.new("RGB", (8, 8), name).save(media / f"{name}.png")
    pair = {"prompt": "p", "candidates": [{"image": "red.png"}, {"image": "blue.png"}]}
    rows = [pair | {"judgements": [{"choice": choice}]} for choice in (0, 0, 1)]
    folder = make_image_run(
        tmp_path / "run", "image_evaluate", base=None, rows=rows, reward=[{"rule": "brightness"}], config={}
    )
    assert run(folder) == 0
    report = json.loads((folder / "result" / "report.json").read_text())
    assert report["figures"]["agreement"] == pytest.approx(2 / 3)
    assert report["order"]["changed"] == 0
    assert not {"length", "openers"} & report.keys()
