"""Label Studio as a peer: installed in an environment of its own, migrated, filled and asked over HTTP."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from benchmarks.debian_postgres import ACCOUNT
from benchmarks.load import Post, Timed
from benchmarks.serving import served

VERSION = "1.23.2"
CACHE = Path(__file__).resolve().parent.parent / ".bench"
CONFIG = """<View>
  <Text name="prompt" value="$prompt"/>
  <Pairwise name="choice" toName="left,right"/>
  <Text name="left" value="$left"/>
  <Text name="right" value="$right"/>
</View>"""
# What its command line and pages do, without a browser: one organization, projects, people with tokens.
SET_UP = """
import json, sys
from organizations.functions import create_organization
from organizations.models import OrganizationMember
from projects.models import Project
from users.models import User

number, projects, config = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
people = [User.objects.create_user(f"person{n}@example.org", "a-long-password") for n in range(number + 1)]
organization = create_organization("Bench", people[0], legacy_api_tokens_enabled=True)
for person in people:
    OrganizationMember.objects.get_or_create(user=person, organization=organization)
    person.active_organization = organization
    person.save()
made = [
    Project.objects.create(
        title=f"Bench {n}", label_config=config, organization=organization, created_by=people[0]
    )
    for n in range(projects)
]
tokens = [person.reset_token().key for person in people]
print(json.dumps({"projects": [project.pk for project in made], "manager": tokens[0], "tokens": tokens[1:]}))
"""


def install() -> Path:
    """Its Python, installed now if it was not yet."""
    folder = CACHE / f"label-studio-{VERSION}"
    python, done = folder / "bin" / "python", folder / "installed"
    if done.exists():
        return python
    print(f"Installing Label Studio {VERSION} into {folder} (minutes, once)", file=sys.stderr)
    subprocess.run([sys.executable, "-m", "venv", folder], check=True)
    pip = [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    if subprocess.run([*pip, f"label-studio=={VERSION}", "gunicorn"], check=False).returncode:
        raise SystemExit(
            f"Label Studio {VERSION} could not be installed. The benchmark needs pip with access to a package"
            f" index, and Python 3.10 to 3.13; or install it yourself: {' '.join(map(str, pip))}"
            f" label-studio=={VERSION} gunicorn && touch {done}"
        )
    done.touch()
    return python


@contextmanager
def site(
    data: Path, *, sockets: Path, database: str, workers: int, threads: int, annotators: int, projects: int
) -> Iterator[tuple[int, dict[str, Any]]]:
    """A served site with empty projects: its port, and `projects`, `manager` and `tokens`."""
    python = install()
    data.mkdir()
    home = subprocess.run(
        [python, "-c", "import label_studio; print(label_studio.__path__[0])"],
        capture_output=True, text=True, check=True,
    ).stdout.strip()  # fmt: skip
    environment = {
        **os.environ,
        "DJANGO_SETTINGS_MODULE": "core.settings.label_studio",
        "LABEL_STUDIO_BASE_DATA_DIR": str(data),
        "DJANGO_DB": "default",  # Postgres
        "POSTGRE_HOST": str(sockets),
        "POSTGRE_NAME": database,
        "POSTGRE_USER": ACCOUNT,
        "LABEL_STUDIO_ENABLE_LEGACY_API_TOKEN": "1",
        "COLLECT_ANALYTICS": "0",  # these three reach out
        "LATEST_VERSION_CHECK": "0",
        "SENTRY_DSN": "",
        "FRONTEND_SENTRY_DSN": "",
        "LOG_LEVEL": "ERROR",
    }
    manage = [str(python), "manage.py"]
    _run([*manage, "migrate", "--verbosity", "0"], environment, home)
    _run([*manage, "collectstatic", "--no-input", "--verbosity", "0"], environment, home)
    set_up = [
        str(python),
        "-c",
        f"import django; django.setup()\n{SET_UP}",
        str(annotators),
        str(projects),
        CONFIG,
    ]
    made = json.loads(_run(set_up, environment, home).splitlines()[-1])
    with served(
        "core.wsgi",
        log=data / "web.log",
        workers=workers,
        threads=threads,
        python=python,
        environment=environment,
        folder=Path(home),
        path="/health",
    ) as port:
        yield port, made


def _run(command: list[str], environment: dict[str, str], folder: str) -> str:
    done = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=folder)
    if done.returncode:
        raise SystemExit(f"{' '.join(command)[:200]} failed:\n{(done.stderr or done.stdout)[-3000:]}")
    return done.stdout


def headers_of(token: str) -> dict[str, str]:
    return {"Authorization": f"Token {token}"}


def import_rows(post: Post, project: int, rows: list[dict[str, str]]) -> float:
    """Seconds from the upload until all are tasks of the project. The reply comes when they are."""
    file = json.dumps(rows).encode()
    began = time.monotonic()
    status, reply = post(f"/api/projects/{project}/import", file)
    seconds = time.monotonic() - began
    if status != 201 or reply["task_count"] != len(rows):
        raise SystemExit(f"Label Studio's import: {status} {reply}")
    return seconds


def annotate(project: int, post: Post, timed: Timed, until: float) -> None:
    """Submit, and get the next task: two requests."""
    shown = _next(post, project)
    while shown is not None and (not timed.seconds or time.monotonic() < until):
        value = {"selected": ("left", "right")[len(timed.seconds) % 2]}
        result = {"from_name": "choice", "to_name": "left,right", "type": "pairwise", "value": value}
        began = time.perf_counter()
        path = f"/api/tasks/{shown['id']}/annotations/?project={project}"
        status, reply = post(path, {"result": [result], "lead_time": 5.0})
        submitted = time.perf_counter()
        if status != 201:
            raise SystemExit(f"Label Studio's submit: {status} {reply}")
        shown = _next(post, project)
        ended = time.perf_counter()
        timed.seconds.append(ended - began)
        timed.parts.setdefault("submit", []).append(submitted - began)
        timed.parts.setdefault("next", []).append(ended - submitted)
        timed.ids.append(reply["id"])


def _next(post: Post, project: int) -> Any:
    status, reply = post(f"/api/projects/{project}/next", method="GET")
    if status not in (200, 404):
        raise SystemExit(f"Label Studio's next: {status} {reply}")
    return reply if status == 200 else None


def check(sockets: Path, database: str, timed: Timed, rows: int) -> list[str]:
    """What is wrong in its database, in sentences."""
    import psycopg

    with psycopg.connect(host=str(sockets), user=ACCOUNT, dbname=database) as connection:
        stored = connection.execute("SELECT id, task_id, completed_by_id FROM task_completion").fetchall()
        (tasks,) = connection.execute("SELECT count(*) FROM task").fetchone() or (0,)
    problems = []
    if tasks != rows:
        problems.append(f"{tasks} tasks are stored, not {rows}.")
    if sorted(timed.ids) != sorted(number for number, *_ in stored):
        problems.append(f"{len(timed.ids)} answers were accepted and {len(stored)} are stored.")
    if len({(task, person) for _, task, person in stored}) != len(stored):
        problems.append("Somebody's answer to a task is stored twice.")
    return problems
