"""Adding comparisons to the end of a project's queue."""

import hashlib
import json
import random
import uuid
from collections.abc import Iterable, Sequence
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
from annotation.services.strategies import lock_members, lower_frontiers, new_key
from annotation.template import can_be_judged

IMPORT_PREFIX = "import:"  # no person's name may contain a colon
COLUMNS = ("annotator", "kind", "order", "choice", "strength", "template_version", "seconds", "at")
BATCH = 1000


@transaction.atomic
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
    groups = list(groups)
    project = Project.objects.select_for_update(no_key=True).get(
        pk=project.pk
    )  # ranks become visible in order
    first = (Comparison.objects.filter(project=project).aggregate(last=Max("rank"))["last"] or 0) + 1
    ranks = list(range(first, first + len(groups)))
    if shuffle_seed is not None:
        random.Random(shuffle_seed).shuffle(ranks)
    comparisons = []
    for group, rank in zip(groups, ranks, strict=True):
        done = _labels(group)
        slots = _slots(project, group, done) if needed is None else needed
        comparison = Comparison(
            project=project,
            rank=rank,
            queue_key=new_key(project, rank=rank, labels=done),
            prompt=group["prompt"],
            prompt_key=digest_of(group["prompt"]),
            content_key=content_key(group),
            held_out=held_out,
            needed=slots,
            open_slots=slots,
            reference=group.get("reference"),
            meta=group.get("meta", {}),
            import_job=import_job,
        )
        comparisons.append(comparison)
    Comparison.objects.bulk_create(comparisons, batch_size=BATCH)
    Candidate.objects.bulk_create(_candidates(comparisons, groups), batch_size=BATCH)
    _add_judgements(comparisons, groups)
    _reserve_slots(project, comparisons)
    if project.queue_strategy != QueueStrategy.ORDER and comparisons:
        lock_members([project.pk])
        lower_frontiers(project.pk, key=min(comparison.queue_key for comparison in comparisons))
    return comparisons


def _reserve_slots(project: Project, comparisons: Sequence[Comparison]) -> None:
    """Keep open slots for the groups that are to give judgements of their own, as far as there are any."""
    groups = list(project.annotator_groups.filter(reserved_labels__gt=0).order_by("pk"))
    rows = []
    for comparison in comparisons if groups else ():
        left = comparison.open_slots
        for group in groups:
            slots = min(group.reserved_labels, left)
            left -= slots
            if slots:
                key = comparison.queue_key
                rows.append(
                    Reservation(
                        comparison=comparison, group=group, queue_key=key, needed=slots, open_slots=slots
                    )
                )
        comparison.reserved_open = comparison.open_slots - left
    Reservation.objects.bulk_create(rows, batch_size=BATCH)
    if rows:
        Comparison.objects.bulk_update(comparisons, ["reserved_open"], batch_size=BATCH)


def digest_of(value: object) -> str:
    """SHA-256 of a JSON value, whatever its keys' order."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, allow_nan=False).encode()).hexdigest()


def content_key(group: dict[str, Any]) -> str:
    """Equal for groups with the same prompt and the same candidates in the same order."""
    contents = [item["image"].sha256 if "image" in item else item["text"] for item in group["candidates"]]
    return digest_of([group["prompt"], contents])


def _labels(group: dict[str, Any]) -> int:
    """Judgements that it brings along and that count as filled slots."""
    return sum(item.get("kind", "regular") == "regular" for item in group.get("judgements", ()))


def _slots(project: Project, group: dict[str, Any], done: int) -> int:
    if not can_be_judged(project.questions, len(group["candidates"])):
        return 0
    return max(0, project.labels_per_comparison - done)


def _candidates(comparisons: Sequence[Comparison], groups: Sequence[dict[str, Any]]) -> Iterable[Candidate]:
    for comparison, group in zip(comparisons, groups, strict=True):
        for index, item in enumerate(group["candidates"]):
            image: Media | None = item.get("image")
            yield Candidate(
                comparison=comparison,
                index=index,
                text=item.get("text"),
                image=image,
                source=item.get("source") or "",
            )


def _add_judgements(comparisons: Sequence[Comparison], groups: Sequence[dict[str, Any]]) -> None:
    pairs = [
        (comparison, item)
        for comparison, group in zip(comparisons, groups, strict=True)
        for item in group.get("judgements", ())
    ]
    if not pairs:
        return
    users = _import_users({item.get("annotator", "import") for _, item in pairs})
    now = timezone.now()
    rows = [_judgement(comparison, item, users, now) for comparison, item in pairs]
    Judgement.objects.bulk_create(rows, batch_size=BATCH)


def _judgement(
    comparison: Comparison, item: dict[str, Any], users: dict[str, User], now: datetime
) -> Judgement:
    return Judgement(
        comparison=comparison,
        annotator=users[item.get("annotator", "import")],
        kind=item.get("kind", "regular"),
        order=item.get("order"),
        choice=item.get("choice"),
        strength=item.get("strength"),
        answers={name: value for name, value in item.items() if name not in COLUMNS},
        template_version=item.get("template_version", comparison.project.template_version),
        seconds=item.get("seconds"),
        created_at=datetime.fromisoformat(item["at"]) if "at" in item else now,
        client_id=uuid.uuid4(),
        request_digest="",
    )


def _import_users(names: set[str]) -> dict[str, User]:
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
