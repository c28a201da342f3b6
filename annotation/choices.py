"""The keys of the judging page: which answers it offers for a comparison, and what each of them sends.

Two candidates with strength have the seven-key scale (1, 2, 3 the first much, plainly, slightly; 0 or 4 the
tie; 5, 6, 7 the second); any other comparison has one digit for each candidate.
"""

from dataclasses import asdict, dataclass
from typing import Any, Final

from annotation.template import BOTH_BAD, TIE

MOST_DIGITS: Final = 9  # more candidates than this have buttons without a key
STRENGTH_WORDS: Final = {3: "much", 2: "", 1: "slightly"}


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


def choices_for(question: dict[str, Any] | None, count: int) -> list[Choice]:
    """The keys for `count` candidates, in the order of the buttons; none where there is nothing to choose."""
    if question is None or count < 2:
        return []
    seven = count == 2 and question["strength"]
    tie = [Choice("0", TIE, None, "Tie", also="4" if seven else "")] if question["tie"] else []
    bad = (
        [Choice("b", BOTH_BAD, None, "Both bad" if count == 2 else "All bad")] if question["both_bad"] else []
    )
    if not seven:
        return [Choice(str(i + 1), i, None, letter(i)) for i in range(count)] + tie + bad
    first = [Choice(str(4 - s), 0, s, "A", STRENGTH_WORDS[s]) for s in (3, 2, 1)]
    second = [Choice(str(4 + s), 1, s, "B", STRENGTH_WORDS[s]) for s in (1, 2, 3)]
    return first + tie + second + bad


def describe(choice: object, strength: int | None) -> str:
    """An answer in words, from what was shown: "A much better", "Tie", "Both bad"."""
    if choice == TIE:
        return "Tie"
    if choice == BOTH_BAD:
        return "Both bad"
    if not isinstance(choice, int):
        return "No choice"
    return " ".join(filter(None, [letter(choice), STRENGTH_WORDS.get(strength or 2, ""), "better"]))
