"""What `benchmarks.scale` measures inside the product, on a project that `benchmarks.seeding` wrote.

Each part is a function on the database that Django is set up for, so that a test can run it small, and a
command that prints JSON, so that the benchmark can run it in a process of its own:
`TIEBREAK_DATA=… python -m benchmarks.scale_parts {plans,strategy,rewind,count,pages,export} PROJECT …`
"""

import argparse
import json
import os
import statistics
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

EXPORTS: Final[list[tuple[str, str, dict[str, Any]]]] = [
    ("groups", "jsonl", {"judged": True}),
    ("groups", "parquet", {"judged": True}),
    ("groups", "jsonl", {"judged": True, "consensus": "weighted"}),
    ("trl", "parquet", {"judged": True}),
    ("label-studio", "json", {"judged": True}),
]
REPEATS: Final = 3
HANDFUL: Final = 64  # rows: two runs of what is looked at ahead are merged, nothing more


def plans(project: int) -> list[dict[str, Any]]:
    """How Postgres reads the queue for the first annotator: nodes, rows and time of each query.

    Raises SystemExit where a plan reads a table from end to end or sorts more than a handful of rows.
    """
    from django.db import connection

    from annotation.models import AnnotatorGroup, Member
    from annotation.services import queue

    member = Member.objects.filter(project=project, role="annotator").order_by("pk").first()
    assert member is not None
    group = AnnotatorGroup.objects.filter(project=project).values_list("pk", flat=True).first()
    values = {
        "project": project, "annotator": member.user_id, "group": group or 0, "frontier": member.frontier,
        "look_ahead": queue.LOOK_AHEAD,
    }  # fmt: skip
    found = []
    queries = {
        "next": (queue.AHEAD, values),
        "next from the head": (queue.AHEAD, values | {"frontier": 0}),
        "next of a group": (queue.AHEAD_OF_GROUP, values),
        "last open": (queue.LAST_OPEN, values),
    }
    for name, (query, given) in queries.items():
        with connection.cursor() as cursor:
            cursor.execute("EXPLAIN (ANALYZE, FORMAT JSON) " + query, given)
            (plan,) = _read(cursor.fetchone()[0])
        nodes = list(_nodes(plan["Plan"]))
        problems = [problem for node in nodes if (problem := problem_of(node))]
        if problems:
            raise SystemExit(f"{name}: {'; '.join(problems)}")
        kinds = sorted(
            {node["Node Type"] + (f" {node['Index Name']}" if "Index Name" in node else "") for node in nodes}
        )
        found.append({"query": name, "nodes": kinds, "ms": plan["Execution Time"]})
    return found


def _read(plan: Any) -> list[dict[str, Any]]:
    return json.loads(plan) if isinstance(plan, str) else plan


def _nodes(node: dict[str, Any]) -> Iterator[dict[str, Any]]:
    yield node
    for child in node.get("Plans", ()):
        yield from _nodes(child)


def problem_of(node: dict[str, Any]) -> str | None:
    """What makes a node of a plan slow in a large project."""
    seen = (node["Actual Rows"] + node.get("Rows Removed by Filter", 0)) * node["Actual Loops"]
    if node["Node Type"] == "Seq Scan" and seen > HANDFUL:
        return f"reads all of {node['Relation Name']}"
    if "Sort" in node["Node Type"] and seen > HANDFUL:
        return f"sorts {node['Actual Rows']:.0f} rows"
    return None


def strategy(project: int, name: str) -> dict[str, Any]:
    """Put the queue into another order, as the page's click and its worker do: seconds of both, and rows."""
    from annotation import services
    from annotation.models import Project
    from annotation.services.bulk import run_bulk_change

    began = time.monotonic()
    change = services.use_strategy(project=Project.objects.get(pk=project), strategy=name)
    click = time.monotonic() - began
    run_bulk_change(change.pk)
    change.refresh_from_db()
    return {"strategy": name, "click": click, "all": time.monotonic() - began, "rows": change.done}


def rewind(project: int) -> int:
    """Have the first annotator look from the head of the queue again; how many they judged so far."""
    from annotation.models import Member

    first = Member.objects.filter(project=project, role="annotator").order_by("pk").first()
    assert first is not None
    Member.objects.filter(pk=first.pk).update(frontier=0)
    return first.answered


def count(project: int) -> dict[str, float]:
    """Seconds to count every judgement from nothing, and to fit the models; both happen in the background."""
    from django.utils import timezone

    from annotation.services.quality import refit_quality, refresh_quality
    from annotation.services.searching import read_prompts

    taken = {}
    for name, work in (
        ("words", read_prompts),
        ("counting", lambda: refresh_quality(now=timezone.now())),
        ("fitting", lambda: refit_quality(now=timezone.now())),
    ):
        began = time.monotonic()
        work()
        taken[name] = time.monotonic() - began
    return taken


def addresses(project: int) -> dict[str, str]:
    """The pages of a project that read much of it."""
    from django.urls import reverse

    from annotation.models import Comparison, Member

    person = Member.objects.filter(project=project, role="annotator").order_by("pk").first()
    assert person is not None
    middle = Comparison.objects.filter(project=project).order_by("rank").first()
    assert middle is not None

    def at(name: str, query: str = "", *more: int) -> str:
        return reverse(f"annotation:{name}", args=[project, *more]) + query

    name = person.user.username
    return {
        "home": reverse("annotation:home"),
        "overview": at("project"),
        "agreement": at("agreement"),
        "quality": at("quality"),
        "one annotator": at("quality_annotator", "", person.user_id),
        "leaderboard": at("leaderboard"),
        "leaderboard by length": at("leaderboard", "?by_length=1"),
        "review": at("review"),
        "members": at("members"),
        "one member": at("member", "", person.user_id),
        "settings": at("project_edit"),
        "assignment": at("assignment"),
        "exports": at("exports"),
        "imports": at("imports"),
        "skipped": at("skipped"),
        "gold": at("gold"),
        "judging": at("judge"),
        "history": at("history"),
        "session": at("session"),
        "audit": at("audit"),
        "audit of judgements": at("audit", "?subject=judgement"),
        "audit of one person": at("audit", f"?actor={name}"),
        "data": at("data"),
        "data, last page": at("data", "?before=9000000000"),
        "data, in the middle": at("data", "?after=500"),
        **{
            f"data, {state}": at("data", f"?state={state}")
            for state in ("waiting", "unjudged", "judged", "split")
        },
        "data, evaluation only": at("data", "?use=held-out"),
        "data by one person": at("data", f"?by={name}"),
        "data by somebody unknown": at("data", "?by=nobody"),
        "data of a source": at("data", "?source=kto"),
        "data of an unknown source": at("data", "?source=unknown"),
        "data against one person": at("data", f"?against={name}"),
        "search, a common word": at("data", "?q=question"),
        "search, a rare word": at("data", "?q=777"),
        "search, no such word": at("data", "?q=xylophone"),
        "search in what is judged": at("data", "?q=question&state=judged"),
        "judgements": at("judgements"),
        "judgements by one person": at("judgements", f"?by={name}"),
        "judgements of one day": at("judgements", "?since=2020-01-01&until=2020-01-02"),
        "judgements set aside": at("judgements", "?state=aside"),
        "judgements of reviewers": at("judgements", "?kind=review"),
        "comparison": at("comparison", "", middle.pk),
        "API: quality": f"/api/v1/projects/{project}/quality/",
        "API: annotators": f"/api/v1/projects/{project}/quality/annotators/",
        "API: comparisons": f"/api/v1/projects/{project}/comparisons/",
        "API: judgements": f"/api/v1/projects/{project}/judgements/",
        "API: members": f"/api/v1/projects/{project}/members/",
        "API: skipped": f"/api/v1/projects/{project}/skipped/",
    }


def pages(project: int) -> list[dict[str, Any]]:
    """Median and slowest time of each page, in seconds, for the project's owner."""
    from django.test import Client

    from annotation.models import Member

    client = Client(SERVER_NAME="localhost")
    owner = Member.objects.select_related("user").get(project=project, role="owner").user
    client.force_login(owner, backend="django.contrib.auth.backends.ModelBackend")
    found = []
    for name, address in addresses(project).items():
        taken = []
        for _ in range(REPEATS):
            began = time.perf_counter()
            response = client.get(address)
            size = len(response.content)
            taken.append(time.perf_counter() - began)
            if response.status_code != 200:
                raise SystemExit(f"{name}: {address} answered {response.status_code}.")
        found.append({"page": name, "median": statistics.median(taken), "slowest": max(taken), "bytes": size})
    return found


def export(project: int, format: str, container: str, filters: dict[str, Any]) -> dict[str, Any]:
    """Time of one export, its rows and bytes, and its peak memory above what the process had before (MB)."""
    from django.core.files.storage import default_storage
    from django.db import connection

    from annotation import services
    from annotation.models import ExportJob, Project

    owner = Project.objects.get(pk=project).created_by
    job = services.start_export(
        project=Project.objects.get(pk=project), by=owner, format=format, container=container, filters=filters
    )
    connection.ensure_connection()
    idle = _forget_peak()
    began = time.monotonic()
    services.run_export(job.pk)
    seconds = time.monotonic() - began
    peak = _memory("VmHWM")
    job = ExportJob.objects.get(pk=job.pk)
    size = default_storage.size(job.storage_key)
    default_storage.delete(job.storage_key)
    return {
        "export": f"{format}, {container}, {filters.get('consensus', 'each judgement')}",
        "rows": job.rows, "seconds": seconds, "megabytes": size / 1e6, "peak": peak - idle, "idle": idle,
    }  # fmt: skip


def _forget_peak() -> float:
    """Memory in use now, from which on the peak counts (proc(5), clear_refs)."""
    Path("/proc/self/clear_refs").write_text("5")
    return _memory("VmRSS")


def _memory(name: str) -> float:
    """A line of /proc/self/status, in MB."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 / 1e6 for line in lines if line.startswith(name))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("part", choices=["plans", "strategy", "rewind", "count", "pages", "export"])
    parser.add_argument("project", type=int)
    parser.add_argument("--number", type=int, default=0, help="which export")
    parser.add_argument("--name", default="fewest", help="which strategy")
    options = parser.parse_args()
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "webapp.settings")
    import django

    django.setup()
    if options.part == "export":
        found: Any = export(options.project, *EXPORTS[options.number])
    elif options.part == "strategy":
        found = strategy(options.project, options.name)
    else:
        parts = {"plans": plans, "rewind": rewind, "count": count, "pages": pages}
        found = parts[options.part](options.project)
    json.dump(found, sys.stdout)


if __name__ == "__main__":
    main()
