"""Every kind of feedback given by keyboard alone, and the row that it leaves. The order of the candidates is
turned round for everybody here, so that presented A is the last candidate of the row."""

from dataclasses import dataclass, field
from typing import Any

import pytest

from annotation import services
from annotation.models import Judgement
from tests.annotation import factories
from tests.functional.conftest import wait_until_saved
from tests.functional.pictures import picture_groups

pytestmark = pytest.mark.django_db(transaction=True)

PARTS = 3  # for workers side by side
ASPECTS = [{"name": "helpful"}, {"name": "honest"}]
CHAT = [
    {"role": "assistant", "content": "Hello."},
    {"role": "user", "content": "And now?"},
    {"role": "assistant", "content": "Well."},
]
STEPS = "1. Two and two are four.\n2. Four and one are six.\n3. So it is six."


@dataclass
class Case:
    """What is asked, the keys that answer it, and the canonical row."""

    questions: list[dict[str, Any]]
    keys: list[str]
    answers: dict[str, Any]
    choice: Any = None
    strength: int | None = None
    k: int = 2
    text: Any = None
    modality: str = "text"
    focus: str | None = None  # a place to tab to before the keys
    meta: dict[str, Any] = field(default_factory=dict)


CASES = {
    "thumb on one answer": Case([{"type": "thumbs"}], ["2"], {"thumbs": [0]}, k=1),
    "best of three": Case([{"type": "choice"}], ["3"], {}, choice=0, k=3),
    "best and worst": Case(
        [{"type": "choice", "worst": True}],
        ["1", "Shift+Digit3", "Enter"],
        {"ranking": [[2], [1], [0]]},
        choice=2,
        k=3,
    ),
    "best of a pair is not the worst": Case(
        [{"type": "choice", "worst": True}], ["7"], {"ranking": [[0], [1]]}, choice=0, strength=3
    ),
    "aspects": Case(
        [{"type": "choice"}, {"type": "aspects", "aspects": ASPECTS}],
        ["6", "1", "0", "Enter"],
        {"aspects": {"helpful": {"choice": 1, "strength": 3}, "honest": {"choice": "tie"}}},
        choice=0,
        strength=2,
    ),
    "ranking with a shared rank": Case(
        [{"type": "ranking"}], ["2", "Shift+Digit1", "4", "3", "Enter"], {"ranking": [[2, 3], [0], [1]]}, k=4
    ),
    "partial ranking, one taken back": Case(
        [{"type": "ranking", "partial": True}],
        ["2", "1", "Backspace", "3", "Enter"],
        {"ranking": [[1], [0]]},
        k=3,
    ),
    "ratings": Case(
        [
            {
                "type": "ratings",
                "aspects": [{"name": "quality"}, {"name": "stars", "scale": "stars", "min": 0}],
            }
        ],
        ["4", "2", "0", "5", "Enter"],
        {"ratings": [{"quality": 2, "stars": 5}, {"quality": 4, "stars": 0}]},
    ),
    "ratings by arrows": Case(
        [{"type": "ratings", "aspects": [{"name": "quality"}]}],
        ["ArrowRight", "ArrowRight", "ArrowDown", "4", "Enter"],
        {"ratings": [{"quality": 4}, {"quality": 3}]},
        focus="input[name='ratings.0.quality']",
    ),
    "thumbs": Case([{"type": "thumbs"}], ["1", "2", "Enter"], {"thumbs": [0, 1]}),
    "rubric": Case(
        [
            {
                "type": "rubric",
                "criteria": [{"name": "short", "text": "Is short"}, {"name": "true", "text": "Is true"}],
            }
        ],
        ["1", "2", "ArrowDown", "2", "Enter"],
        {"rubric": [{"short": True, "true": True}, {"short": True, "true": False}]},
        focus="input[name='rubric.short']",
    ),
    "tags and critique on demand": Case(
        [
            {"type": "choice"},
            {"type": "tags", "options": [{"name": "wrong_fact"}, {"name": "rude"}]},
            {"type": "critique"},
        ],
        ["r", "2", "ArrowDown", "type:The second is kinder", "Escape", "6", "Enter"],
        {"tags": ["rude"], "critique": "The second is kinder"},
        choice=0,
        strength=2,
    ),
    "correction": Case(
        [{"type": "correction", "required": True}],
        [
            "c",
            "Control+A",
            "type:It is better so.",
            "Escape",
            "c",
            "Control+A",
            "type:And so.",
            "Control+Enter",
        ],
        {"corrections": ["And so.", "It is better so."]},
    ),
    "a span": Case(
        [
            {
                "type": "marks",
                "kinds": ["span"],
                "categories": [{"name": "wrong"}, {"name": "rude"}],
                "severities": [{"name": "minor"}, {"name": "major"}],
                "required": True,
            }
        ],
        ["ArrowRight", "ArrowRight", *["Shift+ArrowRight"] * 4, "2", "1", "Enter"],
        {
            "marks": [
                {
                    "candidate": 0,
                    "type": "span",
                    "start": 2,
                    "end": 6,
                    "category": "rude",
                    "severity": "minor",
                }
            ]
        },
        text="😀 fools rush in",
        focus=".candidate:nth-child(2) .scroll",
    ),
    "steps": Case(
        [
            {
                "type": "marks",
                "kinds": ["step"],
                "categories": [{"name": "good"}, {"name": "bad"}],
                "required": True,
            }
        ],
        ["j", "1", "x", "Escape", "Enter"],
        {
            "marks": [
                {"candidate": 0, "type": "step", "step": 0, "start": 0, "end": 24, "first_error": False},
                {"candidate": 0, "type": "step", "step": 1, "start": 25, "end": 49, "first_error": False},
                {"candidate": 0, "type": "step", "step": 2, "start": 50, "end": 66, "first_error": False},
                {
                    "candidate": 1,
                    "type": "step",
                    "step": 0,
                    "start": 0,
                    "end": 24,
                    "category": "good",
                    "first_error": False,
                },
                {"candidate": 1, "type": "step", "step": 1, "start": 25, "end": 49, "first_error": True},
            ]
        },
        text=STEPS,
    ),
    "turns": Case(
        [{"type": "turns"}],
        ["2", "0", "Enter"],
        {"turns": [{"turn": 0, "choice": 0}, {"turn": 1, "choice": "tie"}]},
        text=CHAT,
    ),
    "context": Case(
        [{"type": "context", "text": "Prefer the kinder answer."}, {"type": "choice"}],
        ["1"],
        {"context": "Prefer the kinder answer.\n\nShe is ill."},
        choice=1,
        strength=3,
        meta={"context": "She is ill."},
    ),
    "a box": Case(
        [{"type": "marks", "kinds": ["box", "point"], "categories": [{"name": "hand"}], "required": True}],
        ["ArrowLeft", "ArrowLeft", "Shift+ArrowDown", "1", "Enter", "ArrowUp", "1", "Escape", "Enter"],
        {
            "marks": [
                {"candidate": 1, "type": "box", "box": [0.38, 0.4, 0.2, 0.22], "category": "hand"},
                {"candidate": 1, "type": "point", "point": [0.5, 0.48], "category": "hand"},
            ]
        },
        modality="image",
        focus=".candidate:nth-child(1) .box",
    ),
    "best of four pictures": Case([{"type": "choice"}], ["4"], {}, choice=0, k=4, modality="image"),
    "all of three bad": Case([{"type": "choice"}], ["b"], {}, choice="both_bad", k=3),
    "a tie of pictures": Case([{"type": "choice"}], ["4"], {}, choice="tie", modality="image"),
    "pictures by aspects": Case(
        [{"type": "aspects", "aspects": ASPECTS}],
        ["7", "3", "Enter"],
        {"aspects": {"helpful": {"choice": 0, "strength": 3}, "honest": {"choice": 1, "strength": 1}}},
        modality="image",
    ),
    "pictures rated": Case(
        [{"type": "ratings", "aspects": [{"name": "quality", "labels": ["poor", "great"]}]}],
        ["1", "5", "Enter"],
        {"ratings": [{"quality": 5}, {"quality": 1}]},
        modality="image",
    ),
    "a scale that begins below zero": Case(
        [{"type": "ratings", "aspects": [{"name": "harm", "min": -2, "max": 2}]}],
        ["1", "4", "Enter"],
        {"ratings": [{"harm": 1}, {"harm": -2}]},
    ),
    "thumb on one picture": Case([{"type": "thumbs"}], ["1"], {"thumbs": [1]}, k=1, modality="image"),
    "rubric, tags and critique on pictures": Case(
        [
            {"type": "rubric", "criteria": [{"name": "true", "text": "Shows what was asked"}]},
            {"type": "tags", "options": [{"name": "hands"}, {"name": "text"}], "required": True},
            {"type": "critique", "required": True},
        ],
        ["2", "ArrowDown", "2", "1", "ArrowDown", "type:Six fingers", "Control+Enter"],
        {
            "rubric": [{"true": True}, {"true": False}],
            "tags": ["hands", "text"],
            "critique": "Six fingers",
        },
        modality="image",
        focus="input[name='rubric.true']",
    ),
    "a chat corrected": Case(
        [{"type": "correction", "required": True}],
        ["c", "Control+A", "type:Quite well.", "Control+Enter"],
        {"corrections": [None, [*CHAT[:-1], {"role": "assistant", "content": "Quite well."}]]},
        text=CHAT,
    ),
    "turns of three chats": Case(
        [{"type": "turns"}],
        ["3", "1", "Enter"],
        {"turns": [{"turn": 0, "choice": 0}, {"turn": 1, "choice": 2}]},
        text=CHAT,
        k=3,
    ),
    "pictures ranked": Case(
        [{"type": "ranking"}], ["2", "1", "Enter"], {"ranking": [[0], [1]]}, modality="image"
    ),
}


def make(case: Case, world, name: str):
    project = factories.make_project(
        by=world.manager, name=name, questions=case.questions, modality=case.modality
    )
    if case.modality == "image":
        groups = picture_groups(1, k=case.k)
    else:
        texts = [case.text or f"Answer {c}" for c in range(case.k)]
        groups = [{"prompt": "?", "candidates": [{"text": text} for text in texts], "meta": case.meta}]
    services.add_comparisons(project=project, groups=groups)
    return project


def press(page, keys: list[str]) -> None:
    for key in keys:
        if key.startswith("type:"):
            page.keyboard.type(key.removeprefix("type:"))
        else:
            page.keyboard.press(key)


@pytest.fixture
def turned(monkeypatch):
    monkeypatch.setattr("annotation.services.queue._shuffle", lambda order: order.reverse())


@pytest.mark.parametrize("part", range(PARTS))
def test_every_kind_by_keyboard(open_page, world, turned, part):
    page = open_page(world.manager)
    stored, expected = {}, {}
    for name, case in list(CASES.items())[part::PARTS]:
        project = make(case, world, name)
        page.goto(f"/projects/{project.pk}/judge/")
        page.wait_for_selector("main[data-ready]")
        page.evaluate("localStorage.removeItem('tiebreak:reasons')")
        if case.focus:
            page.focus(case.focus)
        press(page, case.keys)
        try:
            page.wait_for_selector("#idle:visible")
            wait_until_saved(page)
        except Exception as error:
            raise AssertionError(f"{name}: {page.inner_text('main')}") from error
        row = Judgement.objects.get(comparison__project=project)
        stored[name] = (row.choice, row.strength, row.answers)
        expected[name] = (case.choice, case.strength, case.answers)
    differing = {name: row for name, row in stored.items() if row != expected[name]}
    assert differing == {}
