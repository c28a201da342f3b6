"""Numbers of the quality pages: rates with their intervals, times, answers in words."""

from collections.abc import Mapping
from typing import Any

from django import template
from django.template.loader import render_to_string
from django.utils.html import format_html
from django.utils.safestring import SafeString
from django.utils.translation import gettext as _

from annotation import quality_words
from annotation.numbers import number
from annotation.services.comparisons import annotator_name
from annotation.templatetags.annotation_tags import interval, percent

register = template.Library()
NOTHING = SafeString('<span class="muted">–</span>')
Rate = Mapping[str, float]


@register.filter
def seconds(value: float | None) -> str:
    """A time as people say it: 4.2 s, 1 min 30 s."""
    if value is None:
        return "–"
    if value < 100:
        return _("%(seconds)s s") % {"seconds": number(value, 1 if value < 10 else 0)}
    minutes, rest = divmod(round(value), 60)
    return _("%(minutes)s min %(seconds)s s") % {"minutes": minutes, "seconds": rest}


@register.filter
def decimals(value: float | None) -> str:
    return "–" if value is None or value == "" else number(value, 2)


@register.filter
def unlocalize_number(value: float | None) -> str:
    """As scripts and attributes want it, whatever the language."""
    return "" if value is None or value == "" else f"{float(value):.4f}"


@register.filter
def answer_words(value: int | float | str | None) -> str:
    return quality_words.answer_words(value)


@register.filter
def said_about(value: int | float | str | None, about: str) -> str:
    """`{{ row.said|said_about:row.about }}`"""
    return quality_words.said_words(value, about)


@register.filter
def about_words(about: str) -> str:
    return quality_words.about_words(about)


@register.filter
def level_words(level: str) -> str:
    return str(quality_words.LEVELS[level])


@register.filter
def plain_name(username: str) -> str:
    return annotator_name(username)


@register.filter
def length_effect_words(found: Rate) -> str:
    return quality_words.length_effect_sentence(found)


@register.simple_tag
def rate_words(found: Rate | None) -> SafeString:
    """83 % of 40, and its interval for who points at it."""
    if not found:
        return NOTHING
    return format_html(
        '{} <span class="small muted">{}</span>', percent(found["value"]), quality_words.span(found)
    )


@register.simple_tag
def rate_cells(found: Rate | None, reference: float | str | None) -> SafeString:
    """Two cells of a table: the rate with its number of observations, and its interval drawn."""
    if not found:
        return SafeString(f'<td class="nowrap">{NOTHING}</td><td class="plot-cell"></td>')
    said = format_html(
        '<td class="nowrap">{} <span class="small muted">{}</span></td>',
        percent(found["value"]),
        _("of %(n)s") % {"n": number(found["n"])},
    )
    mark = reference if isinstance(reference, int | float) else None
    context: dict[str, Any] = interval(found["value"], found["low"], found["high"], reference=mark)
    plot = render_to_string("annotation/_interval.html", context)
    return format_html('{}<td class="plot-cell">{}</td>', said, SafeString(plot))
