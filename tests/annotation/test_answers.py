"""Answers of every kind: what fits, what does not and where, and the way to canonical indices and back."""

import copy
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from annotation.errors import Invalid
from annotation.template import (
    KEYS,
    Shown,
    aligned_difference,
    check_answer,
    differences_of,
    parse_questions,
    plain_text,
    presented_answer,
    rename_candidates,
    steps_of,
    stored_answer,
    turns_of,
)
from tests.annotation import strategies

WORKED = "Step 1: 2 + 2 = 4.\nStep 2: 4 + 4 = 9.\nStep 3: So it is 9."


def shown(*texts, k=None):
    return Shown(k or len(texts), lambda: list(texts))


def check(question, answer, about=None):
    return check_answer(parse_questions([question]), answer, about or shown("a b", "c", "d"))


def refused(question, answer, about=None):
    with pytest.raises(Invalid) as refusal:
        check(question, answer, about)
    return refusal.value.errors


CHOICE = {"type": "choice"}
BEST_WORST = {"type": "choice", "worst": True}
ASPECTS = {"type": "aspects", "aspects": [{"name": "help"}, {"name": "style"}]}
RANKING = {"type": "ranking"}
RATINGS = {"type": "ratings", "aspects": [{"name": "help", "min": 0, "max": 4}, {"name": "style"}]}
RUBRIC = {"type": "rubric", "criteria": [{"name": "cites", "text": "Cites"}]}
TAGS = {"type": "tags", "options": [{"name": "rude"}, {"name": "wrong"}], "required": True}
SPANS = {
    "type": "marks",
    "kinds": ["span"],
    "categories": [{"name": "wrong"}],
    "severities": [{"name": "bad"}],
}
STEPS = {"type": "marks", "kinds": ["step"]}
BOTH_HELP = {"help": {"choice": 0}, "style": {"choice": "tie"}}


@pytest.mark.parametrize(
    ("question", "answer", "paths"),
    [
        (CHOICE, {}, ["choice"]),
        (CHOICE, {"choice": 3}, ["choice"]),
        (CHOICE, {"choice": True}, ["choice"]),
        (CHOICE, {"choice": 1.0}, ["choice"]),
        (CHOICE, {"choice": "left"}, ["choice"]),
        (CHOICE | {"tie": False}, {"choice": "tie"}, ["choice"]),
        (CHOICE, {"choice": "tie", "strength": 1}, ["strength"]),
        (CHOICE, {"choice": 0, "strength": 4}, ["strength"]),
        (CHOICE | {"strength": False}, {"choice": 0, "strength": 1}, ["strength"]),
        (CHOICE | {"required": False}, {"strength": 1}, ["strength"]),
        (CHOICE, {"choice": 0, "ranking": [[0], [1, 2]]}, ["ranking"]),
        (CHOICE, {"choice": 0, "critique": "x"}, ["critique"]),
        (CHOICE | {"required": False}, {}, ["choice"]),
        (BEST_WORST, {"choice": 0}, ["ranking"]),
        (BEST_WORST, {"choice": 0, "ranking": [[1], [2], [0]]}, ["ranking"]),
        (BEST_WORST, {"choice": 0, "ranking": [[0], [2]]}, ["ranking"]),
        (BEST_WORST, {"choice": 0, "ranking": [[0]]}, ["ranking"]),
        (BEST_WORST, {"choice": 0, "ranking": [[0], [1], [1], [2]]}, ["ranking"]),
        (BEST_WORST, {"choice": "tie", "ranking": [[0], [1], [2]]}, ["ranking"]),
        (ASPECTS, {}, ["aspects"]),
        (ASPECTS, {"aspects": {"help": {"choice": 0}}}, ["aspects.style"]),
        (ASPECTS, {"aspects": BOTH_HELP | {"help": {"choice": 9}}}, ["aspects.help.choice"]),
        (ASPECTS, {"aspects": BOTH_HELP | {"help": {"choice": "both_bad"}}}, ["aspects.help.choice"]),
        (ASPECTS, {"aspects": BOTH_HELP | {"help": {}}}, ["aspects.help.choice"]),
        (ASPECTS, {"aspects": BOTH_HELP | {"help": {"choice": 0, "why": 1}}}, ["aspects.help.why"]),
        (ASPECTS, {"aspects": BOTH_HELP | {"style": {"choice": "tie", "strength": 1}}},
         ["aspects.style.strength"]),
        (ASPECTS, {"aspects": BOTH_HELP | {"mood": {"choice": 0}}}, ["aspects.mood"]),
        (RANKING, {"ranking": [[0], [1]]}, ["ranking"]),
        (RANKING, {"ranking": [[0], [1], [2], [3]]}, ["ranking"]),
        (RANKING, {"ranking": [[0], [1, 0], [2]]}, ["ranking"]),
        (RANKING, {"ranking": [[0], [], [1, 2]]}, ["ranking.1"]),
        (RANKING, {"ranking": [0, 1, 2]}, ["ranking.0", "ranking.1", "ranking.2"]),
        (RANKING | {"ties": False}, {"ranking": [[0], [1, 2]]}, ["ranking.1"]),
        (RANKING | {"partial": True}, {"ranking": [[1]]}, ["ranking"]),
        (RATINGS, {"ratings": [{"help": 5, "style": 1}, {"help": 0, "style": 5}, {"help": 1}]},
         ["ratings.0.help", "ratings.2.style"]),
        (RATINGS, {"ratings": [{"help": 1, "style": 2.5}, {"help": "1", "style": 2}, {"help": 1}]},
         ["ratings.0.style", "ratings.1.help"]),
        (RATINGS, {"ratings": [{"help": 1, "style": 2}] * 2}, ["ratings"]),
        (RATINGS | {"required": False}, {"ratings": [{"mood": 1}, {}, None]}, ["ratings.0.mood"]),
        ({"type": "thumbs"}, {"thumbs": [1, 0, None]}, ["thumbs.2"]),
        ({"type": "thumbs"}, {"thumbs": [1, 2, True]}, ["thumbs.1", "thumbs.2"]),
        ({"type": "thumbs"}, {"thumbs": None}, ["thumbs"]),
        (RUBRIC, {"rubric": [{"cites": True}, {"cites": 1}, {}]}, ["rubric.1.cites"]),
        (RUBRIC, {"rubric": [{"cites": True}, {"cites": False}, {}]}, ["rubric.2.cites"]),
        (TAGS, {"tags": []}, ["tags"]),
        (TAGS, {"tags": ["rude", "rude", "late"]}, ["tags.1", "tags.2"]),
        ({"type": "critique", "required": True}, {"critique": "  \n"}, ["critique"]),
        ({"type": "critique", "min_length": 5}, {"critique": "Hm"}, ["critique"]),
        ({"type": "critique", "max_length": 5}, {"critique": "Longer"}, ["critique"]),
        ({"type": "critique"}, {"critique": "a\x00b"}, ["critique"]),
        ({"type": "critique"}, {"critique": 3}, ["critique"]),
        ({"type": "correction"}, {"corrections": ["x"]}, ["corrections"]),
        ({"type": "correction"}, {"corrections": ["x", "", None]}, ["corrections.1"]),
        ({"type": "correction"}, {"corrections": ["x", [{"role": "user"}], None]}, ["corrections.1"]),
        ({"type": "correction"}, {"corrections": ["x" * 50_001, None, None]}, ["corrections.0"]),
        ({"type": "correction", "required": True}, {"corrections": [None] * 3}, ["corrections"]),
        ({"type": "turns"}, {"turns": [{"turn": 1, "choice": 0}]}, ["turns.0.turn", "turns"]),
        ({"type": "turns", "tie": False}, {"turns": [{"turn": 0, "choice": "tie"}]}, ["turns.0.choice"]),
        ({"type": "turns"}, {"turns": [{"turn": 0, "choice": i} for i in (0, 1)]}, ["turns.1.turn"]),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_named(question, answer, paths):
    assert sorted(refused(question, answer)) == sorted(paths)


SPAN = {"candidate": 0, "type": "span", "start": 0, "end": 3, "category": "wrong", "severity": "bad"}


@pytest.mark.parametrize(
    ("question", "mark", "path"),
    [
        (SPANS, SPAN | {"end": 4}, "marks.0"),
        (SPANS, SPAN | {"start": 3}, "marks.0"),
        (SPANS, SPAN | {"candidate": 3}, "marks.0.candidate"),
        (SPANS, SPAN | {"category": "right"}, "marks.0.category"),
        (SPANS, SPAN | {"severity": None}, "marks.0.severity"),
        (SPANS, SPAN | {"end": None}, "marks.0.end"),
        (SPANS, SPAN | {"step": 0}, "marks.0.step"),
        (SPANS, SPAN | {"first_error": True}, "marks.0.first_error"),
        (SPANS, SPAN | {"type": "point"}, "marks.0.type"),
        (SPANS, SPAN | {"colour": 1}, "marks.0.colour"),
        (STEPS, {"candidate": 0, "type": "step", "step": 1, "first_error": True}, "marks.0.step"),
        (STEPS, {"candidate": 0, "type": "step", "step": 0}, "marks.0"),
        (STEPS, {"candidate": 0, "type": "step", "step": 0, "category": "x"}, "marks.0.category"),
    ],
)
def test_marks_lie_in_their_candidate(question, mark, path):
    assert list(refused(question, {"marks": [mark]})) == [path]


@pytest.mark.parametrize(
    "box", [[0.5, 0, 0.6, 1], [0, 0, 0, 1], [0, 0.2, 1, 0.9], [0, 0, 1], [-0.1, 0, 1, 1]]
)
def test_boxes_lie_in_their_picture(box):
    template = parse_questions([{"type": "marks", "kinds": ["box", "point"]}], modality="image")
    mark = {"candidate": 1, "type": "box", "box": box}
    with pytest.raises(Invalid) as refusal:
        check_answer(template, {"marks": [mark]}, shown(k=2))
    assert all(path.startswith("marks.0.box") for path in refusal.value.errors)
    good = [mark | {"box": [0.7, 0, 0.3, 1]}, {"candidate": 0, "type": "point", "point": [1, 0.25]}]
    assert check_answer(template, {"marks": good}, shown(k=2)) == {"marks": good[::-1]}


def test_one_mark_twice():
    assert list(refused(SPANS, {"marks": [SPAN, SPAN]})) == ["marks.1"]


def test_nothing_follows_the_first_error():
    first = {"candidate": 1, "type": "step", "step": 1, "first_error": True}
    about = shown("x", WORKED)
    after = first | {"step": 2}
    assert refused(STEPS, {"marks": [first, after]}, about).keys() == {
        "marks.0.first_error", "marks.1.first_error",
    }  # fmt: skip
    named = STEPS | {"categories": [{"name": "odd"}]}
    late = {"candidate": 1, "type": "step", "step": 2, "category": "odd"}
    assert list(refused(named, {"marks": [first, late]}, about)) == ["marks.1.step"]
    check(named, {"marks": [first, late | {"step": 0}]}, about)


def test_an_empty_list_of_marks_is_an_answer():
    assert check(SPANS | {"required": True}, {"marks": []}) == {"marks": []}
    assert list(refused(SPANS | {"required": True}, {})) == ["marks"]


def test_several_mistakes_at_once():
    template = parse_questions([CHOICE, {"type": "thumbs"}, TAGS])
    with pytest.raises(Invalid) as refusal:
        check_answer(template, {"choice": 7, "thumbs": [1], "mood": 1}, shown("a", "b"))
    assert set(refusal.value.errors) == {"choice", "thumbs", "tags", "mood"}


def test_what_cannot_be_answered_is_not_required():
    """One candidate has nothing to be compared with, ten are too many to rank, a user's turn is no answer."""
    template = parse_questions([CHOICE, RANKING, {"type": "turns"}, {"type": "thumbs"}])
    assert check_answer(template, {"thumbs": [1]}, shown("a")) == {"thumbs": [1]}
    with pytest.raises(Invalid) as refusal:
        check_answer(template, {"thumbs": [1], "choice": 0, "turns": [{"turn": 0, "choice": 0}]}, shown("a"))
    assert set(refusal.value.errors) == {"choice", "turns"}
    assert check(RANKING | {"required": False}, {"ranking": [[2], [0, 1]]}) == {"ranking": [[2], [0, 1]]}
    many = shown(*"abcdefghij")
    assert refused(RANKING, {"ranking": [[i] for i in range(10)]}, many)["ranking"].startswith("cannot be")
    silent = shown([{"role": "user", "content": "?"}], "b")
    both = parse_questions([{"type": "turns"}, {"type": "thumbs"}])
    assert check_answer(both, {"thumbs": [0, 0]}, silent) == {"thumbs": [0, 0]}


def test_turns_that_only_one_candidate_has():
    long = [
        {"role": role, "content": "x"} for role in ("assistant", "user", "assistant", "user", "assistant")
    ]
    about = shown(long, long[:3], "plain")
    turns = [{"turn": 1, "choice": 1}, {"turn": 0, "choice": 2}]
    assert check({"type": "turns"}, {"turns": turns}, about) == {"turns": turns[::-1]}
    assert list(refused({"type": "turns"}, {"turns": [{"turn": 0, "choice": 0}]}, about)) == ["turns"]
    lost = [{"turn": 0, "choice": 0}, {"turn": 1, "choice": 2}]
    assert list(refused({"type": "turns"}, {"turns": lost}, about)) == ["turns.1.choice"]
    assert list(refused({"type": "turns"}, {"turns": [*turns, {"turn": 2, "choice": 0}]}, about)) == [
        "turns.2.turn"
    ]


def test_every_kind_to_canonical_indices():
    """Shown were candidates 2, 0, 1: position 0 is candidate 2, position 1 is 0, position 2 is 1."""
    answer = {
        "choice": 0,
        "strength": 3,
        "aspects": {"help": {"choice": 2, "strength": 1}, "style": {"choice": "tie"}},
        "ranking": [[1, 2], [0]],
        "ratings": [{"help": 1}, {"help": 2}, {}],
        "thumbs": [1, 0, None],
        "rubric": [{"cites": True}, {}, {"cites": False}],
        "tags": ["rude"],
        "critique": "A is rude.",
        "corrections": [None, "better", None],
        "marks": [{"candidate": 0, "type": "span", "start": 0, "end": 1}],
        "turns": [{"turn": 0, "choice": 1}],
    }
    before = copy.deepcopy(answer)
    assert rename_candidates(answer, [2, 0, 1]) == {
        "choice": 2,
        "strength": 3,
        "aspects": {"help": {"choice": 1, "strength": 1}, "style": {"choice": "tie"}},
        "ranking": [[0, 1], [2]],
        "ratings": [{"help": 2}, {}, {"help": 1}],
        "thumbs": [0, None, 1],
        "rubric": [{}, {"cites": False}, {"cites": True}],
        "tags": ["rude"],
        "critique": "A is rude.",
        "corrections": ["better", None, None],
        "marks": [{"candidate": 2, "type": "span", "start": 0, "end": 1}],
        "turns": [{"turn": 0, "choice": 0}],
    }
    assert answer == before
    assert rename_candidates(rename_candidates(answer, [2, 0, 1]), [1, 2, 0]) == answer


def says_something(key, value):
    if key == "marks" or not isinstance(value, list | dict):
        return True  # no mark at all says that there is nothing to mark
    return any(item not in (None, {}) for item in value)


@settings(max_examples=200, deadline=None)
@given(data=st.data())
def test_there_and_back_again(data):
    """Whatever the template, the texts, the answer and the order: what is stored tells what was sent."""
    modality = data.draw(st.sampled_from(["text", "image"]))
    template = data.draw(strategies.templates(modality))
    texts = data.draw(st.lists(strategies.TEXTS, min_size=1, max_size=5))
    sent = data.draw(strategies.answers(template, texts))
    about = Shown(len(texts), lambda: texts if modality == "text" else pytest.fail("pictures have no text"))
    order = data.draw(st.permutations(range(len(texts))))
    if not any(says_something(key, value) for key, value in sent.items()):
        with pytest.raises(Invalid, match="Nothing is answered"):
            check_answer(template, sent, about)
        return
    normal = check_answer(template, sent, about)
    stored = stored_answer(template, normal, about, order)
    assert presented_answer(stored | {"context": "c"}, order) == normal
    assert check_answer(template, normal, about) == normal


WORD = st.sampled_from(["candidate", "type", "step", "start", "end", "choice", "turn", "help", "name"])
JSON = st.recursive(
    st.one_of(
        st.none(),
        st.booleans(),
        st.integers(-2, 3),
        st.integers(),
        st.floats(allow_nan=False),
        st.sampled_from(["tie", "both_bad", "span", "step", "box", "help", "a", ""]),
        st.text(max_size=3),
    ),
    lambda inner: st.one_of(
        st.lists(inner, max_size=4), st.dictionaries(WORD | st.text(max_size=2), inner, max_size=4)
    ),
    max_leaves=8,
)


@settings(max_examples=100, deadline=None)
@given(data=st.data())
def test_nonsense_is_refused_with_paths(data):
    """Whatever comes: a checked answer, which checks again as itself, or mistakes by their path."""
    template = data.draw(strategies.templates())
    texts = data.draw(st.lists(strategies.TEXTS, min_size=1, max_size=3))
    about = Shown(len(texts), lambda: texts)
    good = data.draw(strategies.answers(template, texts))
    keys = st.sampled_from([*KEYS.values(), "strength", "mood"])
    sent = good | data.draw(st.dictionaries(keys, JSON, min_size=1, max_size=2))
    try:
        normal = check_answer(template, sent, about)
    except Invalid as error:
        paths = {path.split(".")[0] for path in error.errors}
    else:
        paths = set()
        assert check_answer(template, normal, about) == normal
        order = list(range(len(texts)))
        assert presented_answer(stored_answer(template, normal, about, order), order) == normal
    assert paths <= {*KEYS.values(), "strength", "mood"}


@settings(max_examples=200, deadline=None)
@given(JSON, st.lists(st.fixed_dictionaries({"type": st.sampled_from([*KEYS, "context"])}), max_size=2), JSON)
def test_templates_of_nonsense_are_refused_with_paths(whole, questions, value):
    mixed = [question | {"text": value, "options": value, "aspects": value} for question in questions]
    for sent in (whole, [whole], questions, mixed):
        try:
            parsed = parse_questions(sent)
        except Invalid as error:
            paths = list(error.errors)
        else:
            paths = []
            assert parse_questions(parsed) == parsed
        assert all(path.split(".")[0] == "questions" for path in paths)


def test_steps_up_to_the_first_error():
    """The unmarked steps before it are right, those behind it unlabelled; each with its place in the text."""
    template = parse_questions([STEPS])
    about = shown("Right.\n\nRight too.", WORKED)
    sent = {"marks": [{"candidate": 1, "type": "step", "step": 1, "first_error": True}]}
    stored = stored_answer(template, check_answer(template, sent, about), about, [1, 0])
    assert stored["marks"] == [
        {"candidate": 0, "type": "step", "step": 0, "start": 0, "end": 18, "first_error": False},
        {"candidate": 0, "type": "step", "step": 1, "start": 19, "end": 37, "first_error": True},
        {"candidate": 1, "type": "step", "step": 0, "start": 0, "end": 6, "first_error": False},
        {"candidate": 1, "type": "step", "step": 1, "start": 8, "end": 18, "first_error": False},
    ]
    assert WORKED[19:37] == "Step 2: 4 + 4 = 9."


# Steps, turns, differences


@pytest.mark.parametrize(
    ("text", "steps"),
    [
        ("One thing only.", ["One thing only."]),
        ("First line.\nSecond line.\n", ["First line.", "Second line."]),
        ("A\nstill A\n\nB\n \n\nC", ["A\nstill A", "B", "C"]),
        ("Let me see.\nStep 1: a\n\nmore a\nstep 2. b", ["Let me see.\nStep 1: a\n\nmore a", "step 2. b"]),
        ("1. a\n   1. inner\n2. b\n5. no\n3) c", ["1. a\n   1. inner", "2. b\n5. no", "3) c"]),
        ("## Step 0\nx\n", ["## Step 0", "x"]),
        ("**1.** a\n**2.** b", ["**1.** a", "**2.** b"]),
        ("Only 1. number\nhere", ["Only 1. number", "here"]),
        ("So:\n```\nx = 1\n\ny = 2\n```\n\nDone.", ["So:\n```\nx = 1\n\ny = 2\n```", "Done."]),
        ("a\n$$\nx\n\ny\n$$\nb", ["a", "$$\nx\n\ny\n$$", "b"]),
        ("a\n$$x$$\n\nb", ["a\n$$x$$", "b"]),
        ("", []),
        (" \n ", []),
        ([{"role": "assistant", "content": "one\n\nno split"}, {"role": "assistant", "content": "two"}],
         ["one\n\nno split", "two"]),
        ([{"role": "user", "content": "hm\n\nhm"}, {"role": "assistant", "content": "a\n\nb"}], ["a", "b"]),
        ([{"role": "user", "content": "hm"}], []),
    ],
)  # fmt: skip
def test_steps(text, steps):
    whole = plain_text(text)
    assert [whole[start:end] for start, end in steps_of(text)] == steps


@given(strategies.TEXTS)
def test_steps_never_overlap_and_lose_no_word(text):
    spans = steps_of(text)
    assert all(start < end for start, end in spans)
    assert all(end <= start for (_, end), (start, _) in pairwise(spans))
    if isinstance(text, str):
        assert "".join("".join(text[a:b] for a, b in spans).split()) == "".join(text.split())
    else:
        assert len(spans) >= turns_of(text)


def test_differences_are_aligned_by_words():
    assert aligned_difference("the cat sat down.", "the dog sat.") == [
        ("equal", 0, 4, 0, 4),
        ("replace", 4, 7, 4, 7),
        ("equal", 7, 11, 7, 11),
        ("delete", 11, 16, 11, 11),
        ("equal", 16, 17, 11, 12),
    ]
    assert differences_of([None, "same"], ["x", "same"]) == [None, [("equal", 0, 4, 0, 4)]]


@given(strategies.TEXTS, strategies.TEXTS)
def test_differences_rebuild_both_texts(before, after):
    old, new = plain_text(before), plain_text(after)
    pieces = aligned_difference(old, new)
    assert "".join(old[a:b] for _, a, b, _, _ in pieces) == old
    assert "".join(new[c:d] for _, _, _, c, d in pieces) == new
    assert all(old[a:b] == new[c:d] for operation, a, b, c, d in pieces if operation == "equal")


def test_long_texts_that_differ_throughout_are_one_replacement():
    """Aligning them would hold up the request; what they begin and end with is told apart all the same."""
    old = "Same. " + " ".join(str(n % 97) for n in range(4000)) + " end"
    new = "Same. " + " ".join(str(n % 89) for n in range(1, 4000)) + " end"
    assert aligned_difference(old, new) == [
        ("equal", 0, 6, 0, 6),
        ("replace", 6, len(old) - 4, 6, len(new) - 4),
        ("equal", len(old) - 4, len(old), len(new) - 4, len(new)),
    ]
    assert aligned_difference(old, old) == [("equal", 0, len(old), 0, len(old))]
    assert aligned_difference(old, old.replace(" 50 ", " x ", 1))[1][0] == "replace"
