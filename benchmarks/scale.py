"""A project of a million comparisons and a million judgements: its queue, pages and exports.

- queue: p95 of submit-and-next for an annotator who has judged the first 50,000 comparisons, which still have
  slots open, against that in a project of 10,000, in turns on the same machine. The first request after the
  annotator is sent back to the head of the queue is told too.
- strategies: the queue is put into another order in the background while the annotator goes on; then how
  Postgres reads the queue.
- pages: each page that reads much of the project.
- exports: time, and peak memory above what the process had before.

Both projects have a database server of their own under DATA, which is deleted unless --data names it; then
the next run finds them there.
`python -m benchmarks.scale [--comparisons 1000000] [--judgements 1000000] [--small 10000] [--write FILE] …`
"""

import argparse
import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Final

from benchmarks.load import Timed, ask_all
from benchmarks.scale_parts import EXPORTS
from benchmarks.serving import served
from benchmarks.tiebreak_site import annotate, headers_of

PARTS: Final = ("queue", "strategies", "pages", "exports")
SLOWER: Final = 1.5  # the p95 of the large project, at most, as a multiple of the small one's
PAGE: Final = 1.0  # seconds
MEMORY: Final = 300.0  # MB


@dataclass
class Site:
    """A seeded project with its own database server."""

    folder: Path
    project: int
    tokens: list[str]
    seeded: dict[str, float]

    @property
    def environment(self) -> dict[str, str]:
        return environment_of(self.folder)

    def part(self, name: str, *more: str) -> Any:
        """What a part of `benchmarks.scale_parts` found, in a process of its own."""
        return run_module(self.folder, "benchmarks.scale_parts", name, str(self.project), *more)


def main() -> int:
    """Print what was measured; exit code 1 where a target was missed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--comparisons", type=int, default=1_000_000)
    parser.add_argument("--judgements", type=int, default=1_000_000)
    parser.add_argument("--behind", type=int, default=50_000, help="of the first annotator")
    parser.add_argument("--small", type=int, default=10_000, help="comparisons of the other project")
    parser.add_argument("--parts", default=",".join(PARTS))
    parser.add_argument("--strategies", default="fewest,random,priority,order")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=6, help="of each project in each round")
    parser.add_argument("--data", type=Path, help="where the databases are kept and found again")
    parser.add_argument("--write", type=Path, help="write the result as Markdown")
    options = parser.parse_args()
    data = options.data or Path(tempfile.mkdtemp(prefix="tiebreak-scale-"))
    try:
        return run(options, data)
    finally:
        if options.data is None:
            shutil.rmtree(data, ignore_errors=True)


def run(options: argparse.Namespace, data: Path) -> int:
    parts = options.parts.split(",")
    lines, missed = [], []
    with ExitStack() as stack:
        size = {"comparisons": options.comparisons, "judgements": options.judgements}
        large = stack.enter_context(site(data / "large", size | {"behind": options.behind}))
        if "queue" in parts:
            size = {"comparisons": options.small, "judgements": options.small // 2}
            small = stack.enter_context(site(data / "small", size | {"behind": options.small // 20}))
            lines += queue(options, large, small, missed)
        if "strategies" in parts:
            lines += strategies(options, large)
        if "pages" in parts:
            lines += pages(large, missed)
        if "exports" in parts:
            lines += exports(large, missed)
        text = "\n".join([*head(options, large), *lines, *tail(missed)])
    print(text)
    if options.write:
        options.write.write_text(text + "\n")
    return 1 if missed else 0


def environment_of(folder: Path) -> dict[str, str]:
    own = {name: value for name, value in os.environ.items() if name not in ("DATABASE_URL", "STORAGE_URL")}
    unlimited = {"RATE_LIMIT_JUDGING": "", "RATE_LIMIT_API": ""}  # nobody presses keys as fast as this
    return own | unlimited | {"TIEBREAK_DATA": str(folder), "DJANGO_SETTINGS_MODULE": "webapp.settings"}


def run_module(folder: Path, module: str, *arguments: str) -> Any:
    command = [sys.executable, "-m", module, *arguments]
    done = subprocess.run(command, env=environment_of(folder), stdout=subprocess.PIPE, text=True)
    if done.returncode:
        raise SystemExit(f"{' '.join(command)} ended with {done.returncode}.")
    return json.loads(done.stdout)


@contextmanager
def site(folder: Path, size: dict[str, int]) -> Iterator[Site]:
    """A project of this size, seeded and counted unless the folder holds it already."""
    from webapp.embedded.postgres import Postgres

    postgres = Postgres(folder)
    postgres.prepare()
    postgres.start()
    try:
        record = folder / "seeded.json"
        if not record.exists():
            wanted = [part for name, value in size.items() for part in (f"--{name}", str(value))]
            found = run_module(folder, "benchmarks.seeding", *wanted)
            counted = run_module(folder, "benchmarks.scale_parts", "count", str(found["project"]))
            record.write_text(json.dumps(found | {"counted": counted, "size": size}))
        found = json.loads(record.read_text())
        if found["size"] != size:
            raise SystemExit(
                f"{folder} holds a project of another size: {found['size']}. Name another --data."
            )
        seconds = {"seeding": found["seconds"], **found["counted"]}
        yield Site(folder, found["project"], found["tokens"], seconds)
    finally:
        postgres.stop()


def queue(options: argparse.Namespace, large: Site, small: Site, missed: list[str]) -> list[str]:
    """Both projects in turns, and the first request from the head of the large one."""
    timed = {"large": Timed(), "small": Timed()}
    with serving(large) as large_port, serving(small) as small_port:
        sides = (("small", small, small_port), ("large", large, large_port))
        for _name, own, port in sides:  # so that both are warm
            label(own, port, 1.0)
        for _ in range(options.rounds):
            for name, own, port in sides:
                timed[name].follow(label(own, port, options.seconds))
        behind = large.part("rewind")
        back = 1000 * label(large, large_port, 0.5).seconds[0]
    ratio = timed["large"].percentile(0.95) / timed["small"].percentile(0.95)
    if ratio > SLOWER:
        missed.append(f"The p95 of submit-and-next is {ratio:.2f} × that of the small project.")
    rows = [timed_row(f"{options.small:,} comparisons", timed["small"])]
    rows += [timed_row(f"{options.comparisons:,}, {behind:,} judgements behind", timed["large"])]
    return [
        *heading("Submit and next, one annotator"),
        "| | judgements | p50 | p95 |",
        "| --- | --- | --- | --- |",
        *rows,
        f"| **ratio of the p95** | | | **{ratio:.2f}** (at most {SLOWER}) |",
        "",
        f"Sent back to the head of the queue, past {behind:,} open comparisons of their own, the next takes "
        f"{back:.0f} ms once.",
    ]


def timed_row(name: str, timed: Timed) -> str:
    p50, p95 = (1000 * timed.percentile(share) for share in (0.5, 0.95))
    return f"| {name} | {len(timed.seconds):,} | {p50:.1f} ms | {p95:.1f} ms |"


def label(own: Site, port: int, seconds: float) -> Timed:
    return ask_all(port, [headers_of(own.tokens[0])], partial(annotate, own.project), seconds)


@contextmanager
def serving(own: Site) -> Iterator[int]:
    from webapp.embedded.services import WEB_PROCESSES, WEB_THREADS

    size = {"workers": WEB_PROCESSES, "threads": WEB_THREADS}
    log = own.folder / "site.log"
    with served("webapp.wsgi", log=log, environment=own.environment, **size) as port:
        yield port


def strategies(options: argparse.Namespace, large: Site) -> list[str]:
    """Each strategy in the background of labelling, and the plans of the queue's queries after it."""
    rows, nodes = [], set()
    with serving(large) as port:
        label(large, port, 1.0)
        for name in options.strategies.split(","):
            command = [sys.executable, "-m", "benchmarks.scale_parts", "strategy", str(large.project)]
            worker = subprocess.Popen(
                [*command, "--name", name], env=large.environment, stdout=subprocess.PIPE, text=True
            )
            meanwhile = Timed()
            while worker.poll() is None:
                meanwhile.follow(label(large, port, 2.0))
            assert worker.stdout is not None
            changed = json.loads(worker.stdout.read())
            plans = large.part("plans")
            nodes |= {node for plan in plans for node in plan["nodes"]}
            query = next(plan["ms"] for plan in plans if plan["query"] == "next")
            p50, p95 = (1000 * meanwhile.percentile(share) for share in (0.5, 0.95))
            rows.append(
                f"| {name} | {changed['click']:.2f} s | {changed['all']:.0f} s | {len(meanwhile.seconds):,} "
                f"| {p50:.0f} ms | {p95:.0f} ms | {query:.2f} ms |"
            )
    return [
        *heading("Another strategy, in the background"),
        "| to | the click | all comparisons | judgements meanwhile | p50 | p95 | reading the queue then |",
        "| --- | --- | --- | --- | --- | --- | --- |",
        *rows,
        "",
        f"All plans of the queue's queries are made of: {', '.join(sorted(nodes))}.",
    ]


def pages(large: Site, missed: list[str]) -> list[str]:
    found = large.part("pages")
    missed += [
        f"The page “{row['page']}” took {row['slowest']:.2f} s." for row in found if row["slowest"] > PAGE
    ]
    found.sort(key=lambda row: -row["slowest"])
    rows = [
        f"| {row['page']} | {1000 * row['median']:.0f} ms | {1000 * row['slowest']:.0f} ms "
        f"| {row['bytes'] / 1000:.0f} |"
        for row in found
    ]
    slowest = statistics.median(row["slowest"] for row in found)
    return [
        *heading(f"Pages (the slowest of three at most {PAGE:.0f} s)"),
        "| page | median | slowest | kB |",
        "| --- | --- | --- | --- |",
        *rows,
        "",
        f"{len(found)} pages; the slowest request takes {1000 * slowest:.0f} ms in the median page.",
    ]


def exports(large: Site, missed: list[str]) -> list[str]:
    found = [large.part("export", "--number", str(number)) for number in range(len(EXPORTS))]
    missed += [
        f"The export “{row['export']}” took {row['peak']:.0f} MB." for row in found if row["peak"] > MEMORY
    ]
    rows = [
        f"| {row['export']} | {row['rows']:,} | {row['seconds']:.0f} s | {row['megabytes']:.0f} MB "
        f"| {row['peak']:.0f} MB |"
        for row in found
    ]
    return [
        *heading("Exports"),
        f"| format | rows | time | file | peak memory above idle (at most {MEMORY:.0f} MB) |",
        "| --- | --- | --- | --- | --- |",
        *rows,
    ]


def heading(text: str) -> list[str]:
    return ["", f"## {text}", ""]


def head(options: argparse.Namespace, large: Site) -> list[str]:
    given = f"--comparisons {options.comparisons} --judgements {options.judgements} --behind {options.behind}"
    given += f" --small {options.small} --parts {options.parts} --strategies {options.strategies}"
    taken = ", ".join(f"{name} {seconds:.0f} s" for name, seconds in large.seeded.items())
    return [
        "# A large project",
        "",
        f"`python -m benchmarks.scale {given} --rounds {options.rounds} --seconds {options.seconds:g}`",
        "",
        f"{options.comparisons:,} comparisons with 3 slots each and {options.judgements:,} judgements. "
        f"In the background before: {taken}.",
    ]


def tail(missed: list[str]) -> list[str]:
    machine = f"Python {platform.python_version()}; {os.cpu_count()} processors shared by all."
    return ["", *(missed or ["Every target is met."]), "", machine]


if __name__ == "__main__":
    sys.exit(main())
