"""People judge while an upgrade changes the large tables in the way that docs/scaling.md prescribes.

A project of a million comparisons and as many judgements (`benchmarks.scale` makes it, and finds it again
with the same --data); one annotator submits and takes the next as fast as the site lets. Meanwhile another
session does what the migrations of an upgrade would: a column with a default, filling it in batches, an index
concurrently, a constraint that is validated later, and taking all of it away again. Told are the times of
judging before and during each step; a statement that waited for a lock for --patience seconds gives up, lets
others pass and tries again.

`python -m benchmarks.upgrade [--comparisons 1000000] [--judgements 1000000] [--data DIR] [--write FILE]`
"""

import argparse
import shutil
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import psycopg

from benchmarks.load import Timed
from benchmarks.scale import Site, label, serving, site
from webapp.embedded.postgres import socket_folder

SLOWEST: Final = 1.0  # seconds; no single answer may take longer
BATCH: Final = 5000
TABLE: Final = "ALTER TABLE annotation_judgement"
STEPS: Final = {
    "add a column with a default": f"{TABLE} ADD COLUMN upgrade_note integer NOT NULL DEFAULT 0",
    "fill it, 5,000 rows at a time": (
        "UPDATE annotation_judgement SET upgrade_note = 1 WHERE id >= %s AND id < %s"
    ),
    "create an index concurrently": (
        "CREATE INDEX CONCURRENTLY upgrade_index ON annotation_judgement (upgrade_note, id)"
    ),
    "add a constraint that is not yet valid": (
        f"{TABLE} ADD CONSTRAINT upgrade_known CHECK (upgrade_note IN (0, 1)) NOT VALID"
    ),
    "validate it": f"{TABLE} VALIDATE CONSTRAINT upgrade_known",
    "drop the index concurrently": "DROP INDEX CONCURRENTLY upgrade_index",
    "drop the column": f"{TABLE} DROP COLUMN upgrade_note",
}


class Upgrade:
    """Another session, which never makes people wait longer for a lock than the patience it has."""

    def __init__(self, folder: Path, patience: float) -> None:
        self.again = 0
        self._session = psycopg.connect(
            host=str(socket_folder(folder)), user="tiebreak", dbname="tiebreak", autocommit=True
        )
        self._session.execute(f"SET lock_timeout = {int(1000 * patience)}")

    def do(self, statement: str) -> None:
        if "%s" not in statement:
            self._insist(statement)
            return
        ((last,),) = self._session.execute("SELECT coalesce(max(id), 0) FROM annotation_judgement")
        for first in range(0, last + 1, BATCH):
            self._insist(statement, first, first + BATCH)

    def _insist(self, statement: str, *values: Any) -> None:
        while True:
            try:
                # Concurrent building waits for others by itself, and nobody waits for it.
                self._session.execute(statement, values or None)  # type: ignore[arg-type]
            except psycopg.errors.LockNotAvailable:
                self.again += 1
                time.sleep(0.1)
            else:
                return


def main() -> int:
    """Print what was measured; exit code 1 where an answer took too long."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--comparisons", type=int, default=1_000_000)
    parser.add_argument("--judgements", type=int, default=1_000_000)
    parser.add_argument("--behind", type=int, default=50_000, help="of the annotator")
    parser.add_argument("--patience", type=float, default=0.2, help="seconds for a lock")
    parser.add_argument("--data", type=Path, help="where the database is kept and found again")
    parser.add_argument("--write", type=Path, help="write the result as Markdown")
    options = parser.parse_args()
    data = options.data or Path(tempfile.mkdtemp(prefix="tiebreak-upgrade-"))
    size = {name: getattr(options, name) for name in ("comparisons", "judgements", "behind")}
    try:
        with site(data / "large", size) as large, serving(large) as port:
            text, slowest = measure(large, port, options)
    finally:
        if options.data is None:
            shutil.rmtree(data, ignore_errors=True)
    print(text)
    if options.write:
        options.write.write_text(text + "\n")
    return int(slowest > SLOWEST)


def measure(large: Site, port: int, options: argparse.Namespace) -> tuple[str, float]:
    label(large, port, 1.0)
    rows = [row("before", label(large, port, 6.0), 6.0)]
    upgrade, slowest = Upgrade(large.folder, options.patience), 0.0
    for name, statement in STEPS.items():
        meanwhile, seconds = during(lambda statement=statement: upgrade.do(statement), large, port)  # type: ignore[misc]
        rows.append(row(name, meanwhile, seconds))
        slowest = max(slowest, *meanwhile.seconds)
    lines = [
        "# Judging during an upgrade",
        "",
        f"`python -m benchmarks.upgrade --comparisons {options.comparisons} "
        f"--judgements {options.judgements}`",
        "",
        "| step | seconds | judgements meanwhile | p50 | p95 | slowest |",
        "| --- | ---: | ---: | ---: | ---: | ---: |",
        *rows,
        "",
        f"The slowest answer took {1000 * slowest:.0f} ms (at most {1000 * SLOWEST:.0f}); {upgrade.again} "
        f"times a lock was not to be had in {options.patience:g} s, and asked for again.",
    ]
    return "\n".join(lines), slowest


def during(work: Callable[[], None], large: Site, port: int) -> tuple[Timed, float]:
    """Judging from a moment before the work until one after it, and how many seconds the work took."""
    failed: list[BaseException] = []
    took: list[float] = []

    def body() -> None:
        time.sleep(0.5)
        began = time.monotonic()
        try:
            work()
            took.append(time.monotonic() - began)
        except BaseException as error:
            failed.append(error)
            raise

    thread, seen = threading.Thread(target=body), Timed()
    thread.start()
    while thread.is_alive():
        seen.follow(label(large, port, 2.0))
    thread.join()
    if failed:
        raise SystemExit(f"The step failed: {failed[0]}")
    return seen, took[0]


def row(name: str, seen: Timed, seconds: float) -> str:
    p50, p95, slowest = (1000 * seen.percentile(share) for share in (0.5, 0.95, 1.0))
    return (
        f"| {name} | {seconds:.1f} | {len(seen.seconds):,} | {p50:.1f} ms | {p95:.1f} ms | {slowest:.0f} ms |"
    )


if __name__ == "__main__":
    sys.exit(main())
