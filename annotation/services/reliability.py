"""How reliable annotators are, by their names in files."""

from typing import Final

from django.db import connection

from annotation.models import Project
from annotation.services.comparisons import annotator_name

SHARED: Final = """
SELECT u.username, avg((a.choice = b.choice)::int)::float8
FROM annotation_judgement a
JOIN annotation_judgement b ON b.comparison_id = a.comparison_id AND b.annotator_id <> a.annotator_id
JOIN annotation_comparison c ON c.id = a.comparison_id
JOIN annotation_user u ON u.id = a.annotator_id
WHERE c.project_id = %s AND a.kind = 'regular' AND b.kind = 'regular'
AND a.undone_at IS NULL AND a.set_aside_at IS NULL AND b.undone_at IS NULL AND b.set_aside_at IS NULL
AND a.choice <> 'null' AND b.choice <> 'null'
GROUP BY u.username
"""


def reliabilities(project: Project) -> dict[str, float]:
    """For each annotator the share of other people's choices, on the same comparisons, that equal theirs.

    Somebody who shared no comparison with anybody is not in it.
    """
    with connection.cursor() as cursor:
        cursor.execute(SHARED, [project.pk])
        return {annotator_name(username): share for username, share in cursor.fetchall()}
