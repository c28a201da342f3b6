"""Answers: storing one exactly once, and taking one back."""

import hashlib
import json
import uuid
from datetime import datetime
from typing import Any, Final

from django.db import IntegrityError, connection
from django.db.models import F
from django.utils.translation import gettext as _
from django.utils.translation import gettext_noop

from annotation.errors import Conflict, NotFound
from annotation.models import Comparison, Judgement, Kind, Lease, Member, Reservation, User
from annotation.permissions import Action, check
from annotation.services import eligibility, qualification, queue, reviewing
from annotation.services.answers import what_was_said
from annotation.services.counting import mark_stale
from annotation.services.statements import columns, fetch, instance_of
from annotation.services.strategies import step_of
from annotation.services.suggestions import suggestions_for
from annotation.services.webhooks import tell_of_judgement
from annotation.services.writing import Writing

MAX_OPEN_AFTER_UNDO: Final = 10
SAME_ID_OTHER_ANSWER: Final = gettext_noop(
    "Another answer was stored under this client_id; send each answer with a new one."
)

# Few rows by their keys; `last_answer_at` is when this person last judged anything. In SQL for its speed, and
# so that no plan reads all that somebody ever had, whatever is known of the tables when it is made.
LEASES_IN_HAND = f"""
SELECT {columns(Lease, "l")}, c.project_id, (
    SELECT j.created_at FROM annotation_judgement j
    WHERE j.annotator_id = %(annotator)s ORDER BY j.created_at DESC LIMIT 1) AS last_answer_at
FROM annotation_lease l JOIN annotation_comparison c ON c.id = l.comparison_id
WHERE l.annotator_id = %(annotator)s AND l.id = ANY(ARRAY(
    SELECT o.id FROM annotation_lease o WHERE o.annotator_id = %(annotator)s AND o.state = 'open'
    AND o.kind NOT IN ({", ".join(f"'{kind}'" for kind in Lease.BESIDE_THE_QUEUE)})) || %(lease)s::uuid)
ORDER BY l.created_at, l.id
"""  # noqa: S608  names of ours
CLOSED_FIRST: Final = (Kind.QUALIFICATION, Kind.REVIEW)  # what comes next asks the database about these


class _TakenBack(Exception):
    """The lease expired and its slot was reopened: the comparison has to be locked before the member."""


def submit_judgement(
    *,
    lease_id: uuid.UUID,
    annotator: User,
    client_id: uuid.UUID,
    choice: int | str | None = None,
    strength: int | None = None,
    answers: dict[str, Any] | None = None,
    now: datetime,
    want_next: bool = False,
    after: uuid.UUID | None = None,
) -> tuple[Judgement, Lease | None]:
    """Store one answer and, if wanted, hand out the next comparison, all in one transaction.

    `choice` is a presented position, "tie" or "both_bad"; `answers` holds the other keys of the template that
    the lease was handed out under, candidates as presented positions too. The same `client_id` with the same
    body gives the same judgement and next lease again; with another body it is a `Conflict`, as is an answer
    that came after its slot went to others. An expired lease is honoured while a slot is open. `after` names
    a lease that the caller already holds: the next one is the one behind it.
    """
    given = {"choice": choice, "strength": strength, **(answers or {})}
    given = {key: value for key, value in given.items() if value is not None}
    digest = _digest({"lease": str(lease_id), **given})

    def work(*, reclaim: bool) -> tuple[Judgement, Lease | None]:
        if reclaim:
            comparison = Comparison.objects.filter(leases=lease_id, leases__annotator=annotator)
            comparison.select_for_update(no_key=True, of=("self",)).get()
        member = queue.lock_member(lease=lease_id, user=annotator)
        leases = _leases_in_hand(member, lease_id)
        lease = next(lease for lease in leases if lease.pk == lease_id)
        lease.comparison = _known_part(lease.comparison_id, member)
        if lease.state != Lease.State.OPEN:
            earlier = Judgement.objects.filter(annotator=annotator, client_id=client_id).first()
            if earlier is not None:
                return _repeat(earlier, digest, given)
        eligibility.check_not_stopped(member)
        if lease.kind == Kind.REVIEW:
            check(annotator, Action.REVIEW, role=member.role, project=member.project_id)
        said = what_was_said(lease, member.project, given)
        suggested = suggestions_for(lease, member.project)
        _close(lease, member, reclaim=reclaim, given=given, now=now)
        writing = Writing(member, now=now)
        writing.close(lease)
        if lease.kind in CLOSED_FIRST:
            writing.write()
        judgement = Judgement(
            comparison=lease.comparison,
            annotator=annotator,
            group_id=member.group_id,
            lease=lease,
            kind=Kind.REGULAR if lease.kind == Kind.DUEL else lease.kind,
            order=lease.order,
            **said,
            suggestions=suggested or None,
            template_version=lease.template_version,
            seconds=_seconds_since_shown(lease, now),
            created_at=now,
            client_id=client_id,
            request_digest=digest,
            wanted_next=want_next,
        )
        if judgement.kind == Kind.QUALIFICATION:
            qualification.record(member, judgement, now=now)
        if want_next and lease.kind != Kind.DUEL:
            held = [other for other in leases if other.pk != lease_id]
            _hand_out_next(judgement, held, after=after, writing=writing)
        writing.write(judgement)
        tell_of_judgement(judgement, project=member.project_id)
        return judgement, judgement.next_lease

    try:
        return queue.run(lambda: work(reclaim=False), now=now)
    except _TakenBack:
        return queue.run(lambda: work(reclaim=True), now=now)
    except IntegrityError as error:  # the client_id of an answer to another lease
        if "judgement_client_id_once" not in str(error):
            raise
        raise Conflict(_(SAME_ID_OTHER_ANSWER), answer=given) from error


def undo_judgement(*, judgement_id: int, annotator: User, now: datetime) -> Lease:
    """Take an answer back, once: the row stays with `undone_at`; a lease with the same order comes back."""
    own = Judgement.objects.filter(pk=judgement_id, annotator=annotator)
    project = own.values_list("comparison__project", flat=True).first()
    if project is None:
        raise NotFound(_("There is no such judgement of yours."))

    def work() -> uuid.UUID:
        member = queue.lock_member(project=project, user=annotator)
        eligibility.check_not_stopped(member)
        judgement = Judgement.objects.select_related("lease").get(pk=judgement_id)
        if judgement.kind == Kind.QUALIFICATION:
            raise Conflict(_("The answers of the test cannot be taken back."))
        if judgement.undone_at is not None:
            raise Conflict(_("This judgement was taken back already."))
        if judgement.set_aside_at is not None:
            raise Conflict(_("This judgement was set aside by a manager; it cannot be taken back."))
        old = judgement.lease
        if old is None:
            raise NotFound(_("This judgement was imported; it is nobody's to take back."))
        if old.kind == Kind.DUEL:
            raise Conflict(_("You have seen which models these were; this judgement cannot be taken back."))
        held = Lease.objects.open_of(project=member.project_id, annotator=annotator.pk)
        if held.count() >= MAX_OPEN_AFTER_UNDO:
            raise Conflict(
                _("%(n)s comparisons are open already; answer one before taking back more.")
                % {"n": MAX_OPEN_AFTER_UNDO}
            )
        judgement.undone_at = now
        judgement.save(update_fields=["undone_at"])
        mark_stale([judgement.comparison_id])
        old.state = Lease.State.UNDONE
        old.save(update_fields=["state"])
        new = Lease.objects.create(
            comparison_id=old.comparison_id,
            annotator=annotator,
            kind=old.kind,
            slot=old.slot,
            reserved_for_id=old.reserved_for_id,
            order=old.order,
            template_version=old.template_version,
            redo_of=judgement,
            created_at=old.created_at,  # so that it is the oldest, and comes first
            expires_at=queue.expiry(member.project, now),
        )
        if old.kind not in Lease.BESIDE_THE_QUEUE:
            eligibility.uncount(member, judgement.created_at)
        return new.pk

    return Lease.objects.to_present().get(pk=queue.run(work, now=now))


def _repeat(earlier: Judgement, digest: str, given: dict[str, Any]) -> tuple[Judgement, Lease | None]:
    if earlier.request_digest != digest:
        raise Conflict(_(SAME_ID_OTHER_ANSWER), answer=given)
    if earlier.next_lease_id is None or earlier.next_expires_at is None:
        return earlier, None
    lease = Lease.objects.to_present().get(pk=earlier.next_lease_id)
    lease.expires_at = earlier.next_expires_at  # as it was told; it may have been renewed since
    return earlier, lease


def _close(lease: Lease, member: Member, *, reclaim: bool, given: dict[str, Any], now: datetime) -> None:
    """Mark the lease judged, and count it. The member is locked, so nobody else changes either."""
    if lease.state == Lease.State.EXPIRED:
        if not reclaim:
            raise _TakenBack
        _hold_again(lease, member, given)
    elif lease.state != Lease.State.OPEN:
        raise Conflict(
            _("This comparison is no longer in your hands: its lease is %(state)s.")
            % {"state": lease.get_state_display()},
            answer=given,
        )
    lease.state, lease.closed_at = Lease.State.JUDGED, now
    if lease.kind not in Lease.BESIDE_THE_QUEUE:
        eligibility.count(member, now=now)


def _hold_again(lease: Lease, member: Member, given: dict[str, Any]) -> None:
    """Give an answer that came after its time a slot again, if its kind has one. The comparison is locked."""
    live = list(Lease.objects.live().filter(comparison=lease.comparison_id).order_by("slot"))
    mine = (other for other in live if (other.annotator_id, other.kind) == (lease.annotator_id, lease.kind))
    own = next(mine, None)
    if own is not None and own.state == Lease.State.JUDGED:
        raise Conflict(_("You have answered this comparison already, with a later lease."), answer=given)
    if own is not None:
        own.state = Lease.State.EXPIRED
        own.save(update_fields=["state"])
        lease.slot, lease.reserved_for_id = own.slot, own.reserved_for_id
        return
    if lease.kind != Kind.REGULAR:
        return
    comparison = Comparison.objects.get(pk=lease.comparison_id)
    lanes = Reservation.objects.filter(comparison=comparison, group=member.group_id, open_slots__gt=0)
    reserved = member.group_id is not None and lanes.exists()
    if comparison.open_slots - (0 if reserved else comparison.reserved_open) == 0:
        raise Conflict(
            _("Your time ran out and others have taken the comparison; nothing was stored."), answer=given
        )
    step = step_of(member.project)
    if reserved:
        lanes.update(open_slots=F("open_slots") - 1, queue_key=F("queue_key") + step)
    Comparison.objects.filter(pk=comparison.pk).update(
        open_slots=F("open_slots") - 1,
        reserved_open=F("reserved_open") - int(reserved),
        queue_key=F("queue_key") + step,
    )
    taken = {other.slot for other in live}
    lease.slot = next(slot for slot in range(comparison.needed) if slot not in taken)
    lease.reserved_for_id = member.group_id if reserved else None


def _known_part(comparison: int, member: Member) -> Comparison:
    """What is known of a comparison without reading it: which one it is, and its project."""
    part = Comparison.from_db(connection.alias, ["id", "project_id"], [comparison, member.project_id])
    part.project = member.project
    return part


def _hand_out_next(
    judgement: Judgement, held: list[Lease], *, after: uuid.UUID | None, writing: Writing
) -> None:
    if judgement.kind == Kind.REVIEW:
        judgement.next_lease = reviewing.take_review(after=after, writing=writing)
    else:
        behind = next((lease for lease in held if lease.pk == after), None)
        if after is not None and behind is None:
            behind = queue.lease_of(lease_id=after, annotator=judgement.annotator)
        judgement.next_lease = queue.take_next(held=held, after=behind, writing=writing)
    if judgement.next_lease is not None:
        judgement.next_expires_at = judgement.next_lease.expires_at


def _leases_in_hand(member: Member, lease_id: uuid.UUID) -> list[Lease]:
    """The lease named and this project's open ones, oldest first."""
    values = {"lease": lease_id, "annotator": member.user_id}
    found = []
    for *values_of_lease, project, last_answer_at in fetch(LEASES_IN_HAND, values):
        if project == member.project_id:
            lease = instance_of(Lease, values_of_lease)
            lease.last_answer_at = last_answer_at  # type: ignore[attr-defined]
            found.append(lease)
    return found


def _seconds_since_shown(lease: Lease, now: datetime) -> float:
    """A comparison that was fetched ahead is looked at from the moment the one before it was answered."""
    last: datetime | None = getattr(lease, "last_answer_at", None)
    shown = max(lease.created_at, last) if last is not None else lease.created_at
    return max(0.0, (now - shown).total_seconds())


def _digest(body: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()
