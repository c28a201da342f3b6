"""Rounds that nobody attends: a schedule trains, asks, promotes and writes what is asked next, by itself.

On a site as `manage.py up` starts it, each of the demo's worlds has a project, a schedule that starts a round
after every so many judgements, and simulated people who judge whatever their queue shows them until told to
stop. From then on nobody touches anything: a round tunes the champion on what was judged since the round
before, meets the champion blind, is promoted or not, and the champion of that moment writes the next round's
candidates. Then every round's model is measured by the hidden utility against the base, on prompts that no
round was trained on.

A third project has the same plan and people who prefer what is longer, whatever it says: models that learn
that win their matches, and the guardrails on length are to stop them.

    python -m benchmarks.unattended_rounds [--rounds 3] [--only text|image|hack] [--quick] [--write FILE]
                                           [--plot FILE.svg]

Targets: in text and image each round's win rate against the base lies above the one before, and a model that
has become too long is not promoted.
"""

import argparse
import json
import os
import random
import shutil
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

from benchmarks.tiebreak_site import configure

PATIENCE = 3 * 3600.0  # seconds
RESAMPLES = 2000
GUARDRAILS = {
    "text": {"length": [0.75, 1.3], "total_length": [0.7, 1.3], "total_diversity": 0.5},
    "image": {"total_diversity": 0.5},
}
SEED = 11


@dataclass(frozen=True)
class Size:
    """How much each round is about."""

    candidates: int  # pairs that are written for a round
    every: int  # judgements that start one
    pairs: int  # of a match


FULL = {"text": Size(1100, 900, 1200), "image": Size(1100, 900, 1200)}
QUICK = {"text": Size(60, 40, 60), "image": Size(60, 40, 60)}
EVAL = 0.2  # share of the prompts that no round is trained on


@dataclass
class Round:
    """What came of one round. Rates against the base are by the hidden utility, `blind` by the people."""

    number: int
    seconds: float
    blind: dict[str, Any]
    promoted: bool
    why_not: list[str]
    guardrails: dict[str, Any]
    rate: float
    low: float
    high: float
    utility: float
    length: float | None


@dataclass
class Story:
    """A project's rounds. `base` is the mean hidden utility of the base's answers."""

    name: str
    modality: str
    base: float = 0.0
    judgements: int = 0
    rounds: list[Round] = field(default_factory=list)


def main() -> int:
    """Print what came out as JSON; exit code 1 where a target is missed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only", choices=["text", "image", "hack"], action="append")
    parser.add_argument("--quick", action="store_true", help="a twentieth of everything, to see it run")
    parser.add_argument("--seed", type=int, default=SEED)
    parser.add_argument("--write", type=Path, help="write the result as Markdown")
    parser.add_argument("--plot", type=Path, help="draw the win rates")
    options = parser.parse_args()
    data = Path(tempfile.mkdtemp(prefix="tiebreak-rounds-"))
    try:
        stories = play(options, data)
    finally:
        shutil.rmtree(data, ignore_errors=True)
    if options.write:
        options.write.write_text(as_markdown(stories, options))
    if options.plot:
        draw(options.plot, stories)
    print(json.dumps([asdict(story) for story in stories]))
    return not all(met(story) for story in stories)


def play(options: argparse.Namespace, data: Path) -> list[Story]:
    configure(data)
    os.environ |= {"RUN_WORKERS": "2", "RUN_DEVICE_KIND": "cpu", "OMP_NUM_THREADS": "1"}
    sizes = QUICK if options.quick else FULL
    with site(data) as url:
        from benchmarks.unattended_world import World, people

        annotators = people()
        chosen = options.only or ["text", "image", "hack"]
        worlds = [
            World(name, url=url, annotators=annotators, size=sizes["image" if name == "image" else "text"])
            for name in chosen
        ]
        for world in worlds:
            world.prepare(seed=options.seed, guardrails=GUARDRAILS[world.modality], eval_share=EVAL)
        threads = [threading.Thread(target=world.live, args=[options.rounds]) for world in worlds]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(PATIENCE)
        if errors := [f"{world.name}: {world.error!r}" for world in worlds if world.error]:
            raise SystemExit("\n".join(errors))
        return [world.story() for world in worlds]


@contextmanager
def site(data: Path) -> Iterator[str]:
    """The site's address. Periodic tasks come every two seconds; all else is as people have it."""
    from webapp.embedded import supervisor

    planned = supervisor.plan_services

    def sooner(**options: Any) -> Any:
        services = planned(**options)
        for service in services:
            service.command = [
                "benchmarks.quick_celery" if word == "webapp" else word for word in service.command
            ]
        return services

    supervisor.plan_services = sooner  # type: ignore[assignment]
    import django

    with supervisor.Supervisor(data, port=0, say=tell) as running:
        django.setup()
        yield running.url


def tell(line: str) -> None:
    print(time.strftime("%H:%M:%S"), line, file=sys.stderr, flush=True)


def rate_of(ours: Sequence[Sequence[float]], theirs: Sequence[Sequence[float]]) -> tuple[float, float, float]:
    """The share of matches that ours wins (ties one half), with its 95 % interval over prompts (bootstrap).

    Per prompt the utilities of several answers of each side, which meet one by one.
    """
    shares = [
        [(our > their) + 0.5 * (our == their) for our, their in zip(mine, others, strict=True)]
        for mine, others in zip(ours, theirs, strict=True)
    ]
    rng = random.Random(0)

    def rate(rows: Sequence[Sequence[float]]) -> float:
        return sum(map(sum, rows)) / sum(map(len, rows))

    drawn = sorted(rate(rng.choices(shares, k=len(shares))) for _ in range(RESAMPLES))
    return rate(shares), drawn[round(0.025 * RESAMPLES)], drawn[round(0.975 * RESAMPLES) - 1]


def met(story: Story) -> bool:
    if story.name == "hack":
        return any("long" in why for one in story.rounds for why in one.why_not)
    rates = [0.5, *(one.rate for one in story.rounds)]
    return all(later > earlier for earlier, later in pairwise(rates))


def as_markdown(stories: Sequence[Story], options: argparse.Namespace) -> str:
    lines = [
        "# Rounds that nobody attends",
        "",
        "`python -m benchmarks.unattended_rounds`: its docstring says what is done. Rates against the base",
        "are by the hidden utility, on prompts that no round was trained on, with 95 % intervals over",
        "prompts; “blind” is what the simulated people said of the round's model beside the champion of that",
        f"moment, with the interval by which it is promoted. Seed {options.seed}.",
    ]
    for story in stories:
        lines += [
            "",
            f"## {TITLES[story.name]}",
            "",
            f"{story.judgements:,} judgements; hidden utility of the base {story.base:.2f}.",
            "",
            "| round | against the base | utility | length | blind, against the champion | outcome | min |",
            "| --- | --- | --- | --- | --- | --- | --- |",
        ]
        lines += [_line(one) for one in story.rounds]
    return "\n".join([*lines, ""])


TITLES = {
    "text": "Text",
    "image": "Images",
    "hack": "People who prefer what is longer (the planted reward hack)",
}


def _line(one: Round) -> str:
    blind = one.blind
    cells = [
        str(one.number),
        f"{one.rate:.3f} ({one.low:.3f} to {one.high:.3f})",
        f"{one.utility:.2f}",
        "" if one.length is None else f"{one.length:.1f} words",
        f"{blind['rate']:.3f} ({blind['low']:.3f} to {blind['high']:.3f}), {blind['judged']} judged",
        "promoted" if one.promoted else " ".join(one.why_not),
        f"{one.seconds / 60:.1f}",
    ]
    return f"| {' | '.join(cells)} |"


def draw(path: Path, stories: Sequence[Story]) -> None:
    """Each round's win rate against the base."""
    import matplotlib as mpl

    mpl.use("svg")
    mpl.rcParams["svg.hashsalt"] = "rounds"
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(7, 4), layout="constrained", facecolor="white")
    for story in stories:
        if story.name == "hack":
            continue
        numbers = [0, *(one.number for one in story.rounds)]
        rates = [0.5, *(one.rate for one in story.rounds)]
        below = [0.0, *(one.rate - one.low for one in story.rounds)]
        above = [0.0, *(one.high - one.rate for one in story.rounds)]
        axes.errorbar(numbers, rates, yerr=[below, above], marker="o", capsize=3, label=TITLES[story.name])
    axes.axhline(0.5, color="0.7", linewidth=1)
    axes.set_xticks(range(1 + max(len(story.rounds) for story in stories)))
    axes.set_xlabel("round; 0 is the base")
    axes.set_ylabel("won against the base (hidden utility)")
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, loc="lower right")
    figure.savefig(path, metadata={"Date": None})


if __name__ == "__main__":
    sys.exit(main())
