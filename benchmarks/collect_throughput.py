"""Submit-and-next requests per second with 8 annotators on 10,000 comparisons, and its share of the limit.

The site runs as it ships: gunicorn with the processes and threads of `manage.py up`, on the embedded
Postgres with its durable settings. Each annotator has a process with one kept-alive connection and answers
as soon as the next comparison is there. The limit is the same gunicorn on a bare Django view with one trivial
query and no middleware, asked by the same clients; both take turns, several rounds, so that a busy machine
slows both alike. Afterwards the database is asked whether every reply was stored once and no slot was given
twice.
`python -m benchmarks.collect_throughput [--rounds 3] [--seconds 10] [--write FILE]`
"""

import argparse
import os
import platform
import shutil
import statistics
import sys
import tempfile
import time
import uuid
from functools import partial
from pathlib import Path

from benchmarks import tiebreak_site
from benchmarks.load import Post, Timed, ask_all
from benchmarks.serving import served
from benchmarks.tiebreak_site import annotate, headers_of

ANNOTATORS, COMPARISONS, LABELS = 8, 10_000, 2
TEXT = "A few sentences, as an answer has them. " * 12


def main() -> int:
    """Print both rows and their ratio; exit code 1 if anything was stored twice or not at all."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=10, help="of each side in each round")
    parser.add_argument("--write", type=Path, help="write the result as Markdown")
    options = parser.parse_args()
    data = Path(tempfile.mkdtemp(prefix="tiebreak-bench-"))
    try:
        return run(options, data)
    finally:
        shutil.rmtree(data, ignore_errors=True)


def run(options: argparse.Namespace, data: Path) -> int:
    from webapp.embedded.postgres import Postgres
    from webapp.embedded.services import WEB_PROCESSES, WEB_THREADS

    tiebreak_site.configure(data)
    size = {"workers": WEB_PROCESSES, "threads": WEB_THREADS}
    postgres = Postgres(data)
    postgres.prepare()
    postgres.start()
    try:
        project, tokens = set_up()
        headers = [headers_of(token) for token in tokens]
        site, limit = Timed(), Timed()
        with (
            served("webapp.wsgi", log=data / "site.log", **size) as port,
            served("benchmarks.bare_site", log=data / "bare.log", **size) as bare_port,
        ):
            ask_all(bare_port, headers, ask_bare, 1.0)
            for _ in range(options.rounds):
                limit.follow(ask_all(bare_port, headers, ask_bare, options.seconds))
                site.follow(ask_all(port, headers, partial(annotate, project), options.seconds))
        problems = tiebreak_site.check(project, site)
    finally:
        postgres.stop()
    text = report(options, site, limit, problems)
    print(text)
    if options.write:
        options.write.write_text(text + "\n")
    return 1 if problems else 0


def set_up() -> tuple[int, list[str]]:
    """A migrated database with one project; its id and the annotators' tokens."""
    manager, tokens = tiebreak_site.make_people(ANNOTATORS)
    project = tiebreak_site.make_project(by=manager, labels=LABELS)
    groups = (
        {"prompt": f"Question {n}? {TEXT}", "candidates": [{"text": f"{side}{n} {TEXT}"} for side in "AB"]}
        for n in range(COMPARISONS)
    )
    tiebreak_site.fill(project, groups)
    return project, tokens


def ask_bare(post: Post, timed: Timed, until: float) -> None:
    while time.monotonic() < until:
        body = {"client_id": str(uuid.uuid4()), "choice": 0, "strength": 2}
        began = time.perf_counter()
        post("/one-query/", body)
        timed.seconds.append(time.perf_counter() - began)


def report(options: argparse.Namespace, site: Timed, limit: Timed, problems: list[str]) -> str:
    ratio = site.per_second / limit.per_second
    per_request = statistics.mean(site.seconds) / statistics.mean(limit.seconds)
    duplicates = "; ".join(problems) or "0 duplicate leases, every reply stored exactly once"
    lines = [
        "# Collecting: submit-and-next",
        "",
        f"`python -m benchmarks.collect_throughput --rounds {options.rounds} --seconds {options.seconds:g}`",
        "",
        f"{ANNOTATORS} annotators at once, {COMPARISONS:,} comparisons with {LABELS} slots each, "
        f"{len(site.seconds):,} judgements; {duplicates}. "
        f"The load generator took {site.load_share:.0%} of the processors.",
        "",
        "| | requests per second | p50 | p95 |",
        "| --- | --- | --- | --- |",
        row("submit an answer and get the next comparison", site),
        row("limit: a bare Django view with one trivial query", limit),
        f"| **ratio** | **{ratio:.2f} of the limit** | {per_request:.1f} × its mean time | |",
        "",
        f"Python {platform.python_version()}; {os.cpu_count()} processors shared by clients, web and "
        f"database; load average {os.getloadavg()[1]:.0f}.",
    ]
    return "\n".join(lines)


def row(name: str, timed: Timed) -> str:
    p50, p95 = 1000 * timed.percentile(0.5), 1000 * timed.percentile(0.95)
    return f"| {name} | {timed.per_second:.0f} | {p50:.0f} ms | {p95:.0f} ms |"


if __name__ == "__main__":
    sys.exit(main())
