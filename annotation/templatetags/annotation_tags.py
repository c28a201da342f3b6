"""What templates need: Markdown, names of positions, the project's navigation, small plots."""

from typing import Any, NamedTuple

import qrcode
from django import template
from django.template.context import RequestContext
from django.urls import NoReverseMatch, reverse
from django.utils.safestring import SafeString, mark_safe
from django.utils.translation import gettext
from django.utils.translation import gettext_noop as _
from qrcode.image.svg import SvgPathImage

from annotation import numbers, quality_words
from annotation.choices import describe
from annotation.choices import letter as letter_of
from annotation.markdown import first_line, render_content, render_markdown
from annotation.models import Comparison, Judgement, Member
from annotation.permissions import ALLOWED, Action, Role
from annotation.services import answer_as_given, media
from annotation.wording import in_words

register = template.Library()


class Page(NamedTuple):
    label: str
    name: str
    action: Action


# Groups of the navigation; everybody sees what their role may open. A name that no app serves is left out.
PAGES: dict[str, list[Page]] = {
    "": [
        Page(_("Overview"), "annotation:project", Action.SEE),
        Page(_("Judge"), "annotation:judge", Action.JUDGE),
        Page(_("Arena"), "training:arena", Action.SEE),
        Page(_("Guidelines"), "annotation:guidelines", Action.SEE),
        Page(_("History"), "annotation:history", Action.JUDGE),
        Page(_("Review"), "annotation:review", Action.REVIEW),
    ],
    _("Data"): [
        Page(_("Comparisons"), "annotation:data", Action.BROWSE),
        Page(_("Imports"), "annotation:imports", Action.EDIT),
        Page(_("Exports"), "annotation:exports", Action.EXPORT),
    ],
    _("People"): [
        Page(_("Quality"), "annotation:quality", Action.BROWSE),
        Page(_("Leaderboard"), "annotation:leaderboard", Action.BROWSE),
        Page(_("Members"), "annotation:members", Action.PEOPLE),
        Page(_("Groups"), "annotation:groups", Action.PEOPLE),
        Page(_("Skipped"), "annotation:skipped", Action.PEOPLE),
    ],
    _("Tuning"): [
        Page(_("Runs"), "training:runs", Action.WATCH),
        Page(_("Models"), "training:models", Action.WATCH),
        Page(_("Matches"), "training:matches", Action.WATCH),
        Page(_("Schedules"), "training:schedules", Action.WATCH),
    ],
    _("Project"): [
        Page(_("Settings"), "annotation:project_edit", Action.EDIT),
        Page(_("Assignment"), "annotation:assignment", Action.EDIT),
        Page(_("Known answers"), "annotation:gold", Action.EDIT),
        Page(_("Webhooks"), "annotation:webhooks", Action.EDIT),
        Page(_("Audit log"), "annotation:audit", Action.OWN),
    ],
}


@register.simple_tag(takes_context=True)
def may(context: RequestContext, action: str) -> bool:
    """`{% may "edit" as can_edit %}`: whether this person's role in the context's project allows it."""
    return _role(context) in ALLOWED[Action(action)]


def _role(context: RequestContext) -> str:
    """This person's role in the project of the context, read once for each request; "" for outsiders."""
    request, project = context["request"], context["project"]
    roles: dict[int, str] = request.__dict__.setdefault("project_roles", {})
    if project.pk not in roles:
        mine = Member.objects.filter(project=project.pk, user=request.user.pk)
        roles[project.pk] = mine.values_list("role", flat=True).first() or ""
    return roles[project.pk]


@register.inclusion_tag("annotation/_project_nav.html", takes_context=True)
def project_nav(context: RequestContext) -> dict[str, Any]:
    """The pages of the project in the context that this person may open."""
    role, project, match = _role(context), context["project"], context["request"].resolver_match
    groups = []
    for number, (group, pages) in enumerate(PAGES.items()):
        found = [(page, _address(page.name, project.pk)) for page in pages if role in ALLOWED[page.action]]
        links = [
            (page.label, url, bool(match and match.view_name == page.name)) for page, url in found if url
        ]
        if links:
            groups.append((number, group, links))
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
def shown_prompt(comparison: Comparison) -> SafeString:
    """A comparison's prompt with its pictures, for who may look at the project's data."""

    def address(number: int) -> str:
        return reverse("annotation:prompt_image", args=[comparison.project_id, comparison.pk, number])

    return render_content(media.shown_prompt(comparison.prompt, address))


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
    answers = answer_as_given(judgement)
    phrases = list(in_words(answers, letter_of))
    if "choice" in answers or not phrases:
        phrases.insert(0, describe(answers.get("choice"), judgement.strength))
    return "; ".join(phrases)


def _canonical_words(choice: object) -> str:
    return quality_words.answer_words(choice) if isinstance(choice, str) else gettext("no choice")


@register.filter
def canonical(judgement: Judgement) -> str:
    """The answer by the candidates' own numbers, counted from 1."""
    phrases = list(in_words(judgement.answers, lambda index: f"{index + 1}"))
    if isinstance(judgement.choice, int):
        phrases.insert(0, f"{judgement.choice + 1}")
    elif judgement.choice is not None or not phrases:
        phrases.insert(0, _canonical_words(judgement.choice))
    return "; ".join(phrases)


@register.filter
def spoken(question: str) -> str:
    """A question of a template: one that a template has by default is asked in the reader's language."""
    return gettext(question) if question else ""


@register.filter
def role_words(role: str) -> str:
    return str(Role(role).label) if role in Role.values else ""


@register.filter
def percent(share: float | None) -> str:
    return "–" if share is None else numbers.percent(share)


@register.inclusion_tag("annotation/_interval.html")
def interval(
    value: float | None,
    low: float | None,
    high: float | None,
    *,
    reference: float | None = 0.5,
    minimum: float = 0.0,
    maximum: float = 1.0,
) -> dict[str, Any]:
    """A value with its interval on a line from `minimum` to `maximum`, and a mark at `reference`."""

    def place(number: float | None) -> str | None:
        if number is None:
            return None
        share = (number - minimum) / (maximum - minimum)
        return f"{4 + 192 * min(1.0, max(0.0, share)):.1f}"

    return {"value": place(value), "low": place(low), "high": place(high), "reference": place(reference)}


@register.simple_tag
def qr_code(text: str) -> SafeString:
    """An SVG without styles or data addresses, which the content security policy would stop."""
    image = qrcode.make(text, image_factory=SvgPathImage, border=2)
    return mark_safe(image.to_string(encoding="unicode"))  # noqa: S308  made of numbers alone
