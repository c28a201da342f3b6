"""What the quality pages and the API show: reports with people's names and plain sentences. Reads only.

Everything comes from one row, the project's report, whatever the number of its judgements; only the lists
of single judgements read those.
"""

from collections.abc import Iterable, Mapping
from typing import Any, Final

from django.db.models import Exists, F, OuterRef, Prefetch, Q, QuerySet

from annotation.models import (
    Candidate,
    Comparison,
    Judgement,
    Project,
    QualityCursor,
    QualityReport,
    QualityUnit,
    User,
)
from annotation.quality.consensus import consensus_of
from annotation.quality.votes import Unit
from annotation.quality_words import bias_sentences, careless_sentence, question_title
from annotation.services.comparisons import annotator_name

DISAGREEMENTS: Final = 10
LOOKED_AT: Final = 2000  # of an annotator's newest judgements, for what others disagree about
LISTED: Final = 20  # slips and disputed comparisons on the page
MATRIX_MAX: Final = 30  # people of whom a table of pairs can still be read


def read_report(project: Project) -> dict[str, Any]:
    """A project's report. Keys: as_of, waiting (something is not counted yet), summary, fits, fits_as_of,
    fitting and progress; None where there is nothing yet.
    """
    found = QualityReport.objects.filter(project=project).first()
    return {
        "as_of": found.summary_at if found else None,
        "waiting": is_waiting(project),
        "summary": found.summary if found else None,
        "fits": found.fits if found else None,
        "fits_as_of": found.fits_at if found else None,
        "fitting": found is not None and found.fitting_since is not None,
        "progress": found.progress if found else 0.0,
    }


def is_waiting(project: Project) -> bool:
    """Whether judgements of this project are not counted yet."""
    seen = QualityCursor.objects.values_list("seen", flat=True).first() or 0
    return Judgement.objects.filter(pk__gt=seen, comparison__project=project).exists()


def main_question(summary: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """The question whose agreement stands for the project's."""
    questions = summary["questions"] if summary else []
    return next((row for row in questions if row["question"] != "strength"), None)


def annotator_rows(report: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Everybody who judged, most judgements first, with reliabilities and evidence from the fits."""
    summary, fits = report["summary"] or {}, report["fits"] or {}
    reliability = {row["annotator"]: row for row in fits.get("reliability", [])}
    evidence: dict[int, list[dict[str, Any]]] = {}
    for finding in fits.get("careless", []):
        said = {"kind": finding["kind"], "sentence": careless_sentence(finding), "p": finding["p"]}
        evidence.setdefault(finding["annotator"], []).append(said)
    rows = summary.get("annotators", [])
    names = names_of(row["annotator"] for row in rows)
    return [
        row
        | {
            "name": names[row["annotator"]],
            "dawid_skene": reliability.get(row["annotator"], {}).get("dawid_skene"),
            "crowd_bt": reliability.get(row["annotator"], {}).get("crowd_bt"),
            "consensus": reliability.get(row["annotator"], {}).get("consensus"),
            "evidence": evidence.get(row["annotator"], []),
            "sentences": bias_sentences(row),
        }
        for row in rows
    ]


def names_of(users: Any) -> dict[int, str]:
    """Names as they stand in files, by the users' numbers."""
    found = User.objects.filter(pk__in=set(users)).values_list("pk", "username")
    return {pk: annotator_name(username) for pk, username in found}


def question_rows(summary: Mapping[str, Any] | None) -> list[dict[str, Any]]:
    questions = summary["questions"] if summary else []
    return [row | {"title": question_title(row["question"])} for row in questions]


def pair_rows(report: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Cohen's kappa of each two annotators, by name."""
    pairs = (report["summary"] or {}).get("pairs", [])
    names = names_of(who for row in pairs for who in (row["first"], row["second"]))
    return [
        row | {"title": question_title(row["question"]), "names": (names[row["first"]], names[row["second"]])}
        for row in pairs
    ]


def slips(
    project: Project, fits: Mapping[str, Any] | None, limit: int | None = LISTED
) -> list[dict[str, Any]]:
    """Judgements that the consensus speaks against, with their rows; not those taken back since."""
    found = (fits or {}).get("flipped", [])[:limit]
    standing = (
        Judgement.objects.standing()
        .filter(comparison__project=project, pk__in=[row["judgement"] for row in found])
        .select_related("comparison", "annotator")
    )
    rows = {judgement.pk: judgement for judgement in standing}
    return [
        row
        | {"row": rows[row["judgement"]], "name": annotator_name(rows[row["judgement"]].annotator.username)}
        for row in found
        if row["judgement"] in rows
    ]


def disputed(
    project: Project, fits: Mapping[str, Any] | None, limit: int | None = LISTED
) -> list[dict[str, Any]]:
    """Comparisons about which least is settled, with their rows."""
    found = (fits or {}).get("disputed", [])[:limit]
    rows = Comparison.objects.filter(project=project).in_bulk([row["comparison"] for row in found])
    return [row | {"row": rows[row["comparison"]]} for row in found if row["comparison"] in rows]


def consensus_rows(units: Iterable[QualityUnit], fits: Mapping[str, Any] | None) -> list[dict[str, Any]]:
    """What is probably right about each of these comparisons, and how sure that is."""
    fitted = (fits or {}).get("consensus")
    return [
        {"comparison": unit.pk, "about": consensus_of(Unit.from_data(unit.facts), fitted)} for unit in units
    ]


def consensus_about(comparison: Comparison) -> list[dict[str, Any]]:
    """The same of one comparison; empty while nothing is counted."""
    unit = QualityUnit.objects.filter(pk=comparison.pk).first()
    if unit is None:
        return []
    fits = QualityReport.objects.filter(project=comparison.project_id).values_list("fits", flat=True).first()
    (found,) = consensus_rows([unit], fits)
    about: list[dict[str, Any]] = found["about"]
    return about


def last_disagreements(project: Project, annotator: int, limit: int = DISAGREEMENTS) -> list[Judgement]:
    """Their newest regular choices that somebody else did not share; each comparison has the others' too."""
    regular = Judgement.objects.standing().filter(kind=Judgement.Kind.REGULAR)
    others = regular.filter(comparison=OuterRef("comparison")).exclude(annotator=annotator)
    differs = others.filter(~Q(choice=OuterRef("choice")) | ~Q(answers=OuterRef("answers")))
    mine = regular.filter(annotator=annotator, comparison__project=project).order_by("-created_at", "-pk")
    newest = regular.filter(pk__in=mine.values("pk")[:LOOKED_AT])
    shown = newest.filter(Exists(differs)).select_related("comparison").order_by("-created_at", "-pk")
    return list(shown.prefetch_related(*_beside())[:limit])


def _beside() -> tuple[Prefetch, Prefetch]:
    candidates: QuerySet[Candidate] = Candidate.objects.select_related("image").order_by("index")
    judgements = (
        Judgement.objects.standing()
        .filter(kind=Judgement.Kind.REGULAR)
        .annotate(username=F("annotator__username"))
        .order_by("created_at", "pk")
    )
    return (
        Prefetch("comparison__candidates", queryset=candidates),
        Prefetch("comparison__judgements", queryset=judgements),
    )


def pairs_of(report: Mapping[str, Any], annotator: int) -> list[dict[str, Any]]:
    """Kappa of one annotator with each other, who they share most with first."""
    rows = [row for row in pair_rows(report) if annotator in (row["first"], row["second"])]
    return [row | {"other": row["names"][row["first"] == annotator]} for row in rows]


def pair_matrix(report: Mapping[str, Any]) -> dict[str, Any] | None:
    """Kappa of everybody with everybody for the main question, as a table; None if it cannot be read."""
    main = main_question(report["summary"])
    if main is None:
        return None
    rows = [row for row in pair_rows(report) if row["question"] == main["question"]]
    who = {row[side]: row["names"][index] for row in rows for index, side in enumerate(("first", "second"))}
    if not 2 <= len(who) <= MATRIX_MAX:
        return None
    people = sorted(who, key=lambda pk: who[pk])
    known = {frozenset((row["first"], row["second"])): row for row in rows}
    cells = [
        {"name": who[a], "cells": [_cell(known.get(frozenset((a, b)))) if a != b else None for b in people]}
        for a in people
    ]
    return {"names": [who[pk] for pk in people], "rows": cells, "title": question_title(main["question"])}


def _cell(row: Mapping[str, Any] | None) -> dict[str, Any]:
    kappa = row["kappa"] if row else None
    if row is None or kappa is None:
        return {"kappa": None, "n": row["n"] if row else 0, "shade": ""}
    return {"kappa": kappa, "n": row["n"], "shade": f"h{max(0, min(8, round(8 * kappa['value'])))}"}


def scatter_points(people: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """For the plot of time against agreement: everybody whose time and agreement are known."""
    return [
        {
            "name": row["name"],
            "x": row["median_seconds"],
            "y": row["agreement"]["value"],
            "low": row["agreement"]["low"],
            "high": row["agreement"]["high"],
            "n": row["judgements"],
            "flag": bool(row["evidence"]),
        }
        for row in people
        if row["median_seconds"] and row["agreement"]
    ]


def board_of(report: Mapping[str, Any], *, by_length: bool) -> dict[str, Any] | None:
    """The leaderboard, as judged or at equal length; None where nothing can be compared."""
    return (report["summary"] or {}).get("leaderboard_by_length" if by_length else "leaderboard")


def drawn(board: Mapping[str, Any] | None) -> dict[str, Any]:
    """A leaderboard with what its plots need: the range of the points, and the win rates as shades."""
    if not board:
        return {"board": None}
    low = min(row["points"]["low"] for row in board["rows"])
    high = max(row["points"]["high"] for row in board["rows"])
    table = [
        {
            "source": row["source"],
            "cells": [None if i == j else _win_cell(board["table"][i][j]) for j in range(len(board["rows"]))],
        }
        for i, row in enumerate(board["rows"])
    ]
    return {"board": board, "low": low, "high": max(high, low + 1), "table": table}


def _win_cell(cell: list[int]) -> dict[str, Any]:
    won, tied, lost = cell
    n = won + tied + lost
    share = (won + tied / 2) / n if n else None
    return {"n": n, "share": share, "shade": "" if share is None else f"w{round(8 * share)}"}
