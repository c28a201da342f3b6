"""Counting judgements as they arrive, so that nothing is counted twice and no page counts them all.

A light task looks at the judgements behind a cursor and at comparisons that were marked stale. Each
comparison they belong to is read anew; what it was counted as before (`QualityUnit`) is taken away from the
project's sums and what it is now is added. Counting the same comparison again changes nothing.
"""

import json
from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from typing import Final, NamedTuple

import numpy as np
from django.db import connection, transaction
from django.db.models import F

from annotation.models import (
    Comparison,
    GoldAnswer,
    Judgement,
    Project,
    QualityCount,
    QualityCursor,
    QualityReport,
    QualityStale,
    QualityUnit,
    SourceResult,
)
from annotation.quality.counts import Key, contributions, source_results, weighted_results
from annotation.quality.intervals import Floats
from annotation.quality.votes import Unit, Vote, main_question, read_values
from annotation.services.disputes import disputed_among
from annotation.template import find_question

CHUNK: Final = 3000  # judgements, or comparisons, in one transaction
CURSOR: Final = 1
COLUMNS: Final = (
    *("comparison_id", "annotator_id", "kind", "choice", "strength", "answers", "order", "seconds"),
    "template_version",
)

CANDIDATES = """
SELECT comparison_id, source, length(text #>> '{}') FROM annotation_candidate
WHERE comparison_id = ANY(%s) ORDER BY comparison_id, index
"""
ADD_COUNTS = """
INSERT INTO annotation_qualitycount AS known (project_id, topic, key, n)
SELECT * FROM unnest(%s::bigint[], %s::text[], %s::text[], %s::float8[]) ORDER BY 1, 2, 3
ON CONFLICT (project_id, topic, key) DO UPDATE SET n = known.n + excluded.n
"""
HORIZON = "SELECT {}(pg_current_snapshot())::text::bigint"


def mark_stale(comparisons: Iterable[int]) -> None:
    """Have these comparisons counted again. Call it in the transaction that changes what was counted."""
    QualityStale.objects.bulk_create([QualityStale(comparison_id=pk) for pk in comparisons], batch_size=CHUNK)


def count_judgements() -> set[int]:
    """Count all that is new or stale; the projects that it belonged to. Safe to call at the same time.

    What comes while it counts is left to the next call: chunks of the few answers that came during the last
    one would keep a processor busy for as long as people answer.
    """
    QualityCursor.objects.get_or_create(pk=CURSOR)
    projects: set[int] = set()
    while (some := _count_some()) is not None:
        projects |= some.projects
        if not some.is_full:
            break
    return projects


@transaction.atomic
def count_now(comparison: int) -> None:
    """Count a comparison in this transaction: before it is deleted, when nothing is said of it any more."""
    QualityCursor.objects.get_or_create(pk=CURSOR)
    QualityCursor.objects.select_for_update().get(pk=CURSOR)
    _count([comparison])


def count_again(project: Project) -> None:
    """Throw away a project's sums and count it from the start."""
    QualityCursor.objects.get_or_create(pk=CURSOR)
    with transaction.atomic():
        QualityCursor.objects.select_for_update().get(pk=CURSOR)
        for rows in (QualityUnit, QualityCount, SourceResult):
            rows._default_manager.filter(project=project).delete()
        judged = Judgement.objects.filter(comparison__project=project).order_by("comparison_id")
        found = list(judged.values_list("comparison_id", flat=True).distinct())
        for start in range(0, len(found), CHUNK):
            _count(found[start : start + CHUNK])


class _Chunk(NamedTuple):
    projects: set[int]
    is_full: bool  # there may be more


@transaction.atomic
def _count_some() -> _Chunk | None:
    """One chunk; None if there is nothing left, or somebody else is at it."""
    cursor = QualityCursor.objects.select_for_update(skip_locked=True).filter(pk=CURSOR).first()
    if cursor is None:
        return None
    _settle(cursor)
    stale = list(QualityStale.objects.order_by("pk").values_list("pk", "comparison_id")[:CHUNK])
    new = Judgement.objects.filter(pk__gt=cursor.seen).order_by("pk")
    rows = list(new.values_list("pk", "comparison_id")[:CHUNK])
    if rows:
        cursor.seen, cursor.seen_rows = rows[-1][0], cursor.seen_rows + len(rows)
        cursor.horizon = _horizon("pg_snapshot_xmax")
    cursor.save()
    if not rows and not stale:
        return None
    touched = _count({comparison for _, comparison in (*rows, *stale)})
    QualityStale.objects.filter(pk__in=[pk for pk, _ in stale]).delete()
    return _Chunk(touched, is_full=CHUNK in (len(rows), len(stale)))


def _settle(cursor: QualityCursor) -> None:
    """Look for rows up to `seen` that came late, once every transaction that could bring one is over."""
    if cursor.seen == cursor.settled or _horizon("pg_snapshot_xmin") < cursor.horizon:
        return
    between = Judgement.objects.filter(pk__gt=cursor.settled, pk__lte=cursor.seen).order_by()
    if between.count() != cursor.seen_rows:
        mark_stale(between.values_list("comparison_id", flat=True).distinct())
    cursor.settled, cursor.seen_rows = cursor.seen, 0


def _horizon(function: str) -> int:
    with connection.cursor() as cursor:
        cursor.execute(HORIZON.format(function))
        return int(cursor.fetchone()[0])


def _count(comparisons: Collection[int]) -> set[int]:
    """Take away what these comparisons were counted as, add what they are. The cursor's row is locked."""
    now = read_units(comparisons)
    known = QualityUnit.objects.filter(comparison__in=comparisons)
    before = {unit.comparison_id: (unit.project_id, Unit.from_data(unit.facts)) for unit in known}
    sums: dict[int, Counter[Key]] = {}
    results: dict[int, list[tuple[int, Counter[Key]]]] = {}
    changed: Counter[int] = Counter()
    for comparison in sorted({*now, *before}):
        project = (now.get(comparison) or before[comparison])[0]
        old, new = (found[comparison][1] if comparison in found else None for found in (before, now))
        if old == new:
            continue
        changed[project] += 1
        total, change = sums.setdefault(project, Counter()), Counter[Key]()
        for unit, sign in ((old, -1), (new, 1)):
            if unit is not None:
                _add(total, contributions(unit), sign)
                _add(change, source_results(unit), sign)
        results.setdefault(project, []).append((comparison, change))
    _store_units(now, before)
    _add_counts(sums)
    for project, changes in results.items():
        _add_results(project, changes)
    for project, n in changed.items():
        QualityReport.objects.get_or_create(project_id=project)
        QualityReport.objects.filter(project=project).update(changes=F("changes") + n)
    return set(changed)


def _add(total: Counter[Key], part: Mapping[Key, float], sign: int) -> None:
    for key, n in part.items():
        total[key] += sign * n  # type: ignore[assignment]


def read_units(comparisons: Collection[int]) -> dict[int, tuple[int, Unit]]:
    """What these comparisons are now: {comparison: (project, unit)}; only those with a standing judgement."""
    projects = dict(Comparison.objects.filter(pk__in=comparisons).values_list("pk", "project_id"))
    templates = _read_templates(set(projects.values()))
    template_of = {comparison: templates[project] for comparison, project in projects.items()}
    candidates = _read_candidates(comparisons)
    counts = {comparison: len(candidates[comparison]) for comparison in projects}
    votes: dict[int, list[Vote]] = {}
    for judgement in (
        Judgement.objects.standing().filter(comparison__in=comparisons).order_by("pk").only(*COLUMNS)
    ):
        pk = judgement.comparison_id
        votes.setdefault(pk, []).append(_read_vote(judgement, template_of[pk], counts[pk]))
    gold = {
        known.comparison_id: read_values(
            choice=known.choice, strength=None, answers=known.answers, candidates=counts[known.comparison_id]
        )
        for known in GoldAnswer.objects.filter(comparison__in=votes)
    }
    units = {
        pk: Unit(
            main=template_of[pk].main,
            sources=tuple(source for source, _ in candidates[pk]),
            lengths=tuple(length for _, length in candidates[pk]),
            votes=tuple(found),
            gold=gold.get(pk, {}),
        )
        for pk, found in votes.items()
    }
    return {pk: (projects[pk], unit) for pk, unit in units.items()}


class _Template(NamedTuple):
    main: str
    tags: tuple[str, ...]
    version: int


def _read_templates(projects: Collection[int]) -> dict[int, _Template]:
    rows = Project.objects.filter(pk__in=projects).values_list("pk", "questions", "template_version")
    found = {}
    for pk, questions, version in rows:
        options = (find_question(questions, "tags") or {}).get("options", [])
        main = main_question({question["type"] for question in questions})
        found[pk] = _Template(main, tuple(option["name"] for option in options), version)
    return found


def _read_vote(judgement: Judgement, template: _Template, candidates: int) -> Vote:
    """Reasons that were offered and not given count as such, where the template is still the same."""
    choice, order, seconds = judgement.choice, judgement.order, judgement.seconds
    values = read_values(
        choice=choice,
        strength=judgement.strength,
        answers=judgement.answers,
        candidates=candidates,
        tags=template.tags if judgement.template_version == template.version else (),
    )
    return Vote(
        judgement.pk,
        judgement.annotator_id,
        judgement.kind,
        values,
        order.index(choice) if order and isinstance(choice, int) else None,
        None if seconds is None else round(seconds, 2),
    )


def _read_candidates(comparisons: Collection[int]) -> dict[int, list[tuple[str, int | None]]]:
    found: dict[int, list[tuple[str, int | None]]] = {}
    with connection.cursor() as cursor:
        cursor.execute(CANDIDATES, [list(comparisons)])
        for comparison, source, length in cursor.fetchall():
            found.setdefault(comparison, []).append((source, length))
    return found


def _store_units(now: dict[int, tuple[int, Unit]], before: Mapping[int, object]) -> None:
    disputed = disputed_among(now)
    rows = [
        QualityUnit(
            comparison_id=comparison,
            project_id=project,
            facts=unit.as_data(),
            disputed=comparison in disputed,
        )
        for comparison, (project, unit) in now.items()
    ]
    QualityUnit.objects.bulk_create(
        rows,
        update_conflicts=True,
        unique_fields=["comparison"],
        update_fields=["facts", "disputed"],
        batch_size=CHUNK,
    )
    gone = before.keys() - now.keys()
    if gone:
        QualityUnit.objects.filter(comparison__in=gone).delete()


def _add_counts(sums: Mapping[int, Counter[Key]]) -> None:
    rows = [
        (project, str(topic), json.dumps(rest), float(n))
        for project, total in sums.items()
        for (topic, *rest), n in total.items()
        if n
    ]
    if rows:
        with connection.cursor() as cursor:
            cursor.execute(ADD_COUNTS, [list(column) for column in zip(*rows, strict=True)])


def _add_results(project: int, changes: list[tuple[int, Counter[Key]]]) -> None:
    added = {json.dumps(key): row for key, row in weighted_results(changes)}
    if not added:
        return
    known = SourceResult.objects.filter(project=project, key__in=added)
    for result in known:
        added[result.key] = added[result.key] + read_sums(result.sums)
    rows = [
        SourceResult(project_id=project, key=key, sums=row.astype(np.float32).tobytes())
        for key, row in added.items()
    ]
    SourceResult.objects.bulk_create(
        rows, update_conflicts=True, unique_fields=["project", "key"], update_fields=["sums"]
    )


def read_sums(data: bytes | memoryview) -> Floats:
    return np.frombuffer(data, dtype=np.float32).astype(float)


def read_counts(project: Project) -> dict[Key, float]:
    """All sums of a project that are not zero."""
    rows = QualityCount.objects.filter(project=project).values_list("topic", "key", "n")
    return {(topic, *json.loads(key)): n for topic, key, n in rows.iterator() if abs(n) > 1e-9}


def read_results(project: Project) -> dict[Key, Floats]:
    rows = SourceResult.objects.filter(project=project).values_list("key", "sums")
    return {tuple(json.loads(key)): read_sums(sums) for key, sums in rows.iterator()}
