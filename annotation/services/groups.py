"""Groups read back from the database: what exports write and what training learns from."""

from collections.abc import Iterator, Mapping
from datetime import datetime
from typing import Any, Final

from django.contrib.postgres.expressions import ArraySubquery
from django.db.models import Exists, OuterRef, Q, QuerySet
from django.db.models.functions import JSONObject

from annotation.models import Candidate, Comparison, Judgement, Project
from annotation.prompts import with_pictures
from annotation.services.aggregating import aggregator
from annotation.services.comparisons import IMPORT_PREFIX, annotator_name
from annotation.services.filters import GroupFilters, check_filters
from annotation.services.media import pictures_of_prompt

CHUNK: Final = 1000  # comparisons
REVIEW: Final = "review"
UNLESS_ASKED: Final = ("regular", REVIEW, "judge")  # checks and tests are about people, not about answers


def judged_groups(*, project: Project, before: datetime, filters: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """The groups that have judgements standing at `before`, in the shape of the contract's group row.

    Canonical indices and a stable order, some at a time, in constant memory. Images are
    `{"image": name, "storage_key": key}`; a prompt's have their keys in `prompt_images`. Held-out comparisons
    only with `filters["held_out"]`.
    """
    reviews = "overrule" if project.review_overrules else "beside"
    asked = {"judged": True, "reviews": reviews} | filters
    return read_groups(project=project, before=before, filters=check_filters(asked))


def read_groups(
    *, project: Project, before: datetime, filters: GroupFilters, with_numbers: bool = False
) -> Iterator[dict[str, Any]]:
    """All groups that pass the filters, judged or not; see `judged_groups`. `number`: the comparison's id."""
    judgements = _judgements(before, filters)
    comparisons = Comparison.objects.filter(project=project, created_at__lt=before)
    if not filters.held_out:
        comparisons = comparisons.filter(held_out=False)
    if filters.judged is not None:
        has_one = Exists(judgements.filter(comparison=OuterRef("pk")))
        comparisons = comparisons.filter(has_one if filters.judged else ~has_one)
    rows = (
        comparisons.annotate(candidate_rows=ArraySubquery(_candidate_rows()))
        .annotate(judgement_rows=ArraySubquery(_judgement_rows(judgements)))
        .order_by("rank")
        .values("pk", "rank", "prompt", "reference", "meta", "candidate_rows", "judgement_rows")
    )
    put_together = aggregator(project, filters)
    for row in _in_chunks(comparisons, rows):
        group = _group(row)
        _name_pictures(group)
        if filters.passes(group):
            yield put_together(group) | ({"number": row["pk"]} if with_numbers else {})


def _in_chunks(comparisons: QuerySet[Comparison], rows: QuerySet[Any, Any]) -> Iterator[Mapping[str, Any]]:
    """All rows by rank. No transaction or cursor stays open meanwhile, however long that takes.

    Which ones come next is asked first: a plan without statistics would put every row together to sort them.
    """
    last = 0
    while True:
        chunk = comparisons.filter(rank__gt=last).order_by("rank").values_list("pk", "rank")[:CHUNK]
        found = list(chunk)
        yield from rows.filter(pk__in=[pk for pk, _ in found]) if found else ()
        if len(found) < CHUNK:
            return
        last = found[-1][1]


def _judgements(before: datetime, filters: GroupFilters) -> QuerySet[Judgement]:
    judgements = Judgement.objects.standing_at(before)
    if filters.annotators is not None:
        names = [*filters.annotators, *(IMPORT_PREFIX + name for name in filters.annotators)]
        judgements = judgements.filter(annotator__username__in=names)
    kinds = filters.kinds or UNLESS_ASKED
    judgements = judgements.filter(kind__in=kinds)
    if filters.since is not None:
        judgements = judgements.filter(created_at__gte=filters.since)
    if filters.until is not None:
        judgements = judgements.filter(created_at__lt=filters.until)
    if filters.reviews == "overrule" and REVIEW in kinds:
        decided = Judgement.objects.standing_at(before).filter(comparison=OuterRef("comparison"), kind=REVIEW)
        judgements = judgements.filter(Q(kind=REVIEW) | ~Exists(decided))
    return judgements


def _candidate_rows() -> QuerySet[Candidate, Any]:
    row = JSONObject(text="text", image="image__sha256", storage_key="image__storage_key", source="source")
    return Candidate.objects.filter(comparison=OuterRef("pk")).order_by("index").values_list(row)


def _judgement_rows(judgements: QuerySet[Judgement]) -> QuerySet[Judgement, Any]:
    row = JSONObject(
        annotator="annotator__username",
        annotator_group="group__name",
        kind="kind",
        order="order",
        choice="choice",
        strength="strength",
        answers="answers",
        template_version="template_version",
        seconds="seconds",
        at="created_at",
    )
    return judgements.filter(comparison=OuterRef("pk")).order_by("pk").values_list(row)


def _group(row: Mapping[str, Any]) -> dict[str, Any]:
    group = {
        "prompt": row["prompt"],
        "candidates": [_candidate(item) for item in row["candidate_rows"]],
        "judgements": [_judgement(item) for item in row["judgement_rows"]],
    }
    group |= {"reference": row["reference"]} if row["reference"] is not None else {}
    return group | ({"meta": row["meta"]} if row["meta"] else {})


def _name_pictures(group: dict[str, Any]) -> None:
    """The prompt's pictures as files, with `prompt_images`: the key in the storage of each name."""
    if pictures := pictures_of_prompt(group["prompt"]):
        group["prompt_images"] = {f"{one.sha256}.png": one.storage_key for one in pictures}
        group["prompt"] = with_pictures(group["prompt"], lambda _, sha256: {"image": f"{sha256}.png"})


def _candidate(item: dict[str, Any]) -> dict[str, Any]:
    if item["image"] is None:
        candidate = {"text": item["text"]}
    else:
        candidate = {"image": item["image"] + ".png", "storage_key": item["storage_key"]}
    return candidate | ({"source": item["source"]} if item["source"] else {})


def _judgement(item: dict[str, Any]) -> dict[str, Any]:
    answers = item.pop("answers")
    present = {name: value for name, value in item.items() if value is not None}
    present["annotator"] = annotator_name(item["annotator"])
    return {**present, **answers}
