"""Adding comparisons to the end of a project's queue."""

import hashlib
import json
import random
import uuid
from collections.abc import Iterable, Iterator, Sequence
from datetime import datetime
from typing import Any

from django.db import transaction
from django.db.models import Max
from django.utils import timezone

from annotation.models import (
    Candidate,
    Comparison,
    ImportJob,
    Judgement,
    Media,
    Project,
    QueueStrategy,
    Reservation,
    User,
)
from annotation.services.copying import copy_rows
from annotation.services.searching import note_new_comparisons
from annotation.services.statements import fetch
from annotation.services.strategies import lock_members, lower_frontiers, new_key
from annotation.template import can_be_judged, differences_of

KNOWN = """
SELECT content_key FROM annotation_comparison
WHERE project_id = %(project)s AND content_key = ANY(%(keys)s::text[])
"""
IMPORT_PREFIX = "import:"  # no person's name may contain a colon
COLUMNS = (
    "annotator",
    "kind",
    "order",
    "choice",
    "strength",
    "template_version",
    "seconds",
    "at",
    "differences",
)


def add_comparisons(
    *,
    project: Project,
    groups: Iterable[dict[str, Any]],
    held_out: bool = False,
    import_job: ImportJob | None = None,
    needed: int | None = None,
    shuffle_seed: int | None = None,
) -> list[Comparison]:
    """Append groups to the queue, in their order or shuffled.

    A group is `{"prompt", "candidates": [{"text" | "image": Media, "source"}], "meta", "judgements"}`; the
    judgements, canonical as in a group row, come from elsewhere and belong to users who cannot sign in.
    `needed` people judge each one: by default as many as the project wants, less those who have; nobody
    where the template asks nothing about so few candidates.
    """
    ids = add_groups(
        project=project,
        groups=list(groups),
        held_out=held_out,
        import_job=import_job,
        needed=needed,
        shuffle_seed=shuffle_seed,
    )
    found = Comparison.objects.in_bulk(ids)
    return [found[pk] for pk in ids]


@transaction.atomic
def add_groups(
    *,
    project: Project,
    groups: list[dict[str, Any]],
    held_out: bool = False,
    import_job: ImportJob | None = None,
    needed: int | None = None,
    shuffle_seed: int | None = None,
) -> list[int]:
    """See `add_comparisons`; for many of them: the ids only."""
    # Locked, so that ranks become visible in order.
    project = Project.objects.select_for_update(no_key=True).get(pk=project.pk)
    first = (Comparison.objects.filter(project=project).aggregate(last=Max("rank"))["last"] or 0) + 1
    ranks = list(range(first, first + len(groups)))
    if shuffle_seed is not None:
        random.Random(shuffle_seed).shuffle(ranks)
    rows = []
    for group, rank in zip(groups, ranks, strict=True):
        done = _labels(group)
        slots = _slots(project, group, done) if needed is None else needed
        row = {
            "project_id": project.pk,
            "rank": rank,
            "queue_key": new_key(project, rank=rank, labels=done),
            "prompt": group["prompt"],
            "prompt_key": digest_of(group["prompt"]),
            "content_key": group.get("content_key") or content_key(group),
            "held_out": held_out,
            "needed": slots,
            "open_slots": slots,
            "reference": group.get("reference"),
            "meta": group.get("meta", {}),
            "import_job_id": import_job and import_job.pk,
        }
        rows.append(row)
    reserved = _reserve_slots(project, rows)
    ids = copy_rows(Comparison, rows)
    copy_rows(Candidate, list(_candidates(ids, groups)))
    copy_rows(Reservation, [{"comparison_id": ids[number], **row} for number, row in reserved])
    note_new_comparisons(project, ids)
    _add_judgements(project, ids, groups)
    if project.queue_strategy != QueueStrategy.ORDER and rows:
        lock_members([project.pk])
        lower_frontiers(project.pk, key=min(row["queue_key"] for row in rows))
    return ids


def _reserve_slots(project: Project, rows: list[dict[str, Any]]) -> list[tuple[int, dict[str, Any]]]:
    """Keep open slots for the groups that are to give judgements of their own, as far as there are any.

    Sets the rows' `reserved_open`; the reservations come with the numbers of their rows.
    """
    groups = list(project.annotator_groups.filter(reserved_labels__gt=0).order_by("pk"))
    reserved = []
    for number, row in enumerate(rows) if groups else ():
        left = row["open_slots"]
        for group in groups:
            slots = min(group.reserved_labels, left)
            left -= slots
            if slots:
                values = {"queue_key": row["queue_key"], "needed": slots, "open_slots": slots}
                reserved.append((number, {"group_id": group.pk, **values}))
        row["reserved_open"] = row["open_slots"] - left
    return reserved


_canonical = json.JSONEncoder(sort_keys=True, allow_nan=False).encode


def digest_of(value: object) -> str:
    """SHA-256 of a JSON value, whatever its keys' order."""
    return hashlib.sha256(_canonical(value).encode()).hexdigest()


def content_key(group: dict[str, Any]) -> str:
    """Equal for groups with the same prompt and the same candidates in the same order."""
    contents = [item["image"].sha256 if "image" in item else item["text"] for item in group["candidates"]]
    return digest_of([group["prompt"], contents])


def _labels(group: dict[str, Any]) -> int:
    """Judgements that it brings along and that count as filled slots."""
    return sum(item.get("kind", "regular") == "regular" for item in group.get("judgements", ()))


def without_duplicates(
    *, project: Project, groups: list[dict[str, Any]], skip: bool
) -> tuple[list[dict[str, Any]], int]:
    """The groups to add, and how many equal another of them or of the project; with `skip` without these.

    Call it in the transaction that adds them: it locks the project, so that nobody adds an equal one.
    """
    Project.objects.select_for_update(no_key=True).get(pk=project.pk)
    keys = [content_key(group) for group in groups]
    seen = {key for (key,) in fetch(KNOWN, {"project": project.pk, "keys": keys})}
    new, equal = [], 0
    for group, key in zip(groups, keys, strict=True):
        again = key in seen
        equal += again
        seen.add(key)
        if not (again and skip):
            new.append(group | {"content_key": key})
    return new, equal


def _slots(project: Project, group: dict[str, Any], done: int) -> int:
    if not can_be_judged(project.questions, len(group["candidates"])):
        return 0
    return max(0, project.labels_per_comparison - done)


def _candidates(ids: Sequence[int], groups: Sequence[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    for pk, group in zip(ids, groups, strict=True):
        for index, item in enumerate(group["candidates"]):
            image: Media | None = item.get("image")
            yield {
                "comparison_id": pk,
                "index": index,
                "text": item.get("text"),
                "image_id": image and image.pk,
                "source": item.get("source") or "",
            }


def _add_judgements(project: Project, ids: Sequence[int], groups: Sequence[dict[str, Any]]) -> None:
    found = [
        (pk, group, item)
        for pk, group in zip(ids, groups, strict=True)
        for item in group.get("judgements", ())
    ]
    if not found:
        return
    users = import_users({item.get("annotator", "import") for *_, item in found})
    now = timezone.now()
    copy_rows(
        Judgement,
        [
            _judgement(project, pk, item, users, now) | {"differences": _differences(group, item)}
            for pk, group, item in found
        ],
    )


def _differences(group: dict[str, Any], item: dict[str, Any]) -> list[Any] | None:
    """Of a judgement's corrections from the texts that they correct."""
    texts = [candidate.get("text") for candidate in group["candidates"]]
    if item.get("corrections") is None or None in texts:
        return None
    return differences_of(item["corrections"], texts)


def _judgement(
    project: Project, comparison: int, item: dict[str, Any], users: dict[str, User], now: datetime
) -> dict[str, Any]:
    return {
        "comparison_id": comparison,
        "annotator_id": users[item.get("annotator", "import")].pk,
        "kind": item.get("kind", "regular"),
        "order": item.get("order"),
        "choice": item.get("choice"),
        "strength": item.get("strength"),
        "answers": {name: value for name, value in item.items() if name not in COLUMNS},
        "template_version": item.get("template_version", project.template_version),
        "seconds": item.get("seconds"),
        "created_at": datetime.fromisoformat(item["at"]) if "at" in item else now,
        "client_id": uuid.uuid4(),
        "request_digest": "",
    }


def import_users(names: set[str]) -> dict[str, User]:
    """Users who cannot sign in, one for each annotator's name in a file."""
    usernames = {IMPORT_PREFIX + name: name for name in sorted(names)}
    new = [User(username=username, is_active=False) for username in usernames]
    for user in new:
        user.set_unusable_password()
    User.objects.bulk_create(new, ignore_conflicts=True)
    found = User.objects.filter(username__in=usernames).order_by("pk")
    return {usernames[user.username]: user for user in found}


def annotator_name(username: str) -> str:
    """As it stands in files: without the mark of an imported annotator."""
    return username.removeprefix(IMPORT_PREFIX)
