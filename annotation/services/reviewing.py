"""The review queue: comparisons whose judges disagree, and the reviewer's answer that decides."""

import hashlib
import uuid
from datetime import datetime
from typing import Any

from django.db import connection

from annotation.models import Comparison, Judgement, Kind, Lease, Member, Project, User
from annotation.permissions import Action, check
from annotation.services import queue
from annotation.services.eligibility import check_not_stopped
from annotation.template import presented_answer

# What two people have to say alike: the first of these that is there. Strength does not count, nor where
# exactly a mark begins and ends; of what is written freely no two answers are alike.
SAID = """coalesce(
    j.choice, j.answers -> 'ranking', j.answers -> 'thumbs',
    (SELECT jsonb_object_agg(key, value -> 'choice') FROM jsonb_each(j.answers -> 'aspects')),
    j.answers -> 'turns', j.answers -> 'rubric',
    CASE WHEN j.answers ? 'marks' THEN coalesce((SELECT jsonb_agg(DISTINCT jsonb_build_array(
        m -> 'candidate', m -> 'type', m -> 'category', m -> 'step', m -> 'first_error'))
        FROM jsonb_array_elements(j.answers -> 'marks') AS m), '[]') END,
    (SELECT jsonb_agg(DISTINCT tag) FROM jsonb_array_elements(j.answers -> 'tags') AS tag))"""
# Ratings one step apart are no disagreement.
FAR_APART = """EXISTS (
    SELECT 1 FROM annotation_judgement j,
        jsonb_array_elements(j.answers -> 'ratings') WITH ORDINALITY AS rated (given, candidate),
        jsonb_each(CASE jsonb_typeof(rated.given) WHEN 'object' THEN rated.given END) AS aspect (name, value)
    WHERE {of_comparison} GROUP BY candidate, name HAVING max(value::float) - min(value::float) > 1)"""
OF_COMPARISON = """j.comparison_id = c.id AND j.kind = 'regular'
    AND j.undone_at IS NULL AND j.set_aside_at IS NULL"""
# Fully judged, by people who said different things; not decided, and not in the hands of who might.
# Who judged it themselves does not review it.
DISPUTED = f"""
FROM annotation_comparison c WHERE c.project_id = %(project)s AND c.open_slots = 0 AND (
    SELECT count(*) >= c.needed AND (count(DISTINCT {SAID}) > 1
        OR count({SAID}) = 0 AND {FAR_APART.format(of_comparison=OF_COMPARISON)})
    FROM annotation_judgement j WHERE {OF_COMPARISON})
AND NOT EXISTS (SELECT 1 FROM annotation_judgement r WHERE r.comparison_id = c.id AND r.kind = 'review'
    AND r.undone_at IS NULL)
"""  # noqa: S608  constants of ours
FREE = """
AND NOT EXISTS (SELECT 1 FROM annotation_lease l WHERE l.comparison_id = c.id
    AND (l.annotator_id = %(reviewer)s AND l.state IN ('open', 'judged', 'skipped', 'aside')
         OR l.kind = 'review' AND l.state = 'open'))
"""
NEXT = f"SELECT c.* {DISPUTED} {FREE} ORDER BY c.rank LIMIT 1 FOR NO KEY UPDATE OF c SKIP LOCKED"
WAITING = f"SELECT count(*) FROM (SELECT 1 {DISPUTED} LIMIT %(most)s) AS waiting"  # noqa: S608
COUNTED_AT_MOST = 1000


def next_review(
    *, project: Project, user: User, after: uuid.UUID | None = None, now: datetime
) -> Lease | None:
    """A comparison that its judges disagree about, for this reviewer to decide; the one in their hands again
    if there is one, and None when nothing waits. `after` as in `annotation.services.next_lease`."""

    def work() -> Lease | None:
        member = queue.lock_member(project=project.pk, user=user)
        check(user, Action.REVIEW, role=member.role, project=member.project_id)
        check_not_stopped(member)
        return take_review(member, after=after, now=now)

    return queue.run(work, now=now)


def take_review(member: Member, *, after: uuid.UUID | None, now: datetime) -> Lease | None:
    """For a (locked) member who may review: what they hold beside `after`, or a new one."""
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
    comparison = next(iter(Comparison.objects.raw(NEXT, values)), None)
    if comparison is None:
        return None
    return queue.hand_out(member, comparison.pk, Kind.REVIEW, frontier=member.frontier, now=now)


def reviews_waiting(project: Project) -> int:
    """How many comparisons wait for a reviewer; beyond a thousand they are not counted on."""
    with connection.cursor() as cursor:
        cursor.execute(WAITING, {"project": project.pk, "most": COUNTED_AT_MOST})
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
