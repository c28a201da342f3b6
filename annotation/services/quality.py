"""Quality reports: made from the counts as judgements arrive, and the fits that follow in the background."""

from collections.abc import Iterator
from datetime import datetime, timedelta
from typing import Any, Final

from django.db import transaction
from django.db.models import F, Q

from annotation.models import Project, QualityReport, QualityUnit, User
from annotation.quality import fits, report
from annotation.quality.careless import find_careless
from annotation.quality.leaderboard import as_data, leaderboard
from annotation.quality.votes import Unit
from annotation.services.comparisons import annotator_name
from annotation.services.counting import count_judgements, read_counts, read_results

FIT_SHARE: Final = 0.02  # of the comparisons have changed: time to fit again
FIT_LOST_AFTER: Final = timedelta(minutes=15)
UNITS: Final = 5000
HALVES: Final = (0.6, 0.4)  # of the progress bar: reading, fitting


def refresh_quality(*, now: datetime) -> int:
    """Count what is new and make the summaries that this changes; how many."""
    count_judgements()
    waiting = QualityReport.objects.exclude(changes=F("summary_changes")).order_by("pk")
    behind = list(waiting.values_list("pk", "changes"))
    for pk, changes in behind:
        summary = summarise(Project(pk=pk))
        QualityReport.objects.filter(pk=pk).update(summary=summary, summary_changes=changes, summary_at=now)
    return len(behind)


def summarise(project: Project) -> dict[str, Any]:
    """The summary of a project from its sums."""
    results = read_results(project)
    found = report.summarise(read_counts(project))
    found["leaderboard"] = as_data(leaderboard(results))
    found["leaderboard_by_length"] = as_data(leaderboard(results, by_length=True))
    return found


def refit_quality(*, now: datetime) -> int:
    """Fit the iterative models of every project where enough has changed; how many."""
    done = 0
    while (pk := _claim_fit(now)) is not None:
        _fit(pk, now)
        done += 1
    return done


@transaction.atomic
def _claim_fit(now: datetime) -> int | None:
    """A project whose fit is behind and that nobody is at; a fit whose worker died is taken over."""
    behind = Q(changes__gt=F("fits_changes") * (1 + FIT_SHARE)) | Q(
        fits_at__lt=now - FIT_LOST_AFTER, changes__gt=F("fits_changes")
    )
    free = Q(fitting_since=None) | Q(fitting_since__lt=now - FIT_LOST_AFTER)
    rows = QualityReport.objects.filter(behind, free).order_by("fits_at", "pk")
    found = rows.select_for_update(skip_locked=True, no_key=True).first()
    if found is None:
        return None
    found.fitting_since, found.progress = now, 0.0
    found.save(update_fields=["fitting_since", "progress"])
    return found.pk


def _fit(pk: int, now: datetime) -> None:
    mine = QualityReport.objects.filter(pk=pk, fitting_since=now)
    changes, summary = mine.values_list("changes", "summary").get()
    shown = 0.0

    def on_progress(share: float) -> None:
        nonlocal shown
        if share >= shown + 0.05:
            shown = share
            mine.update(progress=share)

    try:
        found = fit_models(Project(pk=pk), summary or summarise(Project(pk=pk)), on_progress)
    except BaseException:
        mine.update(fitting_since=None)
        raise
    mine.update(fits=found, fits_changes=changes, fits_at=now, fitting_since=None, progress=1.0)


def fit_models(
    project: Project, summary: dict[str, Any], on_progress: fits.OnProgress = lambda _: None
) -> dict[str, Any]:
    """Reliabilities, likely slips, disputed comparisons, and who may be careless."""
    reading, fitting = HALVES
    total = max(1, QualityUnit.objects.filter(project=project).count())

    def units() -> Iterator[tuple[int, Unit]]:
        rows = QualityUnit.objects.filter(project=project).order_by("pk").values_list("pk", "facts")
        for index, (comparison, facts) in enumerate(rows.iterator(chunk_size=UNITS)):
            if index % UNITS == 0:
                on_progress(reading * index / total)
            yield comparison, Unit.from_data(facts)

    answers = fits.gather(units())
    found = fits.fit(answers, lambda share: on_progress(reading + fitting * share))
    main = next((row for row in summary["questions"] if row["question"] != "strength"), None)
    careless = find_careless(
        summary["annotators"], answers.keys, chance=main["chance"] if main is not None else None
    )
    return found | {"careless": [finding.as_data() for finding in careless]}


def reliabilities(project: Project) -> dict[str, float]:
    """How likely each annotator's answer is right, by their names in files; who judged nothing that somebody
    else judged too is not in it. As kept with the project's report; worked out now where nothing is kept yet.
    """
    kept = QualityReport.objects.filter(project=project).values_list("fits", flat=True).first()
    if kept is None:
        count_judgements()
        kept = fit_models(project, summarise(project))
    known: dict[int, float | None] = {
        row["annotator"]: row.get("dawid_skene", row.get("crowd_bt")) for row in kept["reliability"]
    }
    users = User.objects.filter(pk__in=known).values_list("pk", "username")
    return {annotator_name(username): share for pk, username in users if (share := known[pk]) is not None}
