"""Where a checkpoint comes from: runs, data, annotators, rewards and code, back to registered models.

Whoever has what they said deleted is gone from the tables at once; a model that learnt from it still holds
it. `taken_back` finds these, through any number of runs, so that somebody can decide what becomes of them.
"""

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from datetime import datetime
from typing import Any

from annotation.models import BulkChange, Project, User
from annotation.services.comparisons import annotator_name
from training.models import Checkpoint, Run, Snapshot

CHECKPOINT = "checkpoint:"


@dataclass(frozen=True)
class Node:
    """`id` is unique in a graph: checkpoint:5, run:7, snapshot:3, model:tiny, rule:words."""

    id: str
    kind: str
    facts: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Edge:
    """How a node came about: it was made by its origin, started from it, learnt from it or was rewarded by
    it.
    """

    node: str
    origin: str
    role: str


@dataclass(frozen=True)
class Lineage:
    nodes: list[Node]
    edges: list[Edge]
    taken_back: int  # people who have since deleted what they said and something here learnt from

    def as_data(self) -> dict[str, Any]:
        return {
            "nodes": [asdict(node) for node in self.nodes],
            "edges": [asdict(edge) for edge in self.edges],
            "taken_back": self.taken_back,
        }


def lineage_of(checkpoint: Checkpoint) -> Lineage:
    """All that had a part in a checkpoint, itself first."""
    nodes: dict[str, Node] = {}
    edges: list[Edge] = []
    people: set[str] = set()
    waiting = [checkpoint]
    while waiting:
        this = waiting.pop()
        name = f"{CHECKPOINT}{this.pk}"
        if name in nodes:
            continue
        run, snapshot = this.run, this.run.snapshot
        gone = people_gone(snapshot)
        people |= gone
        nodes[name] = Node(name, "checkpoint", {"sha256": this.sha256, "created_at": this.created_at})
        maker, data = f"run:{run.pk}", f"snapshot:{snapshot.pk}"
        nodes[maker] = Node(maker, "run", _facts_of(run))
        nodes[data] = Node(data, "snapshot", _facts_of_data(snapshot, gone))
        edges += [Edge(name, maker, "made by"), Edge(maker, data, "learnt from")]
        for parent, role in _parents(run):
            edges.append(Edge(maker, parent, role))
            if parent.startswith(CHECKPOINT):
                waiting += Checkpoint.objects.filter(pk=parent.removeprefix(CHECKPOINT)).select_related(
                    "run__snapshot", "run__base"
                )
            else:
                nodes.setdefault(parent, Node(parent, parent.split(":")[0]))
    return Lineage(list(nodes.values()), edges, len(people))


def taken_back(project: Project) -> dict[int, int]:
    """Of each checkpoint of the project that learnt, itself or through what it was made from, from people who
    have since deleted what they said: how many these are."""
    if not (deletions := _deletions(project)):
        return {}
    rows = Checkpoint.objects.filter(run__project=project).select_related("run__snapshot", "run__base")
    by_name = {f"{CHECKPOINT}{row.pk}": row for row in rows.order_by("pk")}
    gone: dict[str, set[str]] = {}
    for name, row in by_name.items():  # what it was made from has a smaller number
        own = _gone(row.run.snapshot, deletions)
        inherited = [gone.get(parent, set()) for parent, _role in _parents(row.run)]
        gone[name] = own.union(*inherited)
    return {by_name[name].pk: len(people) for name, people in gone.items() if people}


def people_gone(snapshot: Snapshot) -> set[str]:
    """Who had their judgements deleted after the snapshot was taken."""
    return _gone(snapshot, _deletions(snapshot.project) if snapshot.project else {})


def _deletions(project: Project) -> dict[str, datetime]:
    """By name, when somebody last had what they said here deleted."""
    changes = BulkChange.objects.filter(project=project, kind=BulkChange.Kind.DELETE).order_by("pk")
    when = {change.subject["annotator"]: change.created_at for change in changes}
    names = User.objects.filter(pk__in=when).values_list("pk", "username")
    return {annotator_name(name): when[pk] for pk, name in names}


def _gone(snapshot: Snapshot, deletions: Mapping[str, datetime]) -> set[str]:
    return {name for name in snapshot.people if name in deletions and deletions[name] > snapshot.cutoff}


def _parents(run: Run) -> Iterable[tuple[str, str]]:
    if run.base is not None:
        yield f"model:{run.base.name}", "started from"
    elif run.base_checkpoint_id is not None:
        yield f"{CHECKPOINT}{run.base_checkpoint_id}", "started from"
    for entry in run.reward:
        if name := entry.get("model"):
            yield (name if name.startswith(CHECKPOINT) else f"model:{name}"), "rewarded by"
        elif rule := entry.get("rule"):
            yield f"rule:{rule}", "rewarded by"


def _facts_of(run: Run) -> dict[str, Any]:
    return {
        "method": run.method,
        "config": run.config,
        "seed": run.seed,
        "code_version": run.code_version,
        "finished_at": run.finished_at,
    }


def _facts_of_data(snapshot: Snapshot, gone: set[str]) -> dict[str, Any]:
    return {
        "sha256": snapshot.sha256,
        "cutoff": snapshot.cutoff,
        "filters": snapshot.filters,
        "counts": snapshot.counts,
        "people": {name: n for name, n in snapshot.people.items() if name not in gone},
        "taken_back": len(gone),
    }
