"""What somebody wrote in the arena goes with what they said, once they have that deleted.

`annotation.services.withdrawing` deletes their judgements; of an arena it knows nothing. A periodic task
looks for the rest: the comparisons that the answers became, and the runs that gave them, with their files.
"""

from collections.abc import Sequence
from functools import partial

from django.db import transaction
from django.db.models import Exists, Func, JSONField, OuterRef, Q

from annotation.models import BulkChange
from annotation.services import delete_comparison
from training import storage
from training.models import Checkpoint, Duel, ResumePoint, Run, Snapshot
from training.services.duels import ENDED_BADLY, cancel_unfinished
from training.services.jobs import GENERATE


def delete_withdrawn() -> int:
    """Delete the duels of people who have since had all deleted that they said. How many. Where a model is
    still answering it is cancelled, and the duel goes the next time.
    """
    asker = Func(OuterRef("asker"), function="to_jsonb", output_field=JSONField())
    taken_back = BulkChange.objects.filter(
        kind=BulkChange.Kind.DELETE,
        status=BulkChange.Status.DONE,
        project=OuterRef("arena__project"),
        subject__annotator=asker,
        created_at__gte=OuterRef("created_at"),
    )
    count = 0
    for pk in Duel.objects.filter(Exists(taken_back)).order_by("pk").values_list("pk", flat=True):
        with transaction.atomic():
            held = Duel.objects.select_for_update(skip_locked=True, of=("self",)).filter(pk=pk)
            duel = held.select_related("arena", "lease__comparison").first()
            count += duel is not None and _delete(duel)
    return count


def _delete(duel: Duel) -> bool:
    """Of a locked duel, unless a model is still answering."""
    pairs = duel.turns.values_list("left_run", "right_run")
    asked = Run.objects.filter(pk__in=[pk for pair in pairs for pk in pair])
    # A turn that was tried again knows its newest runs alone; those before it were asked the same.
    failed = Run.objects.filter(
        project=duel.arena.project_id,
        method__in=GENERATE.values(),
        status__in=ENDED_BADLY,
        snapshot__sha256__in=asked.values("snapshot__sha256"),
    )
    runs = list(Run.objects.filter(Q(pk__in=asked) | Q(pk__in=failed)).order_by("pk"))
    cancel_unfinished(runs)
    if Run.objects.filter(pk__in=[run.pk for run in runs]).exclude(status__in=Run.ENDED).exists():
        return False
    if duel.lease is not None:
        delete_comparison(comparison=duel.lease.comparison)
    duel.delete()
    _delete_runs(runs)
    return True


def _delete_runs(runs: Sequence[Run]) -> None:
    """With what they read and what they wrote. Files that other rows name stay."""
    rows = [
        ResumePoint.objects.filter(run__in=runs),
        Checkpoint.objects.filter(run__in=runs),
        Snapshot.objects.filter(runs__in=runs),
    ]
    keys = {key for part in rows for key in part.values_list("storage_key", flat=True) if key}
    snapshots = list(rows[-1].values_list("pk", flat=True))
    Checkpoint.objects.filter(run__in=runs).delete()
    Run.objects.filter(pk__in=[run.pk for run in runs]).delete()
    Snapshot.objects.filter(pk__in=snapshots, runs=None).delete()
    for model in (ResumePoint, Checkpoint, Snapshot):
        keys -= set(model.objects.filter(storage_key__in=keys).values_list("storage_key", flat=True))
    for key in sorted(keys):
        transaction.on_commit(partial(storage.delete, key), robust=True)
