"""What templates need: Markdown, names of positions, the project's navigation, small plots."""

from typing import Any, NamedTuple

from django import template
from django.template.context import RequestContext
from django.urls import NoReverseMatch, reverse
from django.utils.safestring import SafeString

from annotation.choices import describe
from annotation.choices import letter as letter_of
from annotation.markdown import first_line, render_content, render_markdown
from annotation.models import Judgement, Member

register = template.Library()


class Page(NamedTuple):
    label: str
    name: str


# Groups of the navigation; a name that no app serves is left out.
MANAGER_PAGES: dict[str, list[Page]] = {
    "": [Page("Overview", "annotation:project"), Page("Judge", "annotation:judge")],
    "Data": [
        Page("Comparisons", "annotation:data"),
        Page("Imports", "annotation:imports"),
        Page("Exports", "annotation:exports"),
    ],
    "People": [Page("Quality", "annotation:quality"), Page("Members", "annotation:members")],
    "Tuning": [
        Page("Runs", "training:runs"),
        Page("Models", "training:models"),
        Page("Matches", "training:matches"),
        Page("Schedules", "training:schedules"),
    ],
    "Project": [Page("Guidelines", "annotation:guidelines"), Page("Settings", "annotation:project_edit")],
}
ANNOTATOR_PAGES: dict[str, list[Page]] = {
    "": [
        Page("Overview", "annotation:project"),
        Page("Judge", "annotation:judge"),
        Page("Guidelines", "annotation:guidelines"),
        Page("History", "annotation:history"),
    ],
}


@register.inclusion_tag("annotation/_project_nav.html", takes_context=True)
def project_nav(context: RequestContext) -> dict[str, Any]:
    """The pages of the project in the context, for the role that this person has in it."""
    request, project = context["request"], context["project"]
    role = (
        Member.objects.filter(project=project.pk, user=request.user.pk).values_list("role", flat=True).first()
    )
    match = request.resolver_match
    groups = []
    for group, pages in (MANAGER_PAGES if role == Member.Role.MANAGER else ANNOTATOR_PAGES).items():
        found = [(page, _address(page.name, project.pk)) for page in pages]
        links = [
            (page.label, url, bool(match and match.view_name == page.name)) for page, url in found if url
        ]
        if links:
            groups.append((group, links))
    return {"groups": groups}


def _address(name: str, pk: int) -> str | None:
    try:
        return reverse(name, args=[pk])
    except NoReverseMatch:
        return None


@register.filter
def markdown(text: str) -> SafeString:
    return render_markdown(text)


@register.filter
def content(value: str | list[dict[str, str]]) -> SafeString:
    return render_content(value)


@register.filter
def firstline(value: str | list[dict[str, str]]) -> str:
    return first_line(value)


@register.filter
def letter(position: object) -> str:
    """A, B, C … for a presented position."""
    return letter_of(position) if isinstance(position, int) else ""


@register.filter
def as_shown(judgement: Judgement) -> str:
    """The answer in the words of who gave it: positions as they saw them. Empty where that is not known."""
    if judgement.order is None:
        return ""
    shown = judgement.order.index(judgement.choice) if isinstance(judgement.choice, int) else judgement.choice
    return describe(shown, judgement.strength)


@register.filter
def canonical(judgement: Judgement) -> str:
    """The answer by the candidates' own numbers, counted from 1."""
    if isinstance(judgement.choice, int):
        return f"{judgement.choice + 1}"
    return describe(judgement.choice, None).lower()


@register.filter
def percent(share: float | None) -> str:
    return "–" if share is None else f"{100 * share:.0f} %"


@register.inclusion_tag("annotation/_interval.html")
def interval(
    value: float | None,
    low: float | None,
    high: float | None,
    *,
    reference: float = 0.5,
    minimum: float = 0.0,
) -> dict[str, Any]:
    """A value with its interval on a line from `minimum` to 1, and a mark at `reference`."""

    def place(number: float | None) -> str | None:
        return None if number is None else f"{4 + 192 * (number - minimum) / (1 - minimum):.1f}"

    return {"value": place(value), "low": place(low), "high": place(high), "reference": place(reference)}
