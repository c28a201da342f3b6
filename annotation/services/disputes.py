"""Which comparisons people disagree about."""

from collections.abc import Collection
from typing import Final

from django.db import connection

# What two people have to say alike: the first of these that is there. Strength does not count, nor where
# exactly a mark begins and ends; of what is written freely no two answers are alike.
SAID: Final = """coalesce(
    j.choice, j.answers -> 'ranking', j.answers -> 'thumbs',
    (SELECT jsonb_object_agg(key, value -> 'choice') FROM jsonb_each(j.answers -> 'aspects')),
    j.answers -> 'turns', j.answers -> 'rubric',
    CASE WHEN j.answers ? 'marks' THEN coalesce((SELECT jsonb_agg(DISTINCT jsonb_build_array(
        m -> 'candidate', m -> 'type', m -> 'category', m -> 'step', m -> 'first_error'))
        FROM jsonb_array_elements(j.answers -> 'marks') AS m), '[]') END,
    (SELECT jsonb_agg(DISTINCT tag) FROM jsonb_array_elements(j.answers -> 'tags') AS tag))"""
# Ratings one step apart are no disagreement.
FAR_APART: Final = """EXISTS (
    SELECT 1 FROM annotation_judgement j,
        jsonb_array_elements(j.answers -> 'ratings') WITH ORDINALITY AS rated (given, candidate),
        jsonb_each(CASE jsonb_typeof(rated.given) WHEN 'object' THEN rated.given END) AS aspect (name, value)
    WHERE {of_comparison} GROUP BY candidate, name HAVING max(value::float) - min(value::float) > 1)"""
OF_COMPARISON: Final = """j.comparison_id = c.id AND j.kind = 'regular'
    AND j.undone_at IS NULL AND j.set_aside_at IS NULL"""
# Of a comparison c: fully judged, by people who said different things, and not decided.
DISPUTED: Final = f"""c.open_slots = 0 AND (
    SELECT count(*) >= c.needed AND (count(DISTINCT {SAID}) > 1
        OR count({SAID}) = 0 AND {FAR_APART.format(of_comparison=OF_COMPARISON)})
    FROM annotation_judgement j WHERE {OF_COMPARISON})
AND NOT EXISTS (SELECT 1 FROM annotation_judgement r WHERE r.comparison_id = c.id AND r.kind = 'review'
    AND r.undone_at IS NULL)"""  # noqa: S608  constants of ours


def disputed_among(comparisons: Collection[int]) -> set[int]:
    """Those of these comparisons that are disputed."""
    with connection.cursor() as cursor:
        cursor.execute(
            f"SELECT c.id FROM annotation_comparison c WHERE c.id = ANY(%s) AND {DISPUTED}",  # noqa: S608
            [list(comparisons)],
        )
        return {pk for (pk,) in cursor.fetchall()}
