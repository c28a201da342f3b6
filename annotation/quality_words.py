"""Plain sentences about quality: what a number says, with its uncertainty."""

from collections.abc import Mapping
from typing import Any, Final

from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy, ngettext

from annotation.numbers import number, percent
from annotation.quality.votes import family_of

Rate = Mapping[str, float]
QUESTIONS: Final = {
    "choice": gettext_lazy("Choice"),
    "strength": gettext_lazy("How much better"),
    "aspects": gettext_lazy("Aspect"),
    "ranking": gettext_lazy("Ranking"),
    "ratings": gettext_lazy("Rating"),
    "thumbs": gettext_lazy("Thumbs"),
    "rubric": gettext_lazy("Criterion"),
    "turns": gettext_lazy("Turns"),
    "tags": gettext_lazy("Reason"),
}
LEVELS: Final = {
    "nominal": gettext_lazy("equal or not"),
    "ordinal": gettext_lazy("in order"),
    "interval": gettext_lazy("as numbers"),
}


def question_title(question: str) -> str:
    """In words: "Rating: helpfulness"."""
    family, _dot, part = question.partition(".")
    title = str(QUESTIONS.get(family_of(question), family))
    return f"{title}: {part}" if part else title


def span(found: Rate) -> str:
    """The interval of a rate: "57–65 %"."""
    low, high = number(100 * found["low"]), number(100 * found["high"])
    return _("%(low)s–%(high)s %%") % {"low": low, "high": high}


def _numbers(found: Rate) -> dict[str, Any]:
    return {"share": percent(found["value"]), "span": span(found), "n": number(found["n"])}


def position_sentence(found: Rate | None) -> str | None:
    """How often what is shown first is chosen, and whether a fair coin would do that."""
    if found is None:
        return None
    said = _("What is shown first is chosen %(share)s of the time (%(span)s, %(n)s judgements): %(verdict)s.")
    return said % (_numbers(found) | {"verdict": _against(found, 0.5)})


def place_sentence(row: Mapping[str, Any]) -> str:
    """The place of several that is chosen most, against what chance would give each."""
    chosen, count = row["chosen"], row["candidates"]
    best = max(range(count), key=lambda place: chosen[place]["value"])
    said = _(
        "Of %(count)s candidates, place %(place)s is chosen most: %(share)s of the time (%(span)s, %(n)s "
        "judgements); each place would get %(chance)s by chance."
    )
    return said % (_numbers(chosen[best]) | {"count": count, "place": best + 1, "chance": percent(1 / count)})


def length_sentence(found: Rate | None) -> str | None:
    """How often the longer of two texts is chosen."""
    if found is None:
        return None
    said = _("The longer text is chosen %(share)s of the time (%(span)s, %(n)s judgements): %(verdict)s.")
    return said % (_numbers(found) | {"verdict": _length_verdict(found)})


def ties_sentence(found: Rate | None) -> str | None:
    if found is None:
        return None
    said = _("Nobody wins %(share)s of the time: a tie, or both bad (%(span)s, %(n)s judgements).")
    return said % _numbers(found)


def _against(found: Rate, chance: float) -> str:
    if found["low"] > chance:
        return _("more than chance")
    if found["high"] < chance:
        return _("less than chance")
    return _("no more than chance explains")


def _length_verdict(found: Rate) -> str:
    if found["low"] > 0.5:
        return _("length is preferred, or goes with what is")
    if found["high"] < 0.5:
        return _("brevity is preferred, or goes with what is")
    return _("no preference for either is seen")


def bias_sentences(found: Mapping[str, Any]) -> list[str]:
    """Position, length and ties of a project or of one annotator (a row of the summary)."""
    sentences = [
        position_sentence(found.get("position")),
        *map(place_sentence, found.get("places", [])),
        length_sentence(found.get("length")),
        ties_sentence(found.get("ties")),
    ]
    return [sentence for sentence in sentences if sentence]


def careless_sentence(finding: Mapping[str, Any]) -> str:
    """The evidence of one test of `annotation.quality.careless`."""
    kind, values = finding["kind"], finding["values"]
    n = number(values["n"])
    if kind == "side":
        said = _("Chose what was shown first in %(share)s of %(n)s judgements; sides are drawn by chance.")
        return said % {"share": percent(values["share"]), "n": n}
    if kind == "gold":
        said = _("Got %(share)s of %(n)s known answers right; the others got %(others)s.")
        return said % {"share": percent(values["share"]), "n": n, "others": percent(values["others"])}
    if kind == "agreement":
        said = _(
            "Agrees with the others in %(share)s of %(n)s comparisons, as chance would (%(chance)s); they "
            "agree among themselves in %(others)s."
        )
        shares = {name: percent(values[name]) for name in ("share", "chance", "others")}
        return said % (shares | {"n": n})
    if kind == "run":
        length = round(values["length"])
        said = ngettext(
            "Pressed the same key %(length)s time in a row (of %(n)s judgements).",
            "Pressed the same key %(length)s times in a row (of %(n)s judgements).",
            length,
        )
        return said % {"length": length, "n": n}
    said = _("Takes %(median)s s for a judgement at the median; the others take %(others)s s.")
    return said % {"median": number(values["median"], 1), "others": number(values["others"], 1)}


def answer_words(value: int | float | str | None) -> str:
    """A canonical answer: candidates by their own numbers, counted from 1."""
    if value == "tie":
        return _("tie")
    if value == "both_bad":
        return _("both bad")
    return "–" if value is None else str(value + 1 if isinstance(value, int) else value)


def about_words(about: str) -> str:
    """What an answer is about: the question, and which candidates, counted from 1."""
    question, _hash, which = about.partition("#")
    places = ", ".join(str(int(place) + 1) for place in which.split("-")) if which else ""
    return f"{question_title(question)} {places}".strip()


def said_words(value: int | float | str | None, about: str) -> str:
    """An answer as statistics keep it (`annotation.quality.votes`), perhaps as a JSON key."""
    if isinstance(value, str) and value.lstrip("-").isdigit():
        value = int(value)
    family = family_of(about)
    if family in ("thumbs", "rubric", "tags"):
        return _("yes") if value else _("no")
    if family == "ranking" and isinstance(value, int | float):
        first, second = (str(int(place) + 1) for place in about.partition("#")[2].split("-"))
        return f"{first} = {second}" if not value else " > ".join((first, second)[:: -1 if value > 0 else 1])
    return answer_words(value)


def length_effect_sentence(found: Rate) -> str:
    """What being longer is worth in points."""
    said = _("A text that is three times as long as the other gains %(points)s points (%(low)s to %(high)s).")
    half = {
        name: f"{found[key] / 2:+.0f}".replace("-", "−")
        for name, key in (("points", "value"), ("low", "low"), ("high", "high"))
    }
    return said % half
