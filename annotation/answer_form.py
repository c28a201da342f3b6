"""The form that answers a comparison: each question of its template as HTML that works with keys and readers.

The judging page puts it beside the candidates, the template editor shows it as a preview. Radio buttons and
ticks carry JSON: what they mean as presented; `static/js/kinds/` puts the answer together.
"""

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from django.template.loader import render_to_string
from django.utils.safestring import SafeString
from django.utils.translation import gettext as _

from annotation.choices import choices_for, describe, letter
from annotation.template import MOST_RANKED, TIE
from annotation.template.questions import COMPARING
from annotation.template.texts import turns_of
from annotation.wording import in_words


@dataclass(frozen=True)
class Option:
    """One thing to pick: `value` is what it answers, `key` the digit that picks it."""

    value: Any
    label: str
    key: str = ""
    name: str = ""  # for those who do not see where it stands
    css: str = ""

    @property
    def json(self) -> str:
        return json.dumps(self.value, separators=(",", ":"))


@dataclass(frozen=True)
class Row:
    """Options under one title. `path` says where its answer stands within the question's."""

    path: str
    title: str
    options: list[Option]
    group: str = ""  # a heading shared with the rows before
    ends: tuple[str, str] | None = None  # what the first and the last option mean
    css: str = ""


@dataclass(frozen=True)
class Asked:
    """A question as it stands on the page."""

    kind: str
    text: str
    required: bool
    question: dict[str, Any]
    rows: list[Row] = field(default_factory=list)
    options: list[Any] = field(default_factory=list)
    letters: list[str] = field(default_factory=list)

    @property
    def template(self) -> str:
        return f"annotation/answer/{TEMPLATES.get(self.kind, self.kind)}.html"

    @property
    def json(self) -> str:
        return json.dumps(self.question)


TEMPLATES = {
    "aspects": "rows",
    "ratings": "rows",
    "thumbs": "rows",
    "turns": "rows",
    "rubric": "ticks",
    "tags": "ticks",
}


def render_form(item: dict[str, Any]) -> SafeString:
    """The form for a comparison as `annotation.services.present` shows it."""
    return render_to_string("annotation/answer/form.html", form_context(item))


def form_context(item: dict[str, Any]) -> dict[str, Any]:
    """`choice` is the question that one key answers; `questions` are all the others, in their order."""
    asked = [_asked(question, item) for question in item["questions"] if _can_be_asked(question, item)]
    choice = next((one for one in asked if one.kind == "choice"), None)
    others = [one for one in asked if one.kind != "choice"]
    return {
        "suggestions": [_suggested(suggestion) for suggestion in item.get("suggestions", ())],
        "choice": choice,
        "seven": choice is not None and any(option.strength for option in choice.options),
        "questions": others,
        "on_demand": bool(choice and others) and not any(one.required for one in others),
        "plain": choice is not None and not others and not choice.rows,
    }


def _suggested(suggestion: dict[str, Any]) -> dict[str, str]:
    """Who says what, in words."""
    said = suggestion["answer"]
    parts = [describe(said["choice"], said.get("strength"))] if said.get("choice") is not None else []
    return {"by": suggestion["by"], "said": "; ".join([*parts, *in_words(said, letter)])}


def _can_be_asked(question: dict[str, Any], item: dict[str, Any]) -> bool:
    kind, count = question["type"], len(item["candidates"])
    if kind == "turns":
        return count > 1 and bool(_shared_turns(item))
    if kind == "ranking":
        return 1 < count <= MOST_RANKED
    return kind != "context" and (count > 1 or kind not in COMPARING)


def _asked(question: dict[str, Any], item: dict[str, Any]) -> Asked:
    kind, count = question["type"], len(item["candidates"])
    letters = [letter(position) for position in range(count)]
    rows = ROWS[kind](question, item, letters) if kind in ROWS else []
    options = choices_for(question, count) if kind == "choice" else []
    return Asked(kind, _(question["text"]), question["required"], question, rows, options, letters)


def _better(letters: list[str], *, strength: bool, tie: bool) -> list[Option]:
    """One candidate over the others: seven steps for two with strength, else one option each."""
    middle = [Option({"choice": TIE}, _("Tie"), "0", _("Tie"), "tie")] if tie else []
    if len(letters) != 2 or not strength:
        return [
            Option({"choice": i}, name, str(i + 1), _("%(name)s better") % {"name": name}, _side(i))
            for i, name in enumerate(letters)
        ] + middle
    words = {3: _("much better"), 2: _("better"), 1: _("slightly better")}

    def step(side: int, s: int) -> Option:
        value = {"choice": side, "strength": s}
        key = str(4 - s if side == 0 else 4 + s)
        return Option(value, letters[side], key, f"{letters[side]} {words[s]}", f"{_side(side)} s{s}")

    return [step(0, 3), step(0, 2), step(0, 1), *middle, step(1, 1), step(1, 2), step(1, 3)]


def _worst(question: dict[str, Any], _item: dict[str, Any], letters: list[str]) -> list[Row]:
    """The second half of best–worst, where it is not the rest anyway."""
    if not question["worst"] or len(letters) < 3:
        return []
    options = [
        Option(i, name, "", _("%(name)s is the worst") % {"name": name}, _side(i))
        for i, name in enumerate(letters)
    ]
    return [Row("worst", _("Worst"), options, css="worst")]


def _side(position: int) -> str:
    return {0: "a", 1: "b"}.get(position, "other")


def _aspects(question: dict[str, Any], _item: dict[str, Any], letters: list[str]) -> list[Row]:
    options = _better(letters, strength=question["strength"], tie=question["tie"])
    return [Row(aspect["name"], aspect["title"], options, css="sides") for aspect in question["aspects"]]


def _shared_turns(item: dict[str, Any]) -> list[list[int]]:
    """For each of the assistant's turns the candidates that have it, as long as there are two."""
    counts = [turns_of(candidate["text"]) if "text" in candidate else 0 for candidate in item["candidates"]]
    having = [[i for i, n in enumerate(counts) if n > turn] for turn in range(max(counts))]
    return [positions for positions in having if len(positions) > 1]


def _turns(question: dict[str, Any], item: dict[str, Any], letters: list[str]) -> list[Row]:
    options = _better(letters, strength=False, tie=question["tie"])
    return [
        Row(
            str(turn),
            _("Turn %(number)d") % {"number": turn + 1},
            [option for option in options if option.value["choice"] in (*positions, TIE)],
            css="sides",
        )
        for turn, positions in enumerate(_shared_turns(item))
    ]


def _ratings(question: dict[str, Any], _item: dict[str, Any], letters: list[str]) -> list[Row]:
    rows = []
    for aspect in question["aspects"]:
        options = _scale(aspect)
        labels = aspect["labels"]
        ends = (labels[0], labels[-1]) if labels else None
        for position, name in enumerate(letters):
            alone = len(letters) == 1
            rows.append(
                Row(
                    path=f"{position}.{aspect['name']}",
                    title=aspect["title"] if alone else name,
                    options=options,
                    group="" if alone else aspect["title"],
                    ends=ends,
                    css=f"{aspect['scale']} {'' if alone else 'of-candidate'}",
                )
            )
    return rows


def _scale(aspect: dict[str, Any]) -> list[Option]:
    """Its steps. The digit is the number where that is one, else its place from the left."""
    steps = range(aspect["min"], aspect["max"] + 1)
    by_number = aspect["min"] >= 0 and aspect["max"] <= 9
    labels = aspect["labels"] if len(aspect["labels"]) == len(steps) else [""] * len(steps)
    found = []
    for place, (number, label) in enumerate(zip(steps, labels, strict=True), start=1):
        key = str(number) if by_number else str(place % 10) if place <= 10 else ""
        shown = "★" if aspect["scale"] == "stars" and number > 0 else str(number)
        found.append(Option(number, shown, key, f"{number} {label}".strip(), "zero" if number == 0 else ""))
    return found


def _thumbs(_question: dict[str, Any], _item: dict[str, Any], letters: list[str]) -> list[Row]:
    options = [
        Option(1, _("Good"), "1", _("Good"), "good"),
        Option(0, _("Not good"), "2", _("Not good"), "poor"),
    ]
    return [
        Row(str(i), name if len(letters) > 1 else _("This answer"), options, css="thumbs of-candidate")
        for i, name in enumerate(letters)
    ]


def _rubric(question: dict[str, Any], _item: dict[str, Any], letters: list[str]) -> list[Row]:
    names = letters if len(letters) > 1 else [_("Met")]
    return [
        Row(
            path=criterion["name"],
            title=criterion["text"],
            options=[
                Option(i, name, str(i + 1) if i < 9 else "", name, _side(i)) for i, name in enumerate(names)
            ],
            css="criteria",
        )
        for criterion in question["criteria"]
    ]


def _tags(question: dict[str, Any], _item: dict[str, Any], _letters: list[str]) -> list[Row]:
    options = [
        Option(option["name"], option["title"], str(i + 1) if i < 9 else "", option["title"])
        for i, option in enumerate(question["options"])
    ]
    return [Row("", "", options, css="tags")]


ROWS: dict[str, Callable[[dict[str, Any], dict[str, Any], list[str]], list[Row]]] = {
    "choice": _worst,
    "aspects": _aspects,
    "turns": _turns,
    "ratings": _ratings,
    "thumbs": _thumbs,
    "rubric": _rubric,
    "tags": _tags,
}
