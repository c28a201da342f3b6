"""Our side of the collection benchmarks: an empty site with people and projects, and how it is asked."""

import http.client
import json
import os
import secrets
import subprocess
import time
import uuid
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from benchmarks.load import Connection, Post, Timed
from benchmarks.serving import stop

POLL = 0.05  # seconds between looks at an import; each takes 5 ms of the processors that do the import


def configure(data: Path, database: str | None = None) -> None:
    """Set this process and its children up for a data directory, before Django is imported."""
    os.environ["DJANGO_SETTINGS_MODULE"] = "webapp.settings"
    os.environ["TIEBREAK_DATA"] = str(data)
    for name in ("RATE_LIMIT_JUDGING", "RATE_LIMIT_API"):  # nobody presses keys as fast as the load does
        os.environ[name] = ""
    for name in ("DATABASE_URL", "CELERY_BROKER_URL", "STORAGE_URL"):
        os.environ.pop(name, None)
    if database is not None:
        os.environ |= {"DATABASE_URL": database, "SECRET_KEY": secrets.token_hex(32)}


def make_people(annotators: int) -> tuple[str, list[str]]:
    """Migrate, and make a manager and annotators: the manager's name, and a token for each annotator."""
    import django

    django.setup()
    from django.core.management import call_command

    from annotation import services

    call_command("migrate", verbosity=0)
    call_command("createcachetable", verbosity=0)
    services.create_user(username="manager", role="manager")
    people = [services.create_user(username=f"annotator{n}", role="annotator") for n in range(annotators)]
    return "manager", [services.issue_token(user=person) for person in people]


def make_project(*, by: str, labels: int) -> int:
    """A project with a choice between two texts that every annotator belongs to."""
    from annotation import services
    from annotation.models import User

    manager = User.objects.get(username=by)
    project = services.create_project(by=manager, name="Bench", modality="text", labels_per_comparison=labels)
    for person in User.objects.filter(role="annotator").order_by("pk"):
        services.add_member(project=project, username=person.username, role="annotator", by=manager)
    return project.pk


def token_of(name: str) -> str:
    from annotation import services
    from annotation.models import User

    return services.issue_token(user=User.objects.get(username=name))


def fill(project: int, groups: Iterable[dict[str, Any]]) -> None:
    """Add comparisons without an import."""
    from django.db import connection

    from annotation import services
    from annotation.models import Project

    services.add_comparisons(project=Project.objects.get(pk=project), groups=groups)
    with connection.cursor() as cursor:
        cursor.execute("ANALYZE")
    connection.close()


def headers_of(token: str) -> dict[str, str]:
    return {"Authorization": f"Token {token}"}


@contextmanager
def background(data: Path) -> Iterator[None]:
    """The workers for light tasks and the scheduler, with the commands of `manage.py up`."""
    from webapp.embedded.services import plan_services

    (data / "logs").mkdir(exist_ok=True)
    planned = plan_services(data_dir=data, url="", listener=0, environment=os.environ)
    wanted = [service for service in planned if service.name == "scheduler" or "light" in service.name]
    processes = []
    for service in wanted:
        with service.log.open("wb") as log:
            processes.append(subprocess.Popen(service.command, stdout=log, stderr=log))
    try:
        for service in wanted:
            if service.name != "scheduler":
                _wait_until_started(service.log, processes)
        yield
    finally:
        for process in processes:
            stop(process)


def _wait_until_started(log: Path, processes: "list[subprocess.Popen[bytes]]") -> None:
    deadline = time.monotonic() + 120
    while "[queues]" not in log.read_text():
        if time.monotonic() > deadline or any(process.poll() is not None for process in processes):
            raise SystemExit(f"The worker did not start:\n{log.read_text()[-3000:]}")
        time.sleep(0.1)


def import_rows(port: int, token: str, project: int, rows: list[dict[str, str]]) -> float:
    """Seconds from the upload of a file until the import is done."""
    lines = (
        {"prompt": row["prompt"], "candidates": [{"text": row["left"]}, {"text": row["right"]}]}
        for row in rows
    )
    file = "\n".join(map(json.dumps, lines)).encode()
    look = Connection(port, headers_of(token))
    began = time.monotonic()
    job = _upload(port, token, f"/api/v1/projects/{project}/imports/", file)
    while job["status"] in ("queued", "running"):
        time.sleep(POLL)
        _, job = look(f"/api/v1/imports/{job['id']}/", method="GET")
    seconds = time.monotonic() - began
    look.close()
    if (job["status"], job["accepted"]) != ("done", len(rows)):
        raise SystemExit(f"Tiebreak's import: {job}")
    return seconds


def settle() -> None:
    """Wait until the words of imported comparisons are read, so that this work is in nobody's way."""
    from annotation.models import UnreadPrompts

    while UnreadPrompts.objects.exists():
        time.sleep(0.2)


def _upload(port: int, token: str, path: str, file: bytes) -> Any:
    mark = uuid.uuid4().hex
    body = (
        f'--{mark}\r\nContent-Disposition: form-data; name="format"\r\n\r\ngroups\r\n'
        f'--{mark}\r\nContent-Disposition: form-data; name="file"; filename="rows.jsonl"\r\n\r\n'
    ).encode() + file + f"\r\n--{mark}--\r\n".encode()  # fmt: skip
    headers = headers_of(token) | {"Content-Type": f"multipart/form-data; boundary={mark}"}
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=120)
    connection.request("POST", path, body, headers)
    response = connection.getresponse()
    reply = json.loads(response.read())
    connection.close()
    if response.status != 202:
        raise SystemExit(f"Tiebreak's import: {response.status} {reply}")
    return reply


def annotate(project: int, post: Post, timed: Timed, until: float) -> None:
    """Answer, and be given the next comparison in the same reply."""
    status, shown = post(f"/api/v1/projects/{project}/next/")
    while status == 200 and shown and (not timed.seconds or time.monotonic() < until):
        body = {"client_id": str(uuid.uuid4()), "choice": len(timed.seconds) % 2, "strength": 2}
        began = time.perf_counter()
        answered, reply = post(f"/api/v1/leases/{shown['lease']}/judgement/?next=1", body)
        timed.seconds.append(time.perf_counter() - began)
        if answered != 201:
            raise SystemExit(f"{answered}: {reply}")
        timed.ids.append(shown["lease"])
        shown = reply["next"]


def check(project: int, timed: Timed) -> list[str]:
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
    judgements = Judgement.objects.filter(comparison__project=project)
    stored = {str(lease) for lease in judgements.values_list("lease", flat=True)}
    if len(timed.ids) != len(set(timed.ids)):
        problems.append("A lease was given twice.")
    if stored != set(timed.ids) or judgements.count() != len(stored):
        problems.append(f"{len(set(timed.ids) ^ stored)} answers were lost or stored more than once.")
    return problems
