"""A whole site whose processes are killed at random moments while people judge and runs train.

A site as `manage.py up` starts it (Postgres, gunicorn, workers for light tasks and for runs, scheduler) has
annotators who judge over HTTP, and two run workers that train a tiny model again and again from the same
data and seed. Meanwhile, by a seeded plan: SIGKILL of web, each worker, trainers, the scheduler and Postgres;
a run worker that hangs (SIGSTOP) until the other took its run; a broker that loses every message; a full disk
(a small tmpfs; needs root); clocks that are set by an hour (what goes on gets the times that it would then
seem to have). Then all comes to rest, and:

- every judgement that the site acknowledged is stored, once, as it was given; no slot is filled twice;
- every run that the site acknowledged has ended, was finished once, and has the weights of the undisturbed
  run bit by bit, or says why it failed.

`python -m benchmarks.faults [--minutes 10] [--seed 0] [--write FILE]`
`--pretend` does each fault once, at conditions instead of times, with a trainer that learns nothing.
"""

import argparse
import dataclasses
import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from benchmarks.fault_kinds import Eyes, Faults, Site, small_disk
from benchmarks.tiebreak_site import configure

ANNOTATORS, LABELS = 4, 3
MEAN_PAUSE = 6.0  # seconds between faults
POSTGRES_PAUSE = 30.0  # seconds; lost runs are not looked for right after its start
STALE = 8  # seconds
PATIENCE = 600.0  # seconds for the site to come to rest
STEPS = {False: 120, True: 40}
AGAIN = {"SIGKILL of run worker 1"}  # left out of the short form
NOTICE_ENDS = """
CREATE TABLE fault_ends (run bigint, attempt int);
CREATE FUNCTION fault_note() RETURNS trigger LANGUAGE plpgsql AS
  $$ BEGIN INSERT INTO fault_ends VALUES (NEW.id, NEW.attempt); RETURN NULL; END $$;
CREATE TRIGGER fault_note AFTER UPDATE ON training_run FOR EACH ROW
  WHEN (NEW.status = 'done' AND OLD.status <> 'done') EXECUTE FUNCTION fault_note();
"""


@dataclasses.dataclass
class Found:
    """What was counted at the end; `problems` are sentences, and empty if all is well."""

    faults: dict[str, int] = dataclasses.field(default_factory=dict)
    kills: int = 0
    messages_lost: int = 0
    accepted: int = 0
    stored: int = 0
    refused: int = 0
    unanswered: int = 0
    runs: int = 0
    equal: int = 0
    failed: dict[str, int] = dataclasses.field(default_factory=dict)
    attempts: int = 0
    seconds: float = 0.0
    not_tried: list[str] = dataclasses.field(default_factory=list)
    problems: list[str] = dataclasses.field(default_factory=list)


def main() -> int:
    """Print the counts; exit code 1 where something was lost, doubled or different."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--pretend", action="store_true", help="the short form")
    parser.add_argument("--write", type=Path, help="write the result as Markdown")
    options = parser.parse_args()
    data = Path(tempfile.mkdtemp(prefix="tiebreak-faults-"))
    try:
        found = run(options, data)
    finally:
        shutil.rmtree(data, ignore_errors=True)
    if options.write:
        options.write.write_text(as_markdown(found, options))
    print(json.dumps(dataclasses.asdict(found)))
    return bool(found.problems)


def run(options: argparse.Namespace, data: Path) -> Found:
    configure(data)
    os.environ |= {
        "RUN_DEVICE_KIND": "cpu",
        "RUN_WORKERS": "2",
        "RUN_STALE_AFTER": str(STALE),
        "RUN_RETRY_PAUSE": "1" if options.pretend else "10",
        "TIEBREAK_WORK_DIR": str(data / "work"),
        "FAKE_STEPS": str(STEPS[True]),
        "FAKE_SECONDS": "0.03",
        "OMP_NUM_THREADS": "1",
    }
    with small_disk(data / "work") as mounted, supervised(data, pretend=options.pretend) as supervisor:
        eyes, rng = Eyes(data), random.Random(options.seed)
        faults = Faults(Site(supervisor), eyes, rng, data=data, stale=STALE)
        faults.disk = data / "work" if mounted and not options.pretend else None
        found = Found(not_tried=[] if options.pretend else not_tried(faults))
        scene = Scene(supervisor.url, data, eyes, pretend=options.pretend, seed=options.seed)
        began = time.monotonic()
        with scene.going_on():
            if options.pretend:
                each_once(faults, scene, rng)
            else:
                at_random(faults, rng, until=began + 60 * options.minutes)
        found.seconds = time.monotonic() - began
        scene.rest()
        count(found, faults, scene)
    return found


@contextmanager
def supervised(data: Path, *, pretend: bool) -> Iterator[Any]:
    from webapp.embedded import supervisor

    planned = supervisor.plan_services

    def pretending(**options: Any) -> Any:
        services = planned(**options)
        for service in services:
            if "celery" in service.command:
                service.command = [
                    "benchmarks.fault_celery" if word == "webapp" else word for word in service.command
                ]
        return services

    if pretend:
        supervisor.plan_services = pretending  # type: ignore[assignment]
    lines = (data / "supervisor.log").open("w", buffering=1)
    with lines, supervisor.Supervisor(data, port=0, say=lambda line: print(line, file=lines)) as site:
        yield site


def not_tried(faults: Faults) -> list[str]:
    return [
        *([] if faults.disk else ["a full disk: no right to mount a small one"]),
    ]


class Scene:
    """A project in which people judge, and one whose judgements are trained on."""

    def __init__(self, url: str, data: Path, eyes: Eyes, *, pretend: bool, seed: int) -> None:
        from benchmarks.tiebreak_site import make_people, make_project, token_of

        self.url, self.eyes, self.pretend = url, eyes, pretend
        name, tokens = make_people(ANNOTATORS)
        from benchmarks.fault_load import Annotator, Feeder

        self.token = token_of(name)
        self.judged = make_project(by=name, labels=LABELS)
        add_pairs(self.judged, 12_000, judged=False)
        trained = make_project(by=name, labels=1)
        add_pairs(trained, 24, judged=True)
        register_model(data / "model", by=name, pretend=pretend)
        eyes.ask(NOTICE_ENDS)
        config = {
            "max_steps": STEPS[pretend],
            "batch_size": 4,
            "log_every": 5,
            "save_every": 10,
            "samples": 0,
        }
        body = {"project": trained, "method": "dpo", "base": "tiny", "config": config, "seed": 5}
        self.feeder = Feeder(url, self.token, body, at_once=3, most=4 if pretend else None)
        self.first = self.undisturbed(body)
        pace = 0.02 if pretend else 0.1
        self.annotators = [
            Annotator(url, token, self.judged, seed=1000 * seed + number, pace=pace)
            for number, token in enumerate(tokens)
        ]

    def undisturbed(self, body: dict[str, Any]) -> str:
        """The digest of the weights to which an undisturbed run leads."""
        from annotation.client import Client
        from benchmarks.fault_load import ENDED, weights_digest

        with Client(self.url, self.token) as client:
            number = client.start_run(**body)["id"]
            wait_until(lambda: client.run(number)["status"] in ENDED, "the undisturbed run to end")
            ended = client.run(number)
            if ended["status"] != "done":
                raise SystemExit(f"The undisturbed run {ended['status']}: {ended['error']}")
            return weights_digest(client, ended["checkpoint"])

    @contextmanager
    def going_on(self) -> Iterator[None]:
        threads = [*self.annotators, self.feeder]
        for thread in threads:
            thread.start()
        yield
        for thread in threads:
            thread.over.set()
        for thread in threads:
            thread.join(PATIENCE)
            if thread.is_alive() or thread.error:
                raise SystemExit(f"{thread.name} did not end well: {thread.error!r}")

    def rest(self) -> None:
        """Return when every run has ended, by itself."""
        unfinished = "SELECT count(*) FROM training_run WHERE status NOT IN ('done', 'failed', 'cancelled')"
        wait_until(lambda: self.eyes.number(unfinished) == 0, "every run to end")

    def accepted(self) -> int:
        return sum(len(annotator.seen.accepted) for annotator in self.annotators)

    def working(self) -> int:
        return self.eyes.number("SELECT count(*) FROM training_run WHERE status = 'running' AND step > 1")


def wait_until(condition: Callable[[], object], what: str) -> None:
    deadline = time.monotonic() + PATIENCE
    while not condition():
        if time.monotonic() > deadline:
            raise SystemExit(f"Waited {PATIENCE:.0f} s in vain for {what}.")
        time.sleep(0.05)


def at_random(faults: Faults, rng: random.Random, *, until: float) -> None:
    """One fault after another, at random moments."""
    postgres_at = 0.0
    names = sorted(faults.kinds)
    while time.monotonic() < until:
        time.sleep(rng.expovariate(1 / MEAN_PAUSE))
        name = rng.choice(names)
        if name == "SIGKILL of Postgres":
            if time.monotonic() - postgres_at < POSTGRES_PAUSE:
                continue
            postgres_at = time.monotonic()
        faults.do(name)


def each_once(faults: Faults, scene: Scene, rng: random.Random) -> None:
    """Every fault in a seeded order, each when some judgements came in and a run is under way."""
    names = sorted(faults.kinds.keys() - AGAIN)
    rng.shuffle(names)
    for name in names:
        before = scene.accepted()
        wait_until(lambda before=before: scene.accepted() >= before + 5, "people to judge")  # type: ignore[misc]
        if "run worker" in name or "trainer" in name:
            wait_until(lambda: scene.working() or len(scene.feeder.asked) >= 4, "a run to be under way")
        wait_until(lambda name=name: faults.do(name) or "trainer" in name, name)  # type: ignore[misc]


def add_pairs(project: int, count: int, *, judged: bool) -> None:
    from benchmarks.tiebreak_site import fill

    judgement = {"annotator": "before", "kind": "regular", "order": [0, 1], "choice": 0}
    fill(
        project,
        (
            {
                "prompt": f"Question {number}?",
                "candidates": [
                    {"text": f"Yes {number}.", "source": "a"},
                    {"text": f"No {number}.", "source": "b"},
                ],
                **({"judgements": [judgement]} if judged else {}),
            }
            for number in range(count)
        ),
    )


def register_model(folder: Path, *, by: str, pretend: bool) -> None:
    """A tiny Llama, made by a process that may load torch; or what merely looks like a model."""
    from annotation.models import User
    from training import services

    folder.mkdir()
    if pretend:
        (folder / "config.json").write_text("{}")
        (folder / "model.safetensors").write_bytes(b"weights")
    else:
        make = "import sys; from pathlib import Path; from tests.tuning.text_models import save_causal; "
        subprocess.run(
            [sys.executable, "-c", make + "save_causal(Path(sys.argv[1]))", str(folder)], check=True
        )
    manager = User.objects.get(username=by)
    services.register_base_model(by=manager, name="tiny", modality="text", location=str(folder))


def count(found: Found, faults: Faults, scene: Scene) -> None:
    """What became of every judgement and every run."""
    found.faults = dict(sorted(faults.done.items()))
    found.kills = sum(times for name, times in faults.done.items() if "SIGKILL" in name)
    found.messages_lost = faults.messages_lost
    for annotator in scene.annotators:
        found.accepted += len(annotator.seen.accepted)
        found.refused += annotator.seen.refused
        found.unanswered += annotator.seen.unanswered
    found.problems += [*faults.kept, *judgement_problems(found, scene), *slot_problems(scene)]
    found.problems += run_problems(found, scene)


def judgement_problems(found: Found, scene: Scene) -> Iterator[str]:
    query = """SELECT client_id::text, id, lease_id::text, "order", choice FROM annotation_judgement j
               WHERE lease_id IS NOT NULL AND undone_at IS NULL"""
    rows = scene.eyes.ask(query)
    found.stored = len(rows)
    stored: dict[str, list[tuple[Any, ...]]] = {}
    for row in rows:
        stored.setdefault(row[0], []).append(row)
    accepted = {key: one for each in scene.annotators for key, one in each.seen.accepted.items()}
    sent = set().union(*(each.seen.sent for each in scene.annotators))
    if lost := accepted.keys() - stored.keys():
        yield f"{len(lost)} accepted judgements are not there."
    if doubled := [key for key, of in stored.items() if len(of) > 1]:
        yield f"{len(doubled)} judgements are there twice."
    if strange := stored.keys() - sent:
        yield f"{len(strange)} judgements were given by nobody."
    if unsaid := stored.keys() - accepted.keys():
        yield f"{len(unsaid)} judgements are stored though their annotator was refused."
    for key, one in accepted.items():
        for _, number, lease, order, choice in stored.get(key, ()):
            if (number, lease, choice) != (one.judgement, one.lease, order[one.choice]):
                yield f"judgement {number} is not what its annotator said."


def slot_problems(scene: Scene) -> Iterator[str]:
    from django.db import connections

    from benchmarks.load import Timed
    from benchmarks.tiebreak_site import check

    connections.close_all()  # Postgres was killed since
    leases = [one.lease for each in scene.annotators for one in each.seen.accepted.values()]
    yield from check(scene.judged, Timed(ids=leases))


def run_problems(found: Found, scene: Scene) -> Iterator[str]:
    from annotation.client import Client
    from benchmarks.fault_load import weights_digest

    rows = scene.eyes.ask("SELECT id, status, attempt, error FROM training_run ORDER BY id")
    ends = dict(scene.eyes.ask("SELECT run, count(*) FROM fault_ends GROUP BY run"))
    found.runs, found.attempts = len(rows), sum(row[2] for row in rows)
    if missing := set(scene.feeder.asked) - {row[0] for row in rows}:
        yield f"the runs {sorted(missing)} are lost."
    with Client(scene.url, scene.token) as client:
        for number, status, attempt, error in rows:
            if status == "failed" and error:
                found.failed[error] = found.failed.get(error, 0) + 1
            elif status != "done":
                yield f"run {number} is {status} and says {error!r}."
            elif ends.get(number) != 1:
                yield f"run {number} was finished {ends.get(number, 0)} times."
            elif weights_digest(client, client.run(number)["checkpoint"]) != scene.first:
                yield f"run {number} (attempt {attempt}) ended with other weights."
            else:
                found.equal += 1


def as_markdown(found: Found, options: argparse.Namespace) -> str:
    lines = [
        "# Faults",
        "",
        f"`python -m benchmarks.faults --minutes {options.minutes:g} --seed {options.seed}`: "
        f"{found.seconds / 60:.1f} minutes of labelling and training on a site whose parts "
        "were broken at random moments.",
        "",
        "| fault | times |",
        "| --- | ---: |",
        *(f"| {name} | {times} |" for name, times in found.faults.items()),
        "",
        "| counted | |",
        "| --- | ---: |",
        f"| kills survived | {found.kills} |",
        f"| messages lost | {found.messages_lost} |",
        f"| judgements accepted | {found.accepted:,} |",
        f"| of these found, once and as given | {found.stored:,} |",
        f"| requests that the client repeated eight times in vain, and then again | {found.unanswered:,} |",
        f"| judgements refused, their lease having run out | {found.refused} |",
        f"| runs, in attempts | {found.runs}, {found.attempts} |",
        f"| runs with the weights of the undisturbed one, bit by bit | {found.equal} |",
        *(f"| runs that failed and said: {error} | {times} |" for error, times in found.failed.items()),
        "",
        *(f"Not tried: {each}." for each in found.not_tried),
        "Nothing was lost, doubled or different." if not found.problems else "**Problems:**",
        *(f"- {problem}" for problem in found.problems),
        "",
    ]
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
