"""Counting what people do, exactly, whichever process they reach: one statement in Postgres each time."""

import hashlib
import hmac
from datetime import datetime, timedelta
from typing import Final, NamedTuple

from django.conf import settings
from django.db import connection

from annotation.models import RateCount

# Not worth waiting for the disk: a crash forgets a second's counts. Outside of other transactions only.
_COUNT: Final = """
WITH hasty AS (
    SELECT set_config('synchronous_commit', 'off', true),
           clock_timestamp() - make_interval(secs => %(seconds)s) AS since
)
INSERT INTO annotation_ratecount AS c (key, started_at, count)
SELECT %(key)s, clock_timestamp(), 1 FROM hasty
ON CONFLICT (key) DO UPDATE SET
    count = CASE WHEN c.started_at > (SELECT since FROM hasty) THEN c.count + 1 ELSE 1 END,
    started_at = greatest(c.started_at, CASE WHEN c.started_at <= (SELECT since FROM hasty)
                                        THEN clock_timestamp() END)
RETURNING count, extract(epoch FROM started_at - (SELECT since FROM hasty))
"""
LONGEST: Final = timedelta(days=1)


class Rate(NamedTuple):
    """So many in a window of time."""

    limit: int
    window: timedelta


class Counted(NamedTuple):
    is_within: bool
    wait: float  # seconds until the window ends


def count(*, what: str, who: str, rate: Rate) -> Counted:
    """Count one more, and say whether it is still within the rate."""
    with connection.cursor() as cursor:
        cursor.execute(_COUNT, {"key": keyed(what, who), "seconds": rate.window.total_seconds()})
        number, wait = cursor.fetchone()
    return Counted(number <= rate.limit, max(0.0, float(wait)))


def keyed(kind: str, value: str) -> str:
    """Whose and from where, in a form that names nobody: addresses and names are not kept."""
    return hmac.new(settings.SECRET_KEY.encode(), f"{kind}:{value}".encode(), hashlib.sha256).hexdigest()


def forget_old_counts(*, now: datetime) -> None:
    """Drop what no window reaches back to."""
    RateCount.objects.filter(started_at__lt=now - LONGEST).delete()
