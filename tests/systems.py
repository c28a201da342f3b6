"""Which published systems work: runs the tests marked `system("<id>")` and prints one line for each id.

    python -m tests.systems [pytest arguments]

A system works when every test that carries its mark passed. Names come from docs/systems.md.
"""

import re
import sys
from collections import defaultdict
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent


class Collector:
    """A pytest plugin that keeps the outcome of every marked test."""

    def __init__(self) -> None:
        self.tests: dict[str, set[str]] = defaultdict(set)  # system id -> test ids
        self.not_passed: set[str] = set()

    @pytest.hookimpl(trylast=True)
    def pytest_collection_modifyitems(self, config: pytest.Config, items: list[pytest.Item]) -> None:
        kept = []
        for item in items:
            for mark in item.iter_markers("system"):
                self.tests[mark.args[0]].add(item.nodeid)
                kept.append(item)
        items[:] = list(dict.fromkeys(kept))

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.outcome != "passed":
            self.not_passed.add(report.nodeid)


def names() -> dict[str, str]:
    """System id to name, from the table in docs/systems.md."""
    rows = re.findall(
        r"^\| (s\d{3}-\d{3}) \| ([^|]+?) \|", (ROOT / "docs" / "systems.md").read_text(), re.MULTILINE
    )
    return dict(rows)


def main(arguments: list[str]) -> int:
    collector = Collector()
    code = pytest.main(["-q", "-m", "", "-p", "no:cacheprovider", *arguments], plugins=[collector])
    named = names()
    failed = 0
    for system, tests in sorted(collector.tests.items()):
        broken = tests & collector.not_passed
        failed += bool(broken)
        state = "failed" if broken else "passed"
        print(system, state, named.get(system, "not in docs/systems.md"), " ".join(sorted(tests)))  # noqa: T201
    print(f"{len(collector.tests) - failed} passed, {failed} failed")  # noqa: T201
    return int(code) or bool(failed)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
