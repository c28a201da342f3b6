"""One annotator's profile: how much they judge, how they tend to, and what they like beside everybody."""

from collections.abc import Mapping
from datetime import date, timedelta
from typing import Any, Final

from django.db.models import Count
from django.utils.translation import gettext as _

from annotation.models import Candidate, Judgement, Project
from annotation.quality.intervals import rate

DAYS: Final = 60
LOOKED_AT: Final = 2000  # of their newest judgements
WIDTH, HEIGHT = 600, 60


def days_of(project: Project, annotator: int, *, today: date) -> dict[str, Any]:
    """Bars of the judgements of each of the last days, the oldest first; `most` in a day, `total` of them."""
    first = today - timedelta(days=DAYS - 1)
    mine = Judgement.objects.standing().filter(comparison__project=project, annotator=annotator)
    rows = mine.filter(created_at__date__gte=first).values("created_at__date").annotate(n=Count("pk"))
    counts = dict(rows.order_by("created_at__date").values_list("created_at__date", "n"))
    most, width = max(counts.values(), default=0), WIDTH / DAYS
    bars = []
    for number in range(DAYS):
        day = first + timedelta(days=number)
        if n := counts.get(day, 0):
            height = HEIGHT * n / most
            place = {"x": f"{number * width:.1f}", "y": f"{HEIGHT - height:.1f}", "height": f"{height:.1f}"}
            bars.append({**place, "width": f"{width - 2:.1f}", "day": day, "n": n})
    return {"bars": bars, "most": most, "total": sum(counts.values()), "first": first, "last": today}


def tendencies(person: Mapping[str, Any], summary: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Which side, which length and how often neither: theirs beside everybody's, each a rate or None."""
    titles = {
        "position": _("Chooses what was shown first"),
        "length": _("Chooses the longer text"),
        "ties": _("Nobody wins"),
    }
    rows = [
        {"title": title, "own": person.get(name), "all": summary.get(name), "chance": name != "ties"}
        for name, title in titles.items()
    ]
    return [row for row in rows if row["own"]]


def tastes(project: Project, annotator: int, summary: Mapping[str, Any]) -> list[dict[str, Any]]:
    """How often they prefer each source to another, beside everybody; the most preferred first.

    A tie, and "both bad", counts one half. Of their newest judgements; sources that met nobody are left out.
    """
    regular = Judgement.objects.standing().filter(kind=Judgement.Kind.REGULAR, choice__isnull=False)
    mine = regular.filter(comparison__project=project, annotator=annotator).order_by("-created_at", "-pk")
    choices = dict(mine.values_list("comparison_id", "choice")[:LOOKED_AT])
    shown: dict[int, dict[int, str]] = {}
    rows = Candidate.objects.filter(comparison__in=list(choices)).exclude(source="")
    for comparison, index, source in rows.values_list("comparison_id", "index", "source").order_by("pk"):
        shown.setdefault(comparison, {})[index] = source
    won: dict[str, float] = {}
    met: dict[str, int] = {}
    for comparison, sources in shown.items():
        if len(set(sources.values())) < 2:
            continue
        for index, source in sources.items():
            choice = choices[comparison]
            met[source] = met.get(source, 0) + 1
            won[source] = won.get(source, 0.0) + (float(choice == index) if isinstance(choice, int) else 0.5)
    pool = {row["source"]: _share_of(row) for row in ((summary.get("leaderboard") or {}).get("rows", []))}
    found = [
        {"source": source, "own": rate(won[source], n), "all": pool.get(source)} for source, n in met.items()
    ]
    return sorted(found, key=lambda row: (-row["own"]["value"], row["source"]))


def _share_of(row: Mapping[str, Any]) -> dict[str, float] | None:
    return rate(row["won"] + row["tied"] / 2, row["won"] + row["tied"] + row["lost"])
