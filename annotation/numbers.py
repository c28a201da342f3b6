"""Numbers, shares and times as the reader's language writes them. Scripts and attributes get plain ones."""

from django.utils.formats import number_format
from django.utils.translation import get_language_bidi
from django.utils.translation import gettext as _

LEFT_TO_RIGHT = "\u200e"  # a mark without which a sign before a number moves behind it in Arabic


def number(value: float, decimals: int = 0) -> str:
    """Rounded, grouped: 1,234.5 in English, 1.234,5 in German."""
    return signed(number_format(f"{value:.{decimals}f}", decimals, force_grouping=True), value)


def signed(text: str, value: float) -> str:
    """A number that is written already, with a real minus that stays before it."""
    text = text.replace("-", "−")
    return LEFT_TO_RIGHT + text if value < 0 and get_language_bidi() else text


def percent(share: float) -> str:
    return _("%(number)s %%") % {"number": number(100 * share)}


def duration(seconds: float) -> str:
    """As people say it: 40 s, 9 min 5 s, 12 min, 3 h 5 min."""
    whole = round(seconds)
    minutes, rest = divmod(whole, 60)
    if whole < 60:
        return _("%(seconds)s s") % {"seconds": whole}
    if whole < 600:
        return _("%(minutes)s min %(seconds)s s") % {"minutes": minutes, "seconds": rest}
    if whole < 3600:
        return _("%(minutes)s min") % {"minutes": round(whole / 60)}
    return _("%(hours)s h %(minutes)s min") % {"hours": minutes // 60, "minutes": minutes % 60}
