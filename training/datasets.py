"""Rows become snapshot files: the only bridge from what people said to what the trainer reads.

A snapshot holds `train.jsonl`, perhaps `eval.jsonl`, and images under `media/`. It is split by prompt, so
that no prompt is in both parts, and depends on nothing but the judgements, the filters and the seed.
"""

import hashlib
import random
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from django.utils.translation import gettext as _
from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, ValidationError

from annotation.errors import Invalid
from annotation.formats.records import check_strings
from annotation.formats.schema import RowError
from annotation.models import Project
from annotation.splitting import canonical, split_score
from annotation.template import plain_text, rename_candidates
from training import storage
from training.models import Snapshot
from training.tuning.data import Group

FOLDER = "snapshots"
PROMPT_IMAGES = "prompt_images"  # of a group on its way: the key in the storage of each picture in its prompt
PICTURED = (
    "All that could be learnt from are {} comparisons with pictures in the prompt, and image models draw "
    "from words alone."
)


class Filters(BaseModel):
    """Which judgements a run learns from. Left out: all of them."""

    model_config = ConfigDict(extra="forbid")

    annotators: list[str] | None = Field(None, min_length=1, description="only theirs, by user name")
    without_annotators: list[str] | None = Field(None, min_length=1, description="not theirs")
    since: AwareDatetime | None = Field(None, description="only those given at this time or later")
    kinds: list[Literal["regular", "gold", "repeat", "review", "qualification", "judge"]] | None = Field(
        None, min_length=1, description="only these; left out: regular ones"
    )
    min_seconds: float | None = Field(None, ge=0, description="not those given faster than this")
    min_agreement: float | None = Field(
        None, ge=0, le=1, description="only comparisons whose commonest choice has this share of the votes"
    )


class EmptySnapshot(Exception):
    """There is nothing to learn from; the sentence says why."""


@dataclass(frozen=True)
class Frozen:
    """A stored snapshot: where, the hash of its content, how much it holds, and of whom."""

    storage_key: str
    sha256: str
    counts: dict[str, int]
    people: dict[str, int]


def check_filters(filters: dict[str, Any]) -> dict[str, Any]:
    """The filters in their stored form. Invalid with paths such as filters.since."""
    if not isinstance(filters, dict):
        raise Invalid({"filters": _("must be an object.")})
    try:
        return Filters.model_validate(filters).model_dump(mode="json", exclude_none=True)
    except ValidationError as error:
        raise Invalid({_field_of(item): _message_of(item) for item in error.errors()}) from None


def store_snapshot(snapshot: Snapshot) -> Frozen:
    """Freeze the project's judgements before the cut-off. Raises EmptySnapshot, with a sentence."""
    from annotation.services import judged_groups

    assert snapshot.project is not None
    if snapshot.prompts_only:
        return _store_prompts(snapshot, snapshot.project)
    filters = Filters.model_validate(snapshot.filters)
    asked = {"kinds": ["regular", "review"]} | filters.model_dump(
        include={"annotators", "kinds", "since"}, exclude_none=True
    )
    empty: list[int] = []
    pictured: list[int] = []
    groups = judged_groups(project=snapshot.project, before=snapshot.cutoff, filters=asked)
    if snapshot.project.modality == "image":
        groups = without_pictured_prompts(groups, pictured)
    kept = keep(without_empty_answers(groups, empty), filters)
    if snapshot.shuffle_labels:
        kept = shuffle_labels(kept, seed=snapshot.seed)
    frozen = _store(kept, eval_fraction=snapshot.eval_fraction, seed=snapshot.seed)
    if not frozen.counts["groups"]:
        if pictured:
            raise EmptySnapshot(PICTURED.format(len(pictured)))
        raise EmptySnapshot(
            "No judgement passes the filters of this run; loosen them."
            if snapshot.filters
            else "There are no judgements to learn from yet; collect some and start the run again."
        )
    left_out = {"groups_with_empty_answers": len(empty), "groups_with_pictured_prompts": len(pictured)}
    return replace(frozen, counts=frozen.counts | left_out)


def _store_prompts(snapshot: Snapshot, project: Project) -> Frozen:
    from annotation.services.groups import check_filters, read_groups

    pictured: list[int] = []
    groups = read_groups(project=project, before=snapshot.cutoff, filters=check_filters({}))
    if project.modality == "image":
        groups = without_pictured_prompts(groups, pictured)
    kept = ("prompt", "reference", PROMPT_IMAGES)
    rows: Iterator[dict[str, Any]] = (
        {key: value for key, value in group.items() if key in kept} for group in groups
    )
    frozen = _store(rows, eval_fraction=snapshot.eval_fraction, seed=snapshot.seed)
    if not frozen.counts["groups"]:
        if pictured:
            raise EmptySnapshot(PICTURED.format(len(pictured)))
        raise EmptySnapshot("There are no prompts yet; import some and start the run again.")
    return replace(frozen, counts=frozen.counts | {"groups_with_pictured_prompts": len(pictured)})


def store_rows(rows: Iterable[dict[str, Any]]) -> Frozen:
    """Freeze given rows, prompts or groups, in their order. Invalid for a row that is no group."""
    return _store(_checked(rows), eval_fraction=0.0, seed=0)


def without_pictured_prompts(
    groups: Iterable[dict[str, Any]], left_out: list[int]
) -> Iterator[dict[str, Any]]:
    """The groups whose prompt is text alone, for work that reads no pictures. The others are noted."""
    for number, group in enumerate(groups):
        if group.get(PROMPT_IMAGES):
            left_out.append(number)
        else:
            yield group


def without_empty_answers(groups: Iterable[dict[str, Any]], left_out: list[int]) -> Iterator[dict[str, Any]]:
    """The groups that a trainer can read: a model may have written nothing. The others' numbers are noted."""
    for number, group in enumerate(groups):
        texts = [candidate["text"] for candidate in group["candidates"] if "text" in candidate]
        if all(plain_text(text).strip() for text in texts):
            yield group
        else:
            left_out.append(number)


def keep(groups: Iterable[dict[str, Any]], filters: Filters) -> Iterator[dict[str, Any]]:
    """The groups with the judgements that pass what the database did not filter; those left with none go."""
    for group in groups:
        judgements = [judgement for judgement in group["judgements"] if _passes(judgement, filters)]
        if judgements and _agreement(judgements) >= (filters.min_agreement or 0):
            yield {**group, "judgements": judgements}


def shuffle_labels(groups: Iterable[dict[str, Any]], *, seed: int) -> Iterator[dict[str, Any]]:
    """Every judgement with the candidates' names permuted at random: a choice is then any of them.

    All are equally likely; ties stay ties. A model trained on such labels must not get better than chance;
    one that does has a leak.
    """
    generator = random.Random(f"shuffled labels {seed}")
    for group in groups:
        count = len(group["candidates"])
        judgements = [
            rename_candidates(judgement, generator.sample(range(count), count))
            for judgement in group["judgements"]
        ]
        yield {**group, "judgements": judgements}


def split_cut(scores: set[float], eval_fraction: float) -> float:
    """Prompts whose score is below this are held out: about `eval_fraction` of them.

    There is at least one on each side. Raises EmptySnapshot if one prompt is all there is.
    """
    if eval_fraction == 0 or not scores:
        return 0.0
    ordered = sorted(scores)
    if len(ordered) == 1:
        raise EmptySnapshot(
            "All judgements are about one prompt, so none can be held out; set eval_fraction to 0."
        )
    return min(max(eval_fraction, ordered[1]), ordered[-1])


def _store(rows: Iterable[dict[str, Any]], *, eval_fraction: float, seed: int) -> Frozen:
    with storage.scratch_folder() as scratch:
        every, folder = scratch / "rows.jsonl", scratch / "snapshot"
        folder.mkdir()
        counts, people, scores = _write_all(rows, every, folder / "media", seed=seed)
        cut = split_cut(set(scores), eval_fraction)
        counts |= _write_parts(every, scores, cut, folder)
        every.unlink()
        stored = storage.put_zip(folder, folder=FOLDER)
        return Frozen(stored.key, content_hash(folder), counts, people)


def content_hash(folder: Path) -> str:
    """SHA-256 over names and hashes of all files of a snapshot, sorted by name."""
    files = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
    lines = [f"{name} {storage.hash_file(folder / name)}\n" for name in files]
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def _write_all(
    rows: Iterable[dict[str, Any]], path: Path, media: Path, *, seed: int
) -> tuple[dict[str, int], dict[str, int], list[float]]:
    """Write every row once, and its images. Returns counts, judgements by person, and rows' split scores."""
    judgements, scores = 0, []
    people: Counter[str | None] = Counter()
    with path.open("w", encoding="utf-8") as file:
        for row in rows:
            file.write(canonical(_with_images(row, media)) + "\n")
            scores.append(split_score(row["prompt"], seed=seed))
            judgements += len(row.get("judgements", ()))
            people.update(judgement.get("annotator") for judgement in row.get("judgements", ()))
    known = {name: n for name, n in people.items() if name is not None}
    counts = {"groups": len(scores), "judgements": judgements, "annotators": len(known)}
    return counts | {"prompts": len(set(scores))}, known, scores


def _write_parts(every: Path, scores: list[float], cut: float, folder: Path) -> dict[str, int]:
    """Deal the rows out to train.jsonl and eval.jsonl."""
    held_out = [score < cut for score in scores]
    with every.open(encoding="utf-8") as rows, (folder / "train.jsonl").open("w", encoding="utf-8") as train:
        if not any(held_out):
            train.writelines(rows)
        else:
            with (folder / "eval.jsonl").open("w", encoding="utf-8") as evaluation:
                for row, is_held_out in zip(rows, held_out, strict=True):
                    (evaluation if is_held_out else train).write(row)
    return {"train_groups": held_out.count(False), "eval_groups": held_out.count(True)}


def _with_images(row: dict[str, Any], media: Path) -> dict[str, Any]:
    """Copy the row's images beside the rows; the row without what only the site knows of them."""
    for name, key in row.get(PROMPT_IMAGES, {}).items():
        _copy_image(key, media / name)
    row = {name: value for name, value in row.items() if name != PROMPT_IMAGES}
    candidates = []
    for candidate in row.get("candidates", ()):
        if "storage_key" in candidate:
            _copy_image(candidate["storage_key"], media / candidate["image"])
            candidate = {name: value for name, value in candidate.items() if name != "storage_key"}
        candidates.append(candidate)
    return {**row, "candidates": candidates} if "candidates" in row else row


def _copy_image(key: str, target: Path) -> None:
    if not target.exists():
        target.parent.mkdir(parents=True, exist_ok=True)
        storage.copy_to(key, target)


def _checked(rows: Iterable[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    for number, row in enumerate(rows):
        bare = {**row, "candidates": [_bare(candidate) for candidate in row.get("candidates", ())]}
        try:
            Group.model_validate(bare)
        except ValidationError as error:
            item = error.errors()[0]
            field = ".".join(["rows", str(number), *(str(part) for part in item["loc"])])
            raise Invalid({field: _message_of(item)}) from None
        try:
            check_strings(bare, f"rows.{number}")
        except RowError as error:
            raise Invalid({error.field: error.reason}) from None
        yield row


def _bare(candidate: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in candidate.items() if name != "storage_key"}


def _passes(judgement: dict[str, Any], filters: Filters) -> bool:
    seconds = judgement.get("seconds")
    return judgement["annotator"] not in (filters.without_annotators or ()) and (
        filters.min_seconds is None or seconds is None or seconds >= filters.min_seconds
    )


def _agreement(judgements: list[dict[str, Any]]) -> float:
    votes = [canonical(judgement.get("choice")) for judgement in judgements]
    return max(votes.count(vote) for vote in votes) / len(votes)


def _field_of(item: Any) -> str:
    return ".".join(["filters", *(str(part) for part in item["loc"])])


def _message_of(item: Any) -> str:
    return (
        _("unknown key") if item["type"] == "extra_forbidden" else item["msg"].removeprefix("Value error, ")
    )
