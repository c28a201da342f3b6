"""Gold questions and repeats: when one is due, and which.

When: the k-th check of an annotator stands at a place in the k-th stretch of 1 / rate comparisons that a
keyed hash chooses: as many as asked for, and no way to tell which from the outside. Which: any gold question
that they have not had, or any of their own judgements that lies far enough back. Both are looked up for every
comparison handed out in a project with checks, so that the time an answer takes tells nothing either.
"""

import hashlib
import hmac
from math import ceil, floor
from typing import Any, Final

from django.conf import settings

from annotation.models import Kind, Member

REPEAT_WINDOW: Final = 100  # a repeat is one of so many judgements behind the distance

PICK: Final = """
SELECT (
    SELECT g.comparison_id FROM annotation_goldanswer g
    WHERE g.project_id = %(project)s AND g.purpose = 'gold' AND NOT EXISTS (
        SELECT 1 FROM annotation_lease l WHERE l.comparison_id = g.comparison_id
        AND l.annotator_id = %(annotator)s AND l.state IN ('open', 'judged', 'skipped', 'aside'))
    ORDER BY random() LIMIT 1
) AS gold, (
    SELECT own.comparison_id FROM (
        SELECT j.comparison_id FROM annotation_judgement j
        JOIN annotation_comparison c ON c.id = j.comparison_id AND c.project_id = %(project)s
        WHERE j.annotator_id = %(annotator)s AND j.kind = 'regular' AND j.lease_id IS NOT NULL
        AND j.undone_at IS NULL AND j.set_aside_at IS NULL
        AND EXISTS (SELECT 1 FROM annotation_lease l WHERE l.id = j.lease_id AND l.kind = 'regular')
        ORDER BY j.created_at DESC OFFSET %(distance)s LIMIT %(window)s
    ) AS own WHERE NOT EXISTS (
        SELECT 1 FROM annotation_lease l WHERE l.comparison_id = own.comparison_id
        AND l.annotator_id = %(annotator)s AND l.kind = 'repeat'
        AND l.state IN ('open', 'judged', 'skipped', 'aside'))
    ORDER BY random() LIMIT 1
) AS repeat
"""


def values_of(member: Member) -> dict[str, Any]:
    """What `PICK` asks for."""
    return {
        "project": member.project_id,
        "annotator": member.user_id,
        "distance": member.project.repeat_distance,
        "window": REPEAT_WINDOW,
    }


def kind_due(member: Member) -> Kind | None:
    """Which check is due as this member's `served`-th comparison (from 0), if any."""
    rate = member.project.gold_rate + member.project.repeat_rate
    k = floor(member.served * rate)
    first, end = _start(k, rate), _start(k + 1, rate)
    if member.served != first + floor(_uniform(member, f"place:{k}") * (end - first)):
        return None
    share, phase = member.project.gold_rate / rate, _uniform(member, "phase")
    return Kind.GOLD if floor((k + 1) * share + phase) > floor(k * share + phase) else Kind.REPEAT


def _start(k: int, rate: float) -> int:
    """The first n with floor(n · rate) = k, whatever k / rate is rounded to."""
    n = ceil(k / rate)
    while floor(n * rate) < k:
        n += 1
    while n > 0 and floor((n - 1) * rate) >= k:
        n -= 1
    return n


def _uniform(member: Member, what: str) -> float:
    """A number in [0, 1) that only the server can compute."""
    message = f"check:{member.project_id}:{member.user_id}:{what}".encode()
    digest = hmac.new(settings.SECRET_KEY.encode(), message, hashlib.sha256).digest()
    return int.from_bytes(digest[:6], "big") / 2**48
