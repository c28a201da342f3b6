"""Collecting pairwise judgements and importing tasks, against Label Studio on the same machine and server.

Both sites run under gunicorn with the same workers and threads, on the same PostgreSQL of the system with its
durable defaults, and are asked over HTTP by the same clients: 8 annotators with accounts of their own, who
answer as soon as a task is there. The sides take turns, so that a busy machine slows both alike. Label Studio
is asked to submit and then for the next task, as its page does; Tiebreak for both at once, as its page does.
Tiebreak's worker and scheduler run all the time. An import is timed from the request until every row is a
task, and begins after a pause in which both sides finish what they do behind their replies. At the end both
databases are asked whether every accepted answer is stored exactly once.
`python -m benchmarks.collect_vs_label_studio [--rounds 3] [--seconds 8] [--tasks 10000] [--write FILE]`
"""

import argparse
import os
import platform
import random
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks import debian_postgres, label_studio, tiebreak_site
from benchmarks.load import Connection, Timed, ask_all
from benchmarks.serving import served

ANNOTATORS, WORKERS, THREADS = 8, 4, 2
PAUSE = 3  # seconds before each import
PATIENCE = 3  # rounds of the slower side last so much longer, for as many answers as a p95 needs
RATE, LATENCY, IMPORT = 20.0, 15.0, 4.0  # the targets, as ratios
WORDS = (
    "the of and to in is that for it as with was on be at by this have from or one had not but what all were",
    "when we there can an your which their said if do will each about how up out them then she many some so",
    "these would other into has more her two like him see time could no make than first been its who now",
    "people my made over did down only way find use may water long little very after words called just where",
)


@dataclass
class Side:
    """One of the two: what its annotators saw, and the seconds of its imports."""

    name: str
    timed: Timed = field(default_factory=Timed)
    imports: list[float] = field(default_factory=list)


def main() -> int:
    """Print the table; exit code 1 if an answer was lost or doubled, or a target was missed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument(
        "--seconds", type=float, default=8, help="of Tiebreak in each round; the other has 3 times that"
    )
    parser.add_argument("--tasks", type=int, default=10_000)
    parser.add_argument("--write", type=Path, help="write the result as Markdown")
    options = parser.parse_args()
    label_studio.install()
    data = Path(tempfile.mkdtemp(prefix="tiebreak-bench-"))
    try:
        with debian_postgres.running(data / "postgres") as sockets:
            ours, theirs, problems = compare(options, data, sockets)
    finally:
        shutil.rmtree(data, ignore_errors=True)
    text, missed = report(options, ours, theirs, problems)
    print(text)
    if options.write:
        options.write.write_text(text + "\n")
    return 1 if problems or missed else 0


def compare(options: argparse.Namespace, data: Path, sockets: Path) -> tuple[Side, Side, list[str]]:
    """Both sides in turns; what is wrong in either database, in sentences.

    The first project is judged while there is no other; each further one is for another import.
    """
    rows = make_rows(options.tasks)
    ours, theirs = Side("Tiebreak"), Side(f"Label Studio {label_studio.VERSION}")
    projects = options.rounds + 1
    with (
        tiebreak(data, sockets, projects) as (port, own),
        peer(data, sockets, projects) as (peer_port, other),
    ):

        def import_both(number: int, rows: list[dict[str, str]]) -> tuple[float, float]:
            ask = Connection(peer_port, label_studio.headers_of(other["manager"]))
            time.sleep(PAUSE)
            slow = label_studio.import_rows(ask, other["projects"][number], rows)
            ask.close()
            time.sleep(PAUSE)
            return tiebreak_site.import_rows(port, own["manager"], own["projects"][number], rows), slow

        import_both(options.rounds, rows[:10])  # to warm up
        times = [import_both(0, rows)]
        tiebreak_site.settle()
        headers = [tiebreak_site.headers_of(token) for token in own["tokens"]]
        other_headers = [label_studio.headers_of(token) for token in other["tokens"]]
        for _ in range(options.rounds):
            work = partial(label_studio.annotate, other["projects"][0])
            theirs.timed.follow(ask_all(peer_port, other_headers, work, PATIENCE * options.seconds))
            work = partial(tiebreak_site.annotate, own["projects"][0])
            ours.timed.follow(ask_all(port, headers, work, options.seconds))
        for number in range(1, options.rounds):
            times.append(import_both(number, rows))
            tiebreak_site.settle()
        problems = tiebreak_site.check(own["projects"][0], ours.timed)
        stored = options.rounds * len(rows) + 10
        problems += label_studio.check(sockets, "labelstudio", theirs.timed, stored)
    ours.imports, theirs.imports = ([pair[side] for pair in times] for side in (0, 1))
    if options.tasks <= max(len(ours.timed.ids), len(theirs.timed.ids)):
        raise SystemExit("A side ran out of tasks; use more --tasks or fewer --seconds.")
    return ours, theirs, problems


@contextmanager
def tiebreak(data: Path, sockets: Path, projects: int) -> Iterator[tuple[int, dict[str, Any]]]:
    """Our site with its background services: its port, and `manager`, `tokens` and `projects`."""
    home = data / "tiebreak"
    home.mkdir()
    tiebreak_site.configure(home, debian_postgres.create_database(sockets, "tiebreak"))
    manager, tokens = tiebreak_site.make_people(ANNOTATORS)
    made = {
        "manager": tiebreak_site.token_of(manager),
        "tokens": tokens,
        "projects": [tiebreak_site.make_project(by=manager, labels=1) for _ in range(projects)],
    }
    web = served("webapp.wsgi", log=home / "web.log", workers=WORKERS, threads=THREADS)
    with tiebreak_site.background(home), web as port:
        yield port, made


@contextmanager
def peer(data: Path, sockets: Path, projects: int) -> Iterator[tuple[int, dict[str, Any]]]:
    """Label Studio: its port, and `manager`, `tokens` and `projects`."""
    debian_postgres.create_database(sockets, "labelstudio")
    with label_studio.site(
        data / "label-studio",
        sockets=sockets,
        database="labelstudio",
        workers=WORKERS,
        threads=THREADS,
        annotators=ANNOTATORS,
        projects=projects,
    ) as site:
        yield site


def make_rows(number: int) -> list[dict[str, str]]:
    """Prompts of some 30 words with two answers of some 80, the same in every run."""
    draw = random.Random(0)
    words = " ".join(WORDS).split()

    def text(length: int) -> str:
        return " ".join(draw.choices(words, k=draw.randint(length // 2, 3 * length // 2)))

    return [{"prompt": f"{n}. {text(30)}?", "left": text(80), "right": text(80)} for n in range(number)]


def report(
    options: argparse.Namespace, ours: Side, theirs: Side, problems: list[str]
) -> tuple[str, list[str]]:
    """The result as Markdown, and the targets that were missed."""
    rate = ours.timed.per_second / theirs.timed.per_second
    latency = theirs.timed.percentile(0.95) / ours.timed.percentile(0.95)
    speed = statistics.median(theirs.imports) / statistics.median(ours.imports)
    results = [("annotations per second", rate, RATE), ("p95", latency, LATENCY), ("import", speed, IMPORT)]
    missed = [name for name, ratio, target in results if ratio < target]
    stored = "; ".join(problems) or "every accepted answer is stored exactly once on both sides"
    module = "benchmarks.collect_vs_label_studio"
    command = f"python -m {module} --rounds {options.rounds} --seconds {options.seconds:g}"
    answers = f"{len(ours.timed.ids):,} and {len(theirs.timed.ids):,} answers"
    parts = "; ".join(
        f"{part} p50 {1000 * theirs.timed.percentile(0.5, part):.0f} ms,"
        f" p95 {1000 * theirs.timed.percentile(0.95, part):.0f} ms"
        for part in ("submit", "next")
    )
    lines = [
        "# Collecting and importing, against Label Studio",
        "",
        f"`{command}{'' if options.tasks == 10_000 else f' --tasks {options.tasks}'}`",
        "",
        f"{ANNOTATORS} annotators at once on {options.tasks:,} pairs of texts; gunicorn with {WORKERS}"
        f" workers of {THREADS} threads and PostgreSQL {debian_postgres.version()} for both;"
        f" {answers}; {stored}. The load generator took {ours.timed.load_share:.1%} of the processors while"
        f" it asked Tiebreak and {theirs.timed.load_share:.1%} while it asked Label Studio.",
        "",
        f"| | {ours.name} | {theirs.name} | ratio | target |",
        "| --- | --- | --- | --- | --- |",
        f"| annotations per second | {ours.timed.per_second:.0f} | {theirs.timed.per_second:.1f} |"
        f" **{rate:.1f} ×** | ≥ {RATE:g} × |",
        _latencies("p50", 0.5, ours, theirs, ""),
        _latencies("p95", 0.95, ours, theirs, f"≤ 1/{LATENCY:g}"),
        f"| rows imported per second, median of {len(ours.imports)} | {_rows(options, ours)} |"
        f" {_rows(options, theirs)} | **{speed:.1f} ×** | ≥ {IMPORT:g} × |",
        "",
        f"Label Studio's parts: {parts}.",
        "",
        f"Python {platform.python_version()}; {os.cpu_count()} processors shared by clients, web and"
        f" database; load average {os.getloadavg()[1]:.0f}."
        + (f" **Missed: {', '.join(missed)}.**" if missed else " Every target is met."),
    ]
    return "\n".join(lines), missed


def _latencies(name: str, share: float, ours: Side, theirs: Side, target: str) -> str:
    own, other = ours.timed.percentile(share), theirs.timed.percentile(share)
    return (
        f"| submit and next, {name} | {1000 * own:.0f} ms | {1000 * other:.0f} ms |"
        f" **1/{other / own:.1f}** | {target} |"
    )


def _rows(options: argparse.Namespace, side: Side) -> str:
    return f"{options.tasks / statistics.median(side.imports):,.0f}"


if __name__ == "__main__":
    sys.exit(main())
