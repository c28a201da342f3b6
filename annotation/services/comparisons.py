"""Adding comparisons to the end of a project's queue."""

import hashlib
import json
import random
import uuid
from collections.abc import Callable, Iterable, Sequence
from datetime import datetime
from typing import Any, Final, NamedTuple

from django.db import transaction
from django.utils import timezone

from annotation.models import (
    Candidate,
    Comparison,
    ImportJob,
    Judgement,
    Project,
    QueueStrategy,
    Reservation,
    User,
)
from annotation.services.copying import (
    NULL,
    Written,
    copy_columns,
    copy_rows,
    next_ids,
    nothing,
    written_json,
    written_text,
)
from annotation.services.searching import note_new_comparisons
from annotation.services.statements import fetch
from annotation.services.strategies import lock_members, lower_frontiers, new_key
from annotation.template import can_be_judged, differences_of

KNOWN = """
SELECT content_key FROM annotation_comparison c JOIN string_to_table(%(keys)s, ',') AS k ON c.content_key = k
WHERE project_id = %(project)s
"""
LOCK = "SELECT id FROM annotation_project WHERE id = %(project)s FOR NO KEY UPDATE"
LAST = "SELECT max(rank) FROM annotation_comparison WHERE project_id = %(project)s"
NOTHING: Final[dict[str, Any]] = {}
COMPARED: Final = ("prompt", "prompt_key", "content_key")
CANDIDATE: Final = ("index", "text", "image_id", "source")
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


@transaction.atomic(savepoint=False)  # rows of a savepoint would not count as this transaction's own
def add_groups(
    *,
    project: Project,
    groups: list[dict[str, Any]],
    held_out: bool = False,
    import_job: ImportJob | None = None,
    needed: int | None = None,
    shuffle_seed: int | None = None,
    meanwhile: Callable[[], object] = nothing,
) -> list[int]:
    """See `add_comparisons`, and `copy_columns` for `meanwhile`; for many of them: the ids only."""
    # Locked, so that ranks become visible in order.
    project = Project.objects.select_for_update(no_key=True).get(pk=project.pk)
    ((last,),) = fetch(LAST, {"project": project.pk})
    first = (last or 0) + 1
    ranks = list(range(first, first + len(groups)))
    if shuffle_seed is not None:
        random.Random(shuffle_seed).shuffle(ranks)
    groups = [group if "content" in group else group | {"content": content_of(group)} for group in groups]
    ids = next_ids(Comparison, len(groups))
    contents = [group["content"] for group in groups]
    labels = [_labels(group) for group in groups]
    slots = _slots(project, groups, labels) if needed is None else [needed] * len(groups)
    queue_keys = [new_key(project, rank=rank, labels=done) for rank, done in zip(ranks, labels, strict=True)]
    reserved, reserved_open = _reserve_slots(project, ids, slots, queue_keys)
    columns: dict[str, Sequence[Any]] = {
        "id": ids,
        "rank": ranks,
        "queue_key": queue_keys,
        "needed": slots,
        "open_slots": slots,
        "reserved_open": reserved_open,
        "reference": [group.get("reference") for group in groups],
        "meta": [group.get("meta") or NOTHING for group in groups],
    }
    job = import_job and import_job.pk
    written = Written(COMPARED, [content.comparison for content in contents])
    same = {"project_id": project.pk, "held_out": held_out, "import_job_id": job}
    copy_columns(Comparison, columns, written, meanwhile, **same)
    written = Written(CANDIDATE, [row for content in contents for row in content.candidates])
    named = [pk for pk, content in zip(ids, contents, strict=True) for _ in content.candidates]
    copy_columns(Candidate, {"comparison_id": named}, written, meanwhile)
    copy_rows(Reservation, reserved)
    note_new_comparisons(project, ids)
    _add_judgements(project, ids, groups)
    if project.queue_strategy != QueueStrategy.ORDER and ids:
        lock_members([project.pk])
        lower_frontiers(project.pk, key=min(queue_keys))
    return ids


def _reserve_slots(
    project: Project, ids: list[int], slots: list[int], queue_keys: list[int]
) -> tuple[list[dict[str, Any]], list[int]]:
    """Keep open slots for the groups that are to give judgements of their own, as far as there are any.

    Gives the rows of the reservations, and how many slots of each comparison are reserved.
    """
    groups = list(project.annotator_groups.filter(reserved_labels__gt=0).order_by("pk"))
    if not groups:
        return [], [0] * len(ids)
    rows, reserved = [], []
    for pk, left, queue_key in zip(ids, slots, queue_keys, strict=True):
        kept = 0
        for group in groups:
            own = min(group.reserved_labels, left - kept)
            kept += own
            if own:
                values = {"queue_key": queue_key, "needed": own, "open_slots": own}
                rows.append({"comparison_id": pk, "group_id": group.pk, **values})
        reserved.append(kept)
    return rows, reserved


_canonical = json.JSONEncoder(sort_keys=True, allow_nan=False).encode


def digest_of(value: object) -> str:
    """SHA-256 of a JSON value, whatever its keys' order."""
    return _digest(_canonical(value))


class Content(NamedTuple):
    """What a group's prompt and candidates are known by, and as COPY reads them.

    The keys are the SHA-256 of the prompt and of `[prompt, [candidate, …]]`, an image being its SHA-256.
    `comparison` is written for the columns COMPARED, and each of the `candidates` for CANDIDATE.
    """

    prompt_key: str
    content_key: str
    comparison: str
    candidates: list[str]


def content_of(group: dict[str, Any]) -> Content:
    """Needs no database."""
    prompt = _canonical(group["prompt"])
    contents = [
        _canonical(item["image"].sha256 if "image" in item else item["text"]) for item in group["candidates"]
    ]
    prompt_key, content_key = _digest(prompt), _digest(f"[{prompt}, [{', '.join(contents)}]]")
    return Content(
        prompt_key,
        content_key,
        f"{written_json(prompt)}\t{prompt_key}\t{content_key}",
        [_candidate(index, item, contents[index]) for index, item in enumerate(group["candidates"])],
    )


def _candidate(index: int, item: dict[str, Any], content: str) -> str:
    shown = f"{NULL}\t{item['image'].pk}" if "image" in item else f"{written_json(content)}\t{NULL}"
    source = item.get("source")
    return f"{index}\t{shown}\t{written_text(source) if source else ''}"


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def _labels(group: dict[str, Any]) -> int:
    """Judgements that it brings along and that count as filled slots."""
    judgements = group.get("judgements")
    return sum([item.get("kind", "regular") == "regular" for item in judgements]) if judgements else 0


def without_duplicates(
    *, project: Project, groups: list[dict[str, Any]], skip: bool
) -> tuple[list[dict[str, Any]], int]:
    """The groups to add, and how many equal another of them or of the project; with `skip` without these.

    Call it in the transaction that adds them: it locks the project, so that nobody adds an equal one.
    """
    fetch(LOCK, {"project": project.pk})
    groups = [group if "content" in group else group | {"content": content_of(group)} for group in groups]
    keys = [group["content"].content_key for group in groups]
    seen = {key for (key,) in fetch(KNOWN, {"project": project.pk, "keys": ",".join(keys)})}
    new, equal = [], 0
    for group, key in zip(groups, keys, strict=True):
        again = key in seen
        equal += again
        seen.add(key)
        if not (again and skip):
            new.append(group)
    return new, equal


def _slots(project: Project, groups: Sequence[dict[str, Any]], labels: Sequence[int]) -> list[int]:
    """How many people are still to judge each group."""
    sizes = [len(group["candidates"]) for group in groups]
    asked = {size for size in set(sizes) if can_be_judged(project.questions, size)}
    wanted = project.labels_per_comparison
    return [max(0, wanted - done) if size in asked else 0 for size, done in zip(sizes, labels, strict=True)]


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
