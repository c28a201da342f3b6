"""What the training templates need: numbers, durations, the spread of token lengths."""

from typing import Any

from django import template
from django.utils.formats import number_format
from django.utils.translation import gettext as _

from annotation import numbers
from training.browsing import accuracy_of, seconds_of
from training.models import Match, Round, Run
from training.overoptimisation import Law
from training.round_browsing import reason_of
from training.services import name_of_base
from training.tuning.registry import get_method

register = template.Library()


@register.filter
def figure(value: Any) -> str:
    """A number with three significant digits; – for nothing."""
    if value is None or isinstance(value, bool) or not isinstance(value, int | float):
        return "–" if value is None else str(value)
    if isinstance(value, int) or value == int(value):
        return numbers.number(value)
    if abs(value) >= 1000:
        return numbers.number(value)
    short = f"{value:.3g}"
    return short if "e" in short else numbers.signed(number_format(short), value)


@register.filter
def reason(shown: Round) -> str:
    return reason_of(shown)


@register.filter
def duration(seconds: float | None) -> str:
    return "–" if seconds is None else numbers.duration(seconds)


@register.filter
def took(run: Run) -> str:
    """From the start of the last attempt to the end."""
    return duration(seconds_of(run))


@register.filter
def base_of(run: Run) -> str:
    return name_of_base(run)


@register.filter
def left_of(match: Match) -> str:
    return name_of_base(match.left_run)


@register.filter
def right_of(match: Match) -> str:
    return name_of_base(match.right_run)


@register.filter
def method_title(name: str) -> str:
    return _(get_method(name).title)


@register.filter
def held_out_accuracy(run: Run) -> str:
    if not hasattr(run, "checkpoint"):
        return "–"
    rate = accuracy_of(run.checkpoint).get("rate")
    return "–" if rate is None else numbers.percent(rate)


@register.filter
def share(part: int, whole: int | None) -> float:
    return part / whole if whole else 0.0


@register.inclusion_tag("training/_lengths.html")
def lengths(found: dict[str, float]) -> dict[str, Any]:
    """The spread of token lengths as a line from 0 to the longest, with the middle 95 % thick."""
    longest = found["max"] or 1

    def place(value: float) -> str:
        return f"{4 + 392 * value / longest:.1f}"

    return {name: place(found[name]) for name in ("min", "median", "p95", "max")} | {"found": found}


@register.inclusion_tag("training/_overoptimisation.html")
def overoptimisation(curves: dict[str, Any]) -> dict[str, Any]:
    """Gains against distance: lines for what was logged and for the law, dots for people."""
    found = [("accent", curves["proxy"]), ("b", curves["gold"])]
    if law := curves["law"]:
        fitted = Law(law["alpha"], law["beta"])
        reach = max(one["d"] for one in curves["proxy"])
        found.append(("law", [{"d": reach * n / 50, "gain": fitted.at(reach * n / 50)} for n in range(51)]))
    people = curves["people"]
    gains = [one["gain"] for _, points in found for one in points] + [0.0]
    gains += [one[key] for one in people for key in ("low", "high")]
    low, high = min(gains), max(gains)
    far = max([one["d"] for _, points in found for one in points] + [one["d"] for one in people]) or 1.0

    def x(d: float) -> str:
        return f"{40 + 370 * d / far:.1f}"

    def y(gain: float) -> str:
        return f"{170 - 160 * (gain - low) / ((high - low) or 1):.1f}"

    lines = [
        {"kind": kind, "points": " ".join(f"{x(one['d'])},{y(one['gain'])}" for one in points)}
        for kind, points in found
        if points
    ]
    dots = [
        {
            "x": x(one["d"]),
            "y": y(one["gain"]),
            "low": y(one["low"]),
            "high": y(one["high"]),
            "title": _("run %(id)s") % {"id": one["run"]},
        }
        for one in people
    ]
    stop = x(curves["stop"]["d"]) if curves["stop"] else None
    shown = {"lines": lines, "dots": dots, "stop": stop, "zero": y(0)}
    return {**shown, "low": low, "high": high, "far": far, "curves": curves}


@register.inclusion_tag("training/_reliability.html")
def reliability(bins: list[dict[str, float]]) -> dict[str, Any]:
    """How often people agree with margins of each certainty; large dots stand for many pairs."""
    most = max(one["weight"] for one in bins)
    dots = [
        {
            "x": f"{30 + 360 * (one['confidence'] - 0.5):.1f}",
            "y": f"{170 - 160 * one['agreement']:.1f}",
            "r": f"{3 + 5 * (one['weight'] / most) ** 0.5:.1f}",
            "title": _("%(sure)s sure: %(agree)s agree")
            % {"sure": numbers.percent(one["confidence"]), "agree": numbers.percent(one["agreement"])},
        }
        for one in bins
    ]
    return {"bins": dots, "said": "; ".join(str(dot["title"]) for dot in dots)}


@register.inclusion_tag("training/_histogram.html")
def histogram(bins: list[list[float]]) -> dict[str, Any]:
    """Bars for [from, to, count] bins."""
    highest = max((count for _, _, count in bins), default=0) or 1
    width = 392 / max(len(bins), 1)
    bars = [
        {
            "x": f"{4 + number * width + 0.5:.1f}",
            "y": f"{64 - 60 * count / highest:.1f}",
            "width": f"{max(width - 1, 1):.1f}",
            "height": f"{60 * count / highest:.1f}",
            "title": _("%(low)s to %(high)s tokens: %(n)s")
            % {"low": numbers.number(low), "high": numbers.number(high), "n": numbers.number(count)},
        }
        for number, (low, high, count) in enumerate(bins)
    ]
    return {"bars": bars, "low": bins[0][0] if bins else 0, "high": bins[-1][1] if bins else 0}
