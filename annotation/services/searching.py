"""Full-text search: the words of new comparisons are read in the background, of changed ones at once."""

from collections.abc import Sequence
from typing import Final

from django.db import connection, transaction

from annotation.models import Project, UnreadPrompts
from annotation.services.statements import insert

MOST: Final = 100_000  # characters of one comparison that are searched
# Words as they are, without the grammar of any language: projects have all of them.
READ = """
INSERT INTO annotation_promptwords (comparison_id, project_id, words)
SELECT c.id, c.project_id, to_tsvector('simple', left(concat_ws(' ',
    CASE jsonb_typeof(c.prompt) WHEN 'string' THEN c.prompt #>> '{}'
        ELSE (SELECT string_agg(coalesce(p ->> 'text', m ->> 'content'), ' ')
            FROM jsonb_array_elements(c.prompt) m
            LEFT JOIN jsonb_array_elements(CASE jsonb_typeof(m -> 'content') WHEN 'array'
                THEN m -> 'content' END) p ON true
            WHERE p IS NULL OR p ? 'text') END,
    (SELECT string_agg(CASE jsonb_typeof(a.text) WHEN 'string' THEN a.text #>> '{}'
        ELSE (SELECT string_agg(m ->> 'content', ' ') FROM jsonb_array_elements(a.text) m) END, ' ')
     FROM annotation_candidate a WHERE a.comparison_id = c.id AND a.text IS NOT NULL)), %(most)s))
FROM annotation_comparison c
WHERE c.project_id = %(project)s AND c.id BETWEEN %(first)s AND %(last)s
ON CONFLICT (comparison_id) DO UPDATE SET words = excluded.words
"""


def note_new_comparisons(project: Project, ids: Sequence[int]) -> None:
    """Have their words read. Call it in the transaction that adds them."""
    if ids:
        insert(UnreadPrompts(project=project, first=min(ids), last=max(ids)))


def read_prompts() -> int:
    """Read the words of all new comparisons; how many batches. Safe to call at the same time."""
    done = 0
    while True:
        with transaction.atomic():
            batch = UnreadPrompts.objects.select_for_update(skip_locked=True).order_by("pk").first()
            if batch is None:
                return done
            read_words(project=batch.project_id, first=batch.first, last=batch.last)
            batch.delete()
        done += 1


def read_words(*, project: int, first: int, last: int) -> None:
    with connection.cursor() as cursor:
        cursor.execute(READ, {"project": project, "first": first, "last": last, "most": MOST})
