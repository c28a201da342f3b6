"""The keys of the judging page, and where a person has moved them."""

from typing import Any, Final

from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy, gettext_noop

from annotation.errors import Invalid

ALLOWED: Final = frozenset("abcdefghijklmnopqrstuvwxyz0123456789")
MEANINGS: Final[dict[str, str]] = {
    "1": gettext_noop("A much better; the first answer or option"),
    "2": gettext_noop("A better; the second"),
    "3": gettext_noop("A slightly better; the third"),
    "4": gettext_noop("Tie between two; the fourth"),
    "5": gettext_noop("B slightly better; the fifth"),
    "6": gettext_noop("B better; the sixth"),
    "7": gettext_noop("B much better; the seventh"),
    "8": gettext_noop("The eighth answer or option"),
    "9": gettext_noop("The ninth answer or option"),
    "0": gettext_noop("Tie"),
    "b": gettext_noop("Both bad"),
    "s": gettext_noop("Skip"),
    "z": gettext_noop("Undo"),
    "r": gettext_noop("Reasons: open and close, or go to where you write"),
    "c": gettext_noop("Correct an answer"),
    "d": gettext_noop("Differences between two texts"),
    "j": gettext_noop("Next step"),
    "k": gettext_noop("Step before"),
    "x": gettext_noop("First error"),
    "f": gettext_noop("Pictures: fit"),
    "g": gettext_noop("Guidelines"),
    "h": gettext_noop("History"),
    "t": gettext_noop("Your session"),
}
LABELS: Final = {key: gettext_lazy(words) for key, words in MEANINGS.items()}


def whole_map(moved: dict[str, str]) -> dict[str, str]:
    """For each key of the page the one that this person presses."""
    return {key: moved.get(key, key) for key in MEANINGS}


def check_keys(keys: dict[str, Any]) -> dict[str, str]:
    """What differs from the page's own keys. Raises `Invalid` by key: letters and digits only, each once."""
    errors, seen = {}, dict[str, str]()
    for key in MEANINGS:
        pressed = str(keys.get(key, key)).strip().lower()
        if pressed not in ALLOWED:
            errors[key] = _("takes one letter from a to z, or one digit.")
        elif pressed in seen:
            errors[key] = _("is taken: %(key)s already means “%(meaning)s”.") % {
                "key": pressed.upper(),
                "meaning": _(MEANINGS[seen[pressed]]),
            }
        seen.setdefault(pressed, key)
    if unknown := keys.keys() - MEANINGS.keys():
        errors |= dict.fromkeys(sorted(unknown), _("is no key of the judging page."))
    if errors:
        raise Invalid(errors)
    chosen = {key: str(keys.get(key, key)).strip().lower() for key in MEANINGS}
    return {key: pressed for key, pressed in chosen.items() if pressed != key}
