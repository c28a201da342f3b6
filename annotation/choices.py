"""The keys of the judging page: which answers it offers for a comparison, and what each of them sends.

Two candidates with strength have the seven-key scale (1, 2, 3 the first much, plainly, slightly; 0 or 4 the
tie; 5, 6, 7 the second); any other comparison has one digit for each candidate.
"""

from dataclasses import asdict, dataclass
from typing import Any, Final

from django.utils.translation import gettext as _

from annotation.template import BOTH_BAD, TIE

MOST_DIGITS: Final = 9  # more candidates than this have buttons without a key


@dataclass(frozen=True)
class Choice:
    """One key. `choice` is a presented position, "tie" or "both_bad"; the button says `name` and `word`."""

    key: str
    choice: int | str
    strength: int | None
    name: str
    word: str = ""
    also: str = ""  # another key that does the same

    @property
    def css(self) -> str:
        side = {0: "a", 1: "b", TIE: "tie", BOTH_BAD: "bad"}.get(self.choice, "other")
        return f"{side} s{self.strength}" if self.strength else f"{side} none" if side == "bad" else side

    def as_data(self) -> dict[str, Any]:
        return asdict(self) | {"css": self.css}


def letter(position: int) -> str:
    """The name of a presented position: A, B, C, …; a number where the letters end."""
    return chr(ord("A") + position) if position < 26 else str(position + 1)


def _strength_word(strength: int) -> str:
    """What stands beside A or B on a button."""
    return {3: _("much"), 1: _("slightly")}.get(strength, "")


def choices_for(question: dict[str, Any] | None, count: int) -> list[Choice]:
    """The keys for `count` candidates, in the order of the buttons; none where there is nothing to choose."""
    if question is None or count < 2:
        return []
    seven = count == 2 and question["strength"]
    tie = [Choice("0", TIE, None, _("Tie"), also="4" if seven else "")] if question["tie"] else []
    all_bad = _("Both bad") if count == 2 else _("All bad")
    bad = [Choice("b", BOTH_BAD, None, all_bad)] if question["both_bad"] else []
    if not seven:
        return [Choice(str(i + 1), i, None, letter(i)) for i in range(count)] + tie + bad
    first = [Choice(str(4 - s), 0, s, "A", _strength_word(s)) for s in (3, 2, 1)]
    second = [Choice(str(4 + s), 1, s, "B", _strength_word(s)) for s in (1, 2, 3)]
    return first + tie + second + bad


def describe(choice: object, strength: int | None) -> str:
    """An answer in words, from what was shown: "A much better", "Tie", "Both bad"."""
    if choice == TIE:
        return _("Tie")
    if choice == BOTH_BAD:
        return _("Both bad")
    if not isinstance(choice, int):
        return _("No choice")
    said = {3: _("%(name)s much better"), 1: _("%(name)s slightly better")}
    return said.get(strength or 2, _("%(name)s better")) % {"name": letter(choice)}
