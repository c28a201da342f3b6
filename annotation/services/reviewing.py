"""The review queue: comparisons whose judges disagree, and the reviewer's answer that decides."""

import hashlib
import uuid
from datetime import datetime
from itertools import chain
from typing import Any

from django.db import connection

from annotation.models import Comparison, Judgement, Kind, Lease, Project, User
from annotation.permissions import Action, check
from annotation.services import queue
from annotation.services.disputes import DISPUTED
from annotation.services.eligibility import check_not_stopped
from annotation.services.writing import Writing
from annotation.template import presented_answer

# Counting marks what is disputed; what is not counted yet, or has to be counted again, is looked at itself.
COUNTED = """
FROM annotation_qualityunit u JOIN annotation_comparison c ON c.id = u.comparison_id
WHERE u.project_id = %(project)s AND u.disputed
"""
NOT_COUNTED = """
FROM annotation_comparison c WHERE c.project_id = %(project)s AND c.id IN (
    SELECT comparison_id FROM (
        SELECT j.comparison_id FROM annotation_judgement j
        WHERE j.id > coalesce((SELECT max(seen) FROM annotation_qualitycursor), 0) ORDER BY j.id LIMIT 3000
    ) AS new
    UNION (SELECT comparison_id FROM annotation_qualitystale ORDER BY id LIMIT 3000))
"""
# Not in the hands of who might decide it. Who judged it themselves does not review it.
FREE = """
AND NOT EXISTS (SELECT 1 FROM annotation_lease l WHERE l.comparison_id = c.id
    AND (l.annotator_id = %(reviewer)s AND l.state IN ('open', 'judged', 'skipped', 'aside')
         OR l.kind = 'review' AND l.state = 'open'))
"""
FIRST = f"AND {DISPUTED} {FREE} ORDER BY c.id LIMIT 1 FOR NO KEY UPDATE OF c SKIP LOCKED"
NEXT = f"SELECT c.* {COUNTED} {FIRST}"
NEXT_NOT_COUNTED = f"SELECT c.* {NOT_COUNTED} {FIRST}"
WAITING = f"""
SELECT least(count(*), %(most)s) FROM (
    (SELECT c.id {COUNTED} AND {DISPUTED} LIMIT %(most)s)
    UNION (SELECT c.id {NOT_COUNTED} AND {DISPUTED} LIMIT %(most)s)) AS waiting
"""  # noqa: S608  constants of ours
REVIEWS_COUNTED = 1000


def next_review(
    *, project: Project, user: User, after: uuid.UUID | None = None, now: datetime
) -> Lease | None:
    """A comparison that its judges disagree about, for this reviewer to decide; the one in their hands again
    if there is one, and None when nothing waits. `after` as in `annotation.services.next_lease`."""

    def work() -> Lease | None:
        member = queue.lock_member(project=project.pk, user=user)
        check(user, Action.REVIEW, role=member.role, project=member.project_id)
        check_not_stopped(member)
        writing = Writing(member, now=now)
        lease = take_review(after=after, writing=writing)
        writing.write()
        return lease

    return queue.run(work, now=now)


def take_review(*, after: uuid.UUID | None, writing: Writing) -> Lease | None:
    """For a (locked) member who may review: what they hold beside `after`, or a new one."""
    member = writing.member
    held = Lease.objects.to_present().filter(
        comparison__project=member.project_id,
        annotator=member.user_id,
        kind=Kind.REVIEW,
        state=Lease.State.OPEN,
    )
    for again in held.order_by("created_at", "pk"):
        if again.pk != after:
            return again
    values = {"project": member.project_id, "reviewer": member.user_id}
    found = chain.from_iterable(Comparison.objects.raw(query, values) for query in (NEXT, NEXT_NOT_COUNTED))
    comparison = next(found, None)
    if comparison is None:
        return None
    whole = queue.read(comparison.pk)
    return queue.hand_out(whole, Kind.REVIEW, frontier=member.frontier, writing=writing)


def reviews_waiting(project: Project) -> int:
    """How many comparisons wait for a reviewer; beyond a thousand they are not counted on."""
    with connection.cursor() as cursor:
        cursor.execute(WAITING, {"project": project.pk, "most": REVIEWS_COUNTED})
        return int(cursor.fetchone()[0])


def conflicting_judgements(lease: Lease) -> list[dict[str, Any]]:
    """What the annotators said, for the reviewer who holds this lease: anonymous, in an order that tells
    nothing, candidates as positions that the reviewer sees."""
    regular = Judgement.objects.standing().filter(comparison=lease.comparison_id, kind=Kind.REGULAR)
    shuffled = sorted(regular, key=lambda judgement: _shuffle_key(lease.pk, judgement.pk))
    return [
        {"annotator": number, **_as_seen(judgement, lease)} for number, judgement in enumerate(shuffled, 1)
    ]


def _shuffle_key(lease: uuid.UUID, judgement: int) -> str:
    return hashlib.sha256(f"{lease}:{judgement}".encode()).hexdigest()


def _as_seen(judgement: Judgement, lease: Lease) -> dict[str, Any]:
    plain = {"choice": judgement.choice, "strength": judgement.strength}
    stored = {key: value for key, value in plain.items() if value is not None} | judgement.answers
    return presented_answer(stored, lease.order)
