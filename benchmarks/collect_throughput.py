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
import http.client
import json
import multiprocessing
import os
import platform
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

ANNOTATORS, COMPARISONS, LABELS = 8, 10_000, 2
TEXT = "A few sentences, as an answer has them. " * 12


@dataclass
class Timed:
    """What the clients of one round saw: seconds of each request, and the leases that they answered."""

    seconds: list[float] = field(default_factory=list)
    leases: list[str] = field(default_factory=list)
    wall: float = 0.0

    @property
    def per_second(self) -> float:
        return len(self.seconds) / self.wall

    def percentile(self, share: float) -> float:
        return sorted(self.seconds)[int(share * (len(self.seconds) - 1))]


def main() -> int:
    """Print both rows and their ratio; exit code 1 if anything was stored twice or not at all."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=10, help="of each side in each round")
    parser.add_argument("--write", type=Path, help="write the result as Markdown")
    options = parser.parse_args()
    data = Path(tempfile.mkdtemp(prefix="tiebreak-bench-"))
    os.environ["TIEBREAK_DATA"] = str(data)
    os.environ["RATE_LIMIT_JUDGING"] = ""  # no person presses keys as fast as the load does
    for name in ("DATABASE_URL", "CELERY_BROKER_URL", "STORAGE_URL"):
        os.environ.pop(name, None)
    try:
        return run(options, data)
    finally:
        shutil.rmtree(data, ignore_errors=True)


def run(options: argparse.Namespace, data: Path) -> int:
    from webapp.embedded.postgres import Postgres

    postgres = Postgres(data)
    postgres.prepare()
    postgres.start()
    try:
        project, tokens = set_up()
        site, limit = Timed(), Timed()
        with served("webapp.wsgi", data) as port, served("benchmarks.bare_site", data) as bare_port:
            ask_all(bare_port, tokens, ask_bare, 1.0, project)
            for _ in range(options.rounds):
                add(limit, ask_all(bare_port, tokens, ask_bare, options.seconds, project))
                add(site, ask_all(port, tokens, annotate, options.seconds, project))
        problems = check(project, site)
    finally:
        postgres.stop()
    text = report(options, site, limit, problems)
    print(text)
    if options.write:
        options.write.write_text(text + "\n")
    return 1 if problems else 0


def set_up() -> tuple[int, list[str]]:
    """A migrated database with one project; its id and the annotators' tokens."""
    os.environ["DJANGO_SETTINGS_MODULE"] = "webapp.settings"
    import django

    django.setup()
    from django.core.management import call_command

    from annotation import services

    call_command("migrate", verbosity=0)
    manager = services.create_user(username="manager", role="manager")
    project = services.create_project(by=manager, name="Bench", modality="text", labels_per_comparison=LABELS)
    groups = (
        {"prompt": f"Question {n}? {TEXT}", "candidates": [{"text": f"{side}{n} {TEXT}"} for side in "AB"]}
        for n in range(COMPARISONS)
    )
    services.add_comparisons(project=project, groups=groups)
    tokens = []
    for n in range(ANNOTATORS):
        user = services.create_user(username=f"annotator{n}", role="annotator")
        services.add_member(project=project, username=user.username, role="annotator", by=manager)
        tokens.append(services.issue_token(user=user))
    from django.db import connection

    with connection.cursor() as cursor:
        cursor.execute("ANALYZE")
    connection.close()
    return project.pk, tokens


@contextmanager
def served(application: str, data: Path) -> Iterator[int]:
    """The application under gunicorn as `manage.py up` starts it, on a free port of this machine."""
    from webapp.embedded.services import WEB_PROCESSES, WEB_THREADS

    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        command = [
            sys.executable,
            "-m",
            "gunicorn",
            application,
            "--bind",
            f"fd://{listener.fileno()}",
            "--preload",
        ]
        command += [
            "--worker-class",
            "gthread",
            "--workers",
            str(WEB_PROCESSES),
            "--threads",
            str(WEB_THREADS),
        ]
        log = (data / f"{application}.log").open("wb")
        process = subprocess.Popen(
            [*command, "--no-control-socket"], pass_fds=[listener.fileno()], stdout=log, stderr=log
        )
    try:
        wait_for(port, process, data / f"{application}.log")
        yield port
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(30)
        log.close()


def wait_for(port: int, process: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and process.poll() is None:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
        try:
            connection.request("GET", "/healthz")
            connection.getresponse().read()
        except OSError:
            time.sleep(0.2)
        else:
            return
        finally:
            connection.close()
    raise SystemExit(f"The server did not answer:\n{log.read_text()[-2000:]}")


def add(total: Timed, part: Timed) -> None:
    total.seconds += part.seconds
    total.leases += part.leases
    total.wall += part.wall


def ask_all(port: int, tokens: list[str], work: Callable[..., None], seconds: float, project: int) -> Timed:
    """All annotators at once, each in a process of its own, until the time is up."""
    context = multiprocessing.get_context("fork")
    results: Any = context.SimpleQueue()
    start = context.Barrier(len(tokens) + 1)
    children = [
        context.Process(target=client, args=(port, token, work, seconds, project, start, results))
        for token in tokens
    ]
    for child in children:
        child.start()
    start.wait()
    began = time.monotonic()
    parts: list[Timed] = [results.get() for _ in children]
    for child in children:
        child.join()
    total = Timed(wall=time.monotonic() - began)
    for part in parts:
        total.seconds += part.seconds
        total.leases += part.leases
    return total


def client(
    port: int, token: str, work: Callable[..., None], seconds: float, project: int, start: Any, results: Any
) -> None:
    timed = Timed()
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    headers = {"Authorization": f"Token {token}", "Content-Type": "application/json"}

    def post(path: str, body: dict[str, Any] | None = None) -> tuple[int, Any]:
        connection.request("POST", path, json.dumps(body or {}), headers)
        response = connection.getresponse()
        content = response.read()
        return response.status, json.loads(content) if content else None

    start.wait()
    work(post, timed, time.monotonic() + seconds, project)
    connection.close()
    results.put(timed)


def annotate(post: Callable[..., tuple[int, Any]], timed: Timed, until: float, project: int) -> None:
    """Answer, and be given the next comparison in the same reply."""
    status, shown = post(f"/api/v1/projects/{project}/next/")
    while status == 200 and shown and time.monotonic() < until:
        body = {"client_id": str(uuid.uuid4()), "choice": len(timed.seconds) % 2, "strength": 2}
        began = time.perf_counter()
        answered, reply = post(f"/api/v1/leases/{shown['lease']}/judgement/?next=1", body)
        timed.seconds.append(time.perf_counter() - began)
        if answered != 201:
            raise SystemExit(f"{answered}: {reply}")
        timed.leases.append(shown["lease"])
        shown = reply["next"]


def ask_bare(post: Callable[..., tuple[int, Any]], timed: Timed, until: float, project: int) -> None:
    while time.monotonic() < until:
        body = {"client_id": str(uuid.uuid4()), "choice": 0, "strength": 2}
        began = time.perf_counter()
        post("/one-query/", body)
        timed.seconds.append(time.perf_counter() - began)


def check(project: int, site: Timed) -> list[str]:
    """What is wrong in the database, in sentences; nothing if all is well."""
    from django.db.models import Count, F, Q

    from annotation.models import Comparison, Judgement, Lease

    live = Count("leases", filter=Q(leases__state__in=Lease.LIVE))
    slots = Count("leases__slot", filter=Q(leases__state__in=Lease.LIVE), distinct=True)
    people = Count("leases__annotator", filter=Q(leases__state__in=Lease.LIVE), distinct=True)
    comparisons = Comparison.objects.filter(project=project).annotate(live=live, slots=slots, people=people)
    problems = []
    if doubled := comparisons.filter(Q(slots__lt=F("live")) | Q(people__lt=F("live"))).count():
        problems.append(f"{doubled} comparisons have a slot or a person with two leases.")
    if wrong := comparisons.exclude(open_slots=F("needed") - F("live")).count():
        problems.append(f"{wrong} comparisons count their open slots wrongly.")
    stored = {str(lease) for lease in Judgement.objects.values_list("lease", flat=True)}
    if len(site.leases) != len(set(site.leases)):
        problems.append("A lease was given twice.")
    if stored != set(site.leases) or Judgement.objects.count() != len(stored):
        problems.append(f"{len(set(site.leases) ^ stored)} answers were lost or stored more than once.")
    return problems


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
        f"{len(site.seconds):,} judgements; {duplicates}.",
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
