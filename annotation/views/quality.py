"""Do people agree, and who with whom."""

from collections.abc import Iterable
from typing import Any, Final

from django.contrib.auth.decorators import login_required
from django.http import HttpResponse
from django.shortcuts import render
from django.views.decorators.http import require_GET

from annotation.agreement import Annotator, annotators, summarise
from annotation.permissions import Action
from annotation.views.access import SignedIn, project_for

BAR_WIDTH: Final = 600
BIAS_MIN: Final = 10  # fewer one-sided answers say nothing about bias


@login_required
@require_GET
def quality(request: SignedIn, pk: int) -> HttpResponse:
    """Agreement of the project with its interval, and a row for each annotator."""
    project = project_for(request, pk, Action.BROWSE)
    people = annotators(project)
    context = {
        "project": project,
        "summary": summarise(project),
        "people": people,
        "sides": _sides(people),
        "leaning": [person for person in people if _leans(person)],
    }
    return render(request, "annotation/quality.html", context)


@login_required
@require_GET
def agreement(request: SignedIn, pk: int) -> HttpResponse:
    """The first of the five answers, fetched by the project's page after it is there."""
    project = project_for(request, pk, Action.BROWSE)
    return render(request, "annotation/_agreement.html", {"project": project, "summary": summarise(project)})


def _sides(people: Iterable[Annotator]) -> list[dict[str, Any]]:
    """How often the first, neither and another candidate was preferred, as pieces of one bar."""
    first = second = neither = 0
    for person in people:
        chosen_first = round(person.first_side.value * person.sided) if person.first_side else 0
        first += chosen_first
        second += person.sided - chosen_first
        neither += person.undecided
    total = first + second + neither
    pieces, start = [], 0.0
    for css, label, number in (
        ("a", "shown first", first),
        ("tie", "tie or both bad", neither),
        ("b", "shown after", second),
    ):
        width = BAR_WIDTH * number / total if total else 0.0
        share = number / total if total else 0.0
        pieces.append(
            {
                "css": css,
                "label": label,
                "number": number,
                "share": share,
                "x": f"{start:.1f}",
                "width": f"{width:.1f}",
            }
        )
        start += width
    return pieces if total else []


def _leans(person: Annotator) -> bool:
    """Whether the interval of how often they prefer what is shown first leaves out one half."""
    side = person.first_side
    return side is not None and person.sided >= BIAS_MIN and not side.low <= 0.5 <= side.high
