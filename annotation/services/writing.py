"""What taking and judging write: all that one request changes, in one statement.

A statement costs as much in Python and in messages between two processes as in Postgres, so that the answer,
its lease, the member's counts and the next lease are clauses of one. The member and the comparison are locked
by then (`annotation.services.queue`).
"""

import json
from datetime import datetime
from typing import Any, Final

from annotation.models import Judgement, Lease, Member
from annotation.services.statements import fetch, insert

# The member's row as it is in memory: nobody else changes it while it is locked.
SAVE_MEMBER = """saved AS (
    UPDATE annotation_member SET frontier = %(frontier)s, served = %(served)s, answered = %(answered)s,
        answered_on = %(answered_on)s, answered_that_day = %(answered_that_day)s
    WHERE id = %(member)s
)"""
CLOSE = """judged AS (
    UPDATE annotation_lease SET slot = %(old_slot)s, reserved_for_id = %(old_reserved_for)s, state = 'judged',
        closed_at = %(now)s
    WHERE id = %(old_lease)s
)"""
# Close the slot, and hand out the smallest one that nobody holds.
TAKE = """{lane}closed AS (
    UPDATE annotation_comparison SET open_slots = open_slots - 1, queue_key = queue_key + %(step)s{reserved}
    WHERE id = %(taken)s {if_lane} RETURNING needed
), taken AS (
    INSERT INTO annotation_lease
        (id, comparison_id, annotator_id, kind, slot, reserved_for_id, "order", template_version,
         state, skip_reason, created_at, expires_at)
    SELECT %(new_lease)s::uuid, %(taken)s, %(holder)s, 'regular', min(slot), %(reserved_for)s::bigint,
           %(new_order)s::jsonb, %(version)s, 'open', '', %(now)s::timestamptz, %(expires)s::timestamptz
    FROM closed, generate_series(0, needed - 1) AS slot
    WHERE slot NOT IN (SELECT l.slot FROM annotation_lease l
                       WHERE l.comparison_id = %(taken)s AND l.slot IS NOT NULL
                       AND l.state IN ('open', 'judged'))
    HAVING count(*) > 0
    RETURNING slot
)"""
LANE = """lane AS (
    UPDATE annotation_reservation SET open_slots = open_slots - 1, queue_key = queue_key + %(step)s
    WHERE comparison_id = %(taken)s AND group_id = %(reserved_for)s AND open_slots > 0 RETURNING id
), """
TAKE_SHARED: Final = TAKE.format(lane="", reserved="", if_lane="AND open_slots > reserved_open")
TAKE_RESERVED: Final = TAKE.format(
    lane=LANE, reserved=", reserved_open = reserved_open - 1", if_lane="AND EXISTS (SELECT 1 FROM lane)"
)
# A lease that fills no slot.
HAND_OUT = """handed AS (
    INSERT INTO annotation_lease
        (id, comparison_id, annotator_id, kind, "order", template_version,
         state, skip_reason, created_at, expires_at)
    VALUES (%(new_lease)s, %(taken)s, %(holder)s, %(new_kind)s, %(new_order)s::jsonb, %(version)s,
            'open', '', %(now)s, %(expires)s)
)"""


class Locked(Exception):
    """Everything that this person could get is locked, or was taken, by others at this moment."""

    def __init__(self, comparison: int) -> None:
        self.comparison = comparison


class Writing:
    """The changes of one request to the (locked) member's work, until `write` makes them."""

    def __init__(self, member: Member, *, now: datetime) -> None:
        self.member, self.now = member, now
        self._clauses: list[str] = []
        self._values: dict[str, Any] = {"member": member.pk, "now": now}
        self._taking: Lease | None = None

    def close(self, lease: Lease) -> None:
        """It is judged. The member's counts are theirs already (`eligibility.count`)."""
        self._clauses.append(CLOSE)
        self._values |= {
            "old_lease": lease.pk,
            "old_slot": lease.slot,
            "old_reserved_for": lease.reserved_for_id,
        }

    def take(self, lease: Lease, *, frontier: int, step: int) -> None:
        """A new lease with a slot of its comparison, reserved for a group or not. It has its slot when this
        is written."""
        self._add(lease, TAKE_SHARED if lease.reserved_for_id is None else TAKE_RESERVED, frontier=frontier)
        self._values |= {"step": step, "reserved_for": lease.reserved_for_id}
        self._taking = lease

    def hand_out(self, lease: Lease, *, frontier: int) -> None:
        """A new lease that fills no slot."""
        self._add(lease, HAND_OUT, frontier=frontier)
        self._values["new_kind"] = str(lease.kind)

    def _add(self, lease: Lease, clause: str, *, frontier: int) -> None:
        self.member.frontier, self.member.served = frontier, self.member.served + 1
        self._clauses.append(clause)
        self._values |= {
            "taken": lease.comparison_id,
            "holder": lease.annotator_id,
            "new_lease": lease.pk,
            "new_order": json.dumps(lease.order),
            "version": lease.template_version,
            "expires": lease.expires_at,
        }

    def write(self, judgement: Judgement | None = None) -> None:
        """Make the changes, and insert the judgement if there is one. Raises `Locked` if the slot, which was
        reserved for a group, went to another of its members between looking and locking."""
        if not self._clauses and judgement is None:
            return
        clauses, slot = f"WITH {', '.join([*self._clauses, SAVE_MEMBER])}", "NULL"
        for name in ("frontier", "served", "answered", "answered_on", "answered_that_day"):
            self._values[name] = getattr(self.member, name)
        if self._taking is not None:
            slot = "(SELECT slot FROM taken)"
        if judgement is None:
            ((found,),) = fetch(f"{clauses} SELECT {slot}", self._values)
        else:
            (found,) = insert(judgement, beside=clauses, values=self._values, returning=slot)
        if self._taking is not None:
            if found is None:
                raise Locked(self._taking.comparison_id)
            self._taking.slot = found
        self._clauses, self._taking = [], None
