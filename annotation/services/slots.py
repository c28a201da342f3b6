"""How many slots projects have: see `annotation.models.SlotTally`."""

from django.db import connection

# One row for each project in place of many; rows of projects that are gone are dropped. Two at the same time
# take different rows.
FOLD = """
WITH taken AS (
    DELETE FROM annotation_slottally WHERE id IN (
        SELECT id FROM annotation_slottally WHERE project_id IN (
            SELECT project_id FROM annotation_slottally GROUP BY project_id HAVING count(*) > 1)
        FOR UPDATE SKIP LOCKED)
    RETURNING project_id, wanted, open
)
INSERT INTO annotation_slottally (project_id, wanted, open)
SELECT project_id, sum(wanted), sum(open) FROM taken JOIN annotation_project p ON p.id = project_id
GROUP BY project_id
"""


def fold_slots() -> int:
    """Put the rows of each project together; how many projects had several."""
    with connection.cursor() as cursor:
        cursor.execute(FOLD)
        return cursor.rowcount
