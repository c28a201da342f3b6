"""A project of any size, written by Postgres itself: a million comparisons in a minute or two.

The rows are what the product would have written, with every index and constraint in place; `check_seeded`
asks the database whether the slots add up. The first `behind` comparisons were judged by the first annotator
alone, so that they still have slots open; then as many as the other judgements fill are done, by the other
annotators in turns; the rest is open. Annotator i agrees with the hidden truth in 95 - i % 10 · 3 of 100
cases.
`DATABASE_URL=… python -m benchmarks.seeding --comparisons 1000000 --judgements 1000000 --behind 50000`
"""

import argparse
import json
import os
import sys
import time
from dataclasses import asdict, dataclass
from typing import Any, Final

TEXT: Final = "A few sentences, as an answer has them. " * 5
SOURCES: Final = ("base", "dpo", "grpo", "kto", "ppo", "sft")


@dataclass(frozen=True)
class Size:
    """`behind` of the judgements are the first annotator's at the head of the queue."""

    comparisons: int = 1_000_000
    judgements: int = 1_000_000
    behind: int = 50_000
    people: int = 20
    overlap: int = 3

    @property
    def full(self) -> int:
        """How many comparisons have all their judgements; they follow the first `behind` ones."""
        return min((self.judgements - self.behind) // self.overlap, self.comparisons - self.behind)


@dataclass(frozen=True)
class Seeded:
    project: int
    owner: str
    tokens: list[str]
    seconds: float


COMPARISONS: Final = """
INSERT INTO annotation_comparison (id, project_id, rank, queue_key, priority, prompt, prompt_key, content_key,
    held_out, needed, open_slots, reserved_open, meta, created_at)
SELECT nextval('annotation_comparison_id_seq'), %(project)s, n, n, 0,
    to_jsonb('Question ' || n || '? ' || %(text)s::text), md5('p' || n), md5('c' || n), false, %(overlap)s,
    %(overlap)s - CASE WHEN n <= %(behind)s THEN 1
        WHEN n <= %(behind)s + %(full)s THEN %(overlap)s ELSE 0 END, 0, '{}', now() - interval '30 days'
FROM generate_series(1, %(comparisons)s) AS n ORDER BY n
"""
CANDIDATES: Final = """
INSERT INTO annotation_candidate (comparison_id, index, text, source)
SELECT c.id, i,
    to_jsonb(chr(65 + i) || c.rank || ' ' || left(%(text)s::text, 60 + (c.rank * (7 + i) %% 130)::int)),
    (%(sources)s::text[])[1 + (c.rank * (1 + i) + i) %% 6]
FROM annotation_comparison c, generate_series(0, 1) AS i WHERE c.project_id = %(project)s ORDER BY c.id, i
"""
# Who gave the judgement in which slot; the answer differs from the truth as often as its annotator errs.
GIVEN: Final = """
CREATE TEMPORARY TABLE given AS
SELECT c.id AS comparison, c.rank, slot, gen_random_uuid() AS lease, who,
    (%(people)s::bigint[])[1 + who] AS annotator,
    (hashint8(c.rank * 31) & 1)
        # ((hashint8(c.rank * 97 + who) & 1023) < 10.24 * (5 + who %% 10 * 3))::int AS choice,
    hashint8(c.rank * 13 + who) & 1 AS flipped,
    now() - interval '29 days' + c.rank * interval '1 second' AS at
FROM annotation_comparison c, generate_series(0, %(overlap)s - 1) AS slot,
    LATERAL (SELECT CASE WHEN c.rank <= %(behind)s THEN 0
        ELSE ((c.rank * %(overlap)s + slot) %% %(others)s + 1)::int END AS who) AS asked
WHERE c.project_id = %(project)s AND (c.rank <= %(behind)s AND slot = 0
    OR c.rank > %(behind)s AND c.rank <= %(behind)s + %(full)s)
"""
LEASES: Final = """
INSERT INTO annotation_lease (id, comparison_id, annotator_id, kind, slot, "order", state, template_version,
    skip_reason, created_at, expires_at, closed_at)
SELECT lease, comparison, annotator, 'regular', slot, jsonb_build_array(flipped, 1 - flipped), 'judged', 1,
    '', at, at + interval '20 minutes', at + (3 + rank %% 20) * interval '1 second'
FROM given ORDER BY comparison, slot
"""
JUDGEMENTS: Final = """
INSERT INTO annotation_judgement (comparison_id, annotator_id, lease_id, kind, "order", choice, strength,
    answers, template_version, seconds, created_at, client_id, request_digest, wanted_next)
SELECT comparison, annotator, lease, 'regular', jsonb_build_array(flipped, 1 - flipped), to_jsonb(choice),
    1 + rank %% 3, '{}', 1, 3 + rank %% 20 + who / 10.0, at + (3 + rank %% 20) * interval '1 second',
    gen_random_uuid(), md5(lease::text), true
FROM given ORDER BY at, comparison, slot
"""
MEMBERS: Final = """
UPDATE annotation_member m SET served = n, answered = n, answered_on = current_date - 1,
    frontier = CASE WHEN user_id = %(first)s THEN %(behind)s + 1 ELSE 0 END
FROM (SELECT annotator, count(*) AS n FROM given GROUP BY annotator) AS own
WHERE m.project_id = %(project)s AND m.user_id = own.annotator
"""
# A correction of every fifth judgement.
AUDIT: Final = """
INSERT INTO annotation_auditentry (at, project_id, actor_id, subject, subject_id, change, before, after)
SELECT j.created_at + interval '1 day', %(project)s, j.annotator_id, 'judgement', j.id, 'update',
    jsonb_build_object('strength', 1), jsonb_build_object('strength', 2)
FROM annotation_judgement j JOIN given ON given.lease = j.lease_id WHERE j.id %% 5 = 0 ORDER BY j.id
"""


def seed(size: Size) -> Seeded:
    """Write the project into the (migrated) database that Django is set up for."""
    from django.db import connection, transaction

    from annotation import services
    from annotation.models import Comparison
    from annotation.services.copying import refresh_statistics
    from annotation.services.searching import note_new_comparisons

    began = time.monotonic()
    owner = services.create_user(username="owner", role="manager")
    project = services.create_project(
        by=owner, name="Scale", modality="text", labels_per_comparison=size.overlap
    )
    users = [services.create_user(username=f"annotator{n}", role="annotator") for n in range(size.people)]
    for user in users:
        services.add_member(project=project, username=user.username, role="annotator", by=owner)
    values: dict[str, Any] = asdict(size) | {
        "project": project.pk, "text": TEXT, "sources": list(SOURCES), "full": size.full,
        "people": [user.pk for user in users], "others": size.people - 1, "first": users[0].pk,
    }  # fmt: skip
    with transaction.atomic(), connection.cursor() as cursor:
        cursor.execute("SET LOCAL synchronous_commit = off")
        for statement in (COMPARISONS, CANDIDATES, GIVEN, LEASES, JUDGEMENTS, AUDIT, MEMBERS):
            at = time.monotonic()
            cursor.execute(statement, values)
            print(f"{statement.split()[2]}: {time.monotonic() - at:.0f} s", file=sys.stderr)
        cursor.execute("DROP TABLE given")
        ids = Comparison.objects.filter(project=project).order_by("pk").values_list("pk", flat=True)
        note_new_comparisons(project, [ids.first(), ids.last()])
    refresh_statistics()
    tokens = [services.issue_token(user=user) for user in users]
    return Seeded(project.pk, owner.username, tokens, time.monotonic() - began)


def check_seeded(project: int) -> list[str]:
    """What the seeded rows get wrong, in sentences."""
    from django.db.models import Count, F, Q

    from annotation.models import Comparison, Lease

    live = Count("leases", filter=Q(leases__state__in=Lease.LIVE))
    rows = Comparison.objects.filter(project=project).annotate(live=live)
    wrong = rows.exclude(open_slots=F("needed") - F("live")).count()
    return [f"{wrong} comparisons count their open slots wrongly."] if wrong else []


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    for name, default in asdict(Size()).items():
        parser.add_argument(f"--{name}", type=int, default=default)
    size = Size(**vars(parser.parse_args()))
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "webapp.settings")
    import django

    django.setup()
    from django.core.management import call_command

    call_command("migrate", verbosity=0)
    call_command("createcachetable", verbosity=0)
    call_command("collectstatic", interactive=False, verbosity=0)
    print(json.dumps(asdict(seed(size))))


if __name__ == "__main__":
    main()
