"""Answers in words, for histories and tables: short, in the order in which a template asks."""

from collections.abc import Callable, Iterator
from typing import Any, Final

from django.utils.translation import gettext as _
from django.utils.translation import ngettext

from annotation.template import BOTH_BAD, TIE

Name = Callable[[int], str]
SHOWN: Final = 60  # characters of a critique


def in_words(answers: dict[str, Any], name: Name) -> Iterator[str]:
    """A phrase for each answer but the choice, which has words of its own; `name` names a candidate."""
    for key, say in PHRASES.items():
        value = answers.get(key)
        if value is not None and (phrase := say(value, name)):
            yield phrase


def _pick(choice: object, name: Name) -> str:
    words = {TIE: _("tie"), BOTH_BAD: _("both bad")}
    return name(choice) if isinstance(choice, int) else words.get(str(choice), str(choice))


def _aspects(aspects: dict[str, Any], name: Name) -> str:
    return ", ".join(f"{aspect}: {_pick(answer['choice'], name)}" for aspect, answer in aspects.items())


def _ranking(ranking: list[list[int]], name: Name) -> str:
    return " > ".join(" = ".join(name(index) for index in rank) for rank in ranking)


def _each(say: Callable[[Any], str]) -> Callable[[list[Any], Name], str]:
    """A phrase for each candidate of which anything is said."""

    def phrase(values: list[Any], name: Name) -> str:
        said = [(index, say(value)) for index, value in enumerate(values) if value is not None]
        return ", ".join(f"{name(index)}: {words}" for index, words in said if words)

    return phrase


def _ratings(ratings: dict[str, Any]) -> str:
    return " ".join(f"{aspect} {value}" for aspect, value in ratings.items())


def _thumb(thumb: int) -> str:
    return _("good") if thumb else _("bad")


def _rubric(met: dict[str, Any]) -> str:
    return " ".join(f"{criterion} {'✓' if holds else '✗'}" for criterion, holds in met.items())


def _critique(critique: str, name: Name) -> str:
    short = critique if len(critique) <= SHOWN else critique[: SHOWN - 1].rstrip() + "…"
    return f"“{short}”"


def _corrections(corrections: list[Any], name: Name) -> str:
    corrected = [name(index) for index, text in enumerate(corrections) if text is not None]
    return _("%(names)s corrected") % {"names": ", ".join(corrected)} if corrected else ""


def _marks(marks: list[dict[str, Any]], name: Name) -> str:
    """How many marks there are; of steps only the first errors count, the others are labels."""
    errors = [mark for mark in marks if mark.get("first_error")]
    others = [mark for mark in marks if mark["type"] != "step" or mark.get("category")]
    others = [mark for mark in others if mark not in errors]
    phrases = [
        _("%(name)s: first error in step %(number)s")
        % {"name": name(mark["candidate"]), "number": mark.get("step", 0) + 1}
        for mark in errors
    ]
    if others:
        number = len(others)
        phrases.append(ngettext("%(number)s mark", "%(number)s marks", number) % {"number": number})
    return ", ".join(phrases) or _("no marks")


def _turns(turns: list[dict[str, Any]], name: Name) -> str:
    said = _("turn %(number)s: %(choice)s")
    return ", ".join(
        said % {"number": turn["turn"] + 1, "choice": _pick(turn["choice"], name)} for turn in turns
    )


PHRASES: Final[dict[str, Callable[[Any, Name], str]]] = {
    "aspects": _aspects,
    "ranking": _ranking,
    "ratings": _each(_ratings),
    "thumbs": _each(_thumb),
    "rubric": _each(_rubric),
    "tags": lambda tags, name: ", ".join(tags),
    "critique": _critique,
    "corrections": _corrections,
    "marks": _marks,
    "turns": _turns,
}
