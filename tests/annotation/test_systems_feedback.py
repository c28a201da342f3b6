"""Kinds of feedback that published systems learn from: given over the API, and what their rows hold.

Each test works as the system's annotators would, exports groups, and looks for what defines the data.
"""

import json
import math
from collections import Counter
from pathlib import Path

import pytest

from annotation import services
from tests.annotation import factories
from tests.annotation.conftest import api_client
from tests.annotation.test_exports import export, rows_of
from tests.annotation.test_feedback_api import errors, send, take
from training.tuning.config import PairKeys, ScoreKeys
from training.tuning.data import Group
from training.tuning.labels import make_labels, make_scores
from training.tuning.pairs import Pair, make_pairs
from training.tuning.rewards.tokens import correction_rewards

pytestmark = pytest.mark.django_db
DATA = Path(__file__).resolve().parents[3] / "shared" / "data"


class Study:
    """A project with annotators who work through the API."""

    def __init__(self, questions, groups, *, people=1):
        self.project = factories.make_project(questions=questions, labels_per_comparison=people)
        self.people = [api_client(user) for user in factories.add_annotators(self.project, people)]
        services.add_comparisons(project=self.project, groups=groups)

    def judge(self, answer_of):
        """Everybody answers everything; `answer_of(shown, texts, number)` with texts in presented order."""
        for number, client in enumerate(self.people):
            while (found := client.post(f"/api/v1/projects/{self.project.pk}/next/")).status_code != 204:
                shown = found.json()
                texts = [candidate["text"] for candidate in shown["candidates"]]
                sent = send(client, shown["lease"], **answer_of(shown, texts, number))
                assert sent.status_code == 201, sent.json()

    def rows(self):
        _, data = export(self.project)
        return rows_of(data)


def group(prompt, *texts, **values):
    return {"prompt": prompt, "candidates": [{"text": text} for text in texts], **values}


@pytest.mark.system("s000-031")
def test_comparisons_of_four():
    """Four people pick the best of four, each shown in their own order: one row, one canonical answer.

    The softmax over the row's candidates starts at ln 4 when all scores are equal, and the choice stands for
    three pairs with four votes each.
    """
    question = {"type": "choice", "strength": False, "tie": False, "both_bad": False}
    prompts = [group(f"Rewrite {n}.", "poor", "best", "good", "fair") for n in range(6)]
    study = Study([question], prompts, people=4)
    study.judge(lambda shown, texts, _: {"choice": texts.index("best")})
    rows = study.rows()
    assert len(rows) == 6
    for row in rows:
        assert [candidate["text"] for candidate in row["candidates"]] == ["poor", "best", "good", "fair"]
        assert [judgement["choice"] for judgement in row["judgements"]] == [1, 1, 1, 1]
        assert len({judgement["annotator"] for judgement in row["judgements"]}) == 4
        read = Group.model_validate(row)
        scores = [0.0] * len(read.candidates)
        loss = -math.log(math.exp(scores[1]) / sum(map(math.exp, scores)))
        assert loss == pytest.approx(math.log(4))
        pairs = make_pairs(read, PairKeys())
        assert pairs == [Pair(1, 0, weight=4.0), Pair(1, 2, weight=4.0), Pair(1, 3, weight=4.0)]
    orders = {tuple(judgement["order"]) for row in rows for judgement in row["judgements"]}
    assert len(orders) > 6, "the order is drawn anew for each presentation"


@pytest.mark.system("s000-026")
def test_thumbs_and_ratings_of_single_answers():
    """Groups of one candidate, whose thumbs and ratings become r in [0, 1], the ratings by their scale."""
    questions = [
        {"type": "ratings", "aspects": [{"name": "overall", "min": 0, "max": 4}], "required": False},
        {"type": "thumbs", "required": False},
    ]
    said = {"A": {"thumbs": [1]}, "B": {"thumbs": [0]}, "C": {"ratings": [{"overall": 3}]}}
    study = Study(questions, [group("p", text) for text in said])
    study.judge(lambda shown, texts, _: said[texts[0]])
    (scale,) = study.project.questions[0]["aspects"]
    keys = ScoreKeys(rating="overall", rating_low=scale["min"], rating_high=scale["max"])
    found = {}
    for row in study.rows():
        (judgement,) = row["judgements"]
        assert "choice" not in judgement
        read = Group.model_validate(row)
        labels = [float(label.good > label.bad) for label in make_labels(read, keys)]
        scores = [score for score in make_scores(read, keys) if score is not None]
        (found[row["candidates"][0]["text"]],) = labels + scores
    # (σ(0) − r)² at the start of training, where the implicit reward is 0: .25, .25 and .0625.
    assert found == {"A": 1.0, "B": 0.0, "C": 0.75}
    assert [(0.5 - r) ** 2 for r in found.values()] == [0.25, 0.25, 0.0625]


FINE = {
    "type": "marks",
    "kinds": ["span"],
    "categories": [{"name": name} for name in ("irrelevant", "redundant", "wrong")],
    "severities": [{"name": "minor"}, {"name": "major"}],
}
ANSWER = "Ada Lovelace 🧮 wrote notes, and she liked cats. She lived in Österreich. Ελλάδα is nice."


@pytest.mark.system("s001-053")
def test_spans_with_categories_by_sub_sentence():
    """Every error keeps its exact place, whatever the characters and the order in which answers were shown.

    By hand, as the system scores: 3 sentences without factual error at .5, 2 irrelevant sub-sentences at −.3
    and a completeness of z = 1 at .3 make 1.5 − .6 + .3 = 1.2.
    """
    bad = [("and she liked cats", "irrelevant", "minor"), ("Ελλάδα is nice.", "irrelevant", "major")]

    def mark(shown, texts, _):
        at = texts.index(ANSWER)
        spans = []
        for words, category, severity in bad:
            start = ANSWER.index(words)
            place = {"start": start, "end": start + len(words)}
            spans.append({"candidate": at, "type": "span"} | place)
            spans[-1] |= {"category": category, "severity": severity}
        return {"marks": spans}

    study = Study([FINE], [group(f"Who was Ada? {n}", "Nobody.", ANSWER) for n in range(4)])
    study.judge(mark)
    for row in study.rows():
        (judgement,) = row["judgements"]
        told = [
            (ANSWER[one["start"] : one["end"]], one["category"], one["severity"])
            for one in judgement["marks"]
        ]
        assert told == bad
        assert [(one["candidate"], one["start"], one["end"]) for one in judgement["marks"]] == [
            (1, 28, 46), (1, 73, 88),
        ]  # fmt: skip
        wrong = [one for one in judgement["marks"] if one["category"] == "wrong"]
        irrelevant = [one for one in judgement["marks"] if one["category"] == "irrelevant"]
        assert 0.5 * (3 - len(wrong)) - 0.3 * len(irrelevant) + 0.3 * 1 == pytest.approx(1.2)


@pytest.mark.system("s001-053")
@pytest.mark.skipif(not DATA.exists(), reason="the real data of ../shared/data is not here")
def test_real_spans_come_back_at_their_places():
    """What its annotators marked, entered again by somebody here, is exported at the same places."""
    read = json.loads((DATA / "fine_grained_qa_feedback.json").read_text())[:25]
    names = ("irrelevant", "wrong-grounding", "unverifiable", "redundant", "incoherent")
    question = {"type": "marks", "kinds": ["span"], "categories": [{"name": name} for name in names]}
    given = {}
    for number, row in enumerate(read):
        length = len(row["prediction 1"])
        errors = row["feedback"]["errors"]
        spans = {(e["start"], min(e["end"], length), e["error type"].lower()) for e in errors}
        given[f"{number} {row['question']}"] = (row["prediction 1"], sorted(s for s in spans if s[0] < s[1]))

    def mark(shown, texts, _):
        first, spans = given[shown["prompt"]]
        at = texts.index(first)
        keys = ("start", "end", "category")
        return {"marks": [{"candidate": at, "type": "span"} | dict(zip(keys, s, strict=True)) for s in spans]}

    study = Study([question], [group(prompt, text, "another answer") for prompt, (text, _) in given.items()])
    study.judge(mark)
    rows = study.rows()
    assert len(rows) == 25
    for row in rows:
        marks = row["judgements"][0]["marks"]
        assert [(m["start"], m["end"], m["category"]) for m in marks] == given[row["prompt"]][1]
        assert all(m["candidate"] == 0 for m in marks)


@pytest.mark.system("s002-026")
def test_five_attributes_from_several_people_some_missing():
    """The target of each attribute is the mean over those who rated it; what nobody rated is masked."""
    names = ("helpfulness", "correctness", "coherence", "complexity", "verbosity")
    aspects = [{"name": name, "min": 0, "max": 4} for name in names]
    study = Study(
        [{"type": "ratings", "aspects": aspects, "required": False}], [group("p", "a", "b")], people=3
    )
    said = [
        {"a": (4, 4, 4, 2, 2), "b": (1, None, 3, 2, None)},
        {"a": (3, 4, None, 2, 1), "b": (2, None, 4, None, None)},
        {"a": (2, 4, 4, 2, 0), "b": (0, None, None, None, None)},
    ]

    def rate(shown, texts, who):
        pick = [zip(names, said[who][text], strict=True) for text in texts]
        return {"ratings": [{name: value for name, value in pairs if value is not None} for pairs in pick]}

    client = study.people[0]
    lease = take(client, study.project)["lease"]
    refused = send(client, lease, ratings=[{"helpfulness": 5}, {"tone": 1}])
    assert errors(refused) == {"ratings.0.helpfulness", "ratings.1.tone"}
    study.judge(rate)
    (row,) = study.rows()

    def mean(candidate, name):
        values = [judgement["ratings"][candidate].get(name) for judgement in row["judgements"]]
        given = [value for value in values if value is not None]
        return sum(given) / len(given) if given else None

    assert [mean(0, name) for name in names] == [3.0, 4.0, 4.0, 2.0, 1.0]
    assert [mean(1, name) for name in names] == [1.0, None, 3.5, 2.0, None]


@pytest.mark.system("s000-071")
def test_steps_up_to_the_first_error_are_labelled():
    """The labelling side of process rewards: right before the first error, wrong at it, nothing behind it."""
    worked = "Step 1: 3 + 4 = 7.\nStep 2: 7 + 1 = 9.\nStep 3: 9 + 1 = 10.\nStep 4: So 10."
    flawless = "3 + 4 = 7.\n\nSo 7."
    study = Study(
        [{"type": "marks", "kinds": ["step"], "categories": [{"name": "odd"}]}],
        [group("Add them.", flawless, worked)],
        people=2,
    )

    def mark(shown, texts, who):
        at = texts.index(worked)
        steps = [worked[start:end] for start, end in shown["candidates"][at]["steps"]]
        assert steps == worked.split("\n")
        first = {"candidate": at, "type": "step", "step": 1, "first_error": True}
        remark = {"candidate": at, "type": "step", "step": 0, "category": "odd"}
        return {"marks": [first, remark] if who else [first]}

    study.judge(mark)
    (row,) = study.rows()
    for judgement in row["judgements"]:
        labels = {0: {}, 1: {}}
        for one in judgement["marks"]:
            text = row["candidates"][one["candidate"]]["text"]
            labels[one["candidate"]][text[one["start"] : one["end"]]] = not one["first_error"]
        assert labels == {
            0: {"3 + 4 = 7.": True, "So 7.": True},
            1: {"Step 1: 3 + 4 = 7.": True, "Step 2: 7 + 1 = 9.": False},
        }
    assert Group.model_validate(row).judgements[1].marks[2].category == "odd"


@pytest.mark.system("s000-111")
def test_corrections_reward_each_token():
    """y = ABXD corrected to ABCD: (+, +, −, 0). An answer that needs no correction: all +.

    The stored difference says which words the person left as they were, as a corrector would predict them.
    """
    study = Study([{"type": "correction", "required": True}], [group("p", "A B X D", "A B C D")])
    study.judge(lambda shown, texts, _: {"corrections": ["A B C D"] * 2})
    (row,) = study.rows()
    stored = study.project.comparisons.get().judgements.get()
    assert stored.differences == [
        [["equal", 0, 4, 0, 4], ["replace", 4, 5, 4, 5], ["equal", 5, 7, 5, 7]],
        [["equal", 0, 7, 0, 7]],
    ]
    rewards = []
    assert row["judgements"][0]["corrections"] == ["A B C D"] * 2
    for candidate, pieces in zip(row["candidates"], stored.differences, strict=True):
        words = candidate["text"].split()
        kept = {at for kind, start, end, *_ in pieces if kind == "equal" for at in range(start, end)}
        predicted = [word if 2 * number in kept else "another" for number, word in enumerate(words)]
        rewards.append(correction_rewards(words, predicted).tolist())
    assert rewards == [[1, 1, -1, 0], [1, 1, 1, 1]]


@pytest.mark.system("s001-023")
def test_the_context_turns_the_preference():
    """Two answers under two contexts: the rows keep the context under which each preference was given."""
    short, long = "Yes.", "Yes, because light scatters: blue more than red."
    wanted = {"The reader is in a hurry.": short, "The reader is a student.": long}
    contexts = [group("Is the sky blue?", short, long, meta={"context": context}) for context in wanted]
    principle = "Prefer the answer that suits its reader."
    questions = [{"type": "choice"}, {"type": "context", "text": principle}]
    study = Study(questions, contexts, people=3)

    def choose(shown, texts, _):
        assert shown["context"].startswith(principle)
        return {"choice": texts.index(next(wanted[c] for c in wanted if c in shown["context"]))}

    study.judge(choose)
    services.update_project(project=study.project, questions=[{"type": "choice"}])
    votes = Counter()
    for row in study.rows():
        for judgement in row["judgements"]:
            assert judgement["template_version"] == 1
            votes[judgement["context"], judgement["choice"]] += 1
    assert votes == {
        (f"{principle}\n\nThe reader is in a hurry.", 0): 3,
        (f"{principle}\n\nThe reader is a student.", 1): 3,
    }
    first, second = (make_pairs(Group.model_validate(row), PairKeys()) for row in study.rows())
    assert (first, second) == ([Pair(0, 1, weight=3.0)], [Pair(1, 0, weight=3.0)])
