"""The demo on a running site: its people, both loops side by side, and the verdict on their results."""

import threading
import time
from collections.abc import Callable
from dataclasses import asdict
from typing import Any

from django.db import connection

from annotation import services as annotation
from annotation.models import User
from training.models import Match, Run
from webapp.demo.loop import ANNOTATORS, Loop, Measured, Sizes
from webapp.demo.simulate import Annotator
from webapp.demo.worlds import WORLDS

MANAGER, VISITOR = "manager", "annotator"
AGREEMENT_BAR = (0.78, 1.0)
WIN_BAR = (0.68, 1.0)
CONTROL_BAR = (0.45, 0.55)

Say = Callable[[str], None]


class Show:
    """Runs both loops in threads; `results` has what came out, `errors` what went wrong."""

    def __init__(self, *, url: str, say: Say, sizes: Sizes, seed: int = 0) -> None:
        self.url, self.sizes, self.seed = url, sizes, seed
        self.started = time.monotonic()
        self.results: dict[str, Measured] = {}
        self.errors: dict[str, BaseException] = {}
        self._say, self._lock = say, threading.Lock()
        self._links_given = False
        self._left = False

    def say(self, line: str) -> None:
        """One line, with the seconds since the start."""
        with self._lock:
            if not self._left:
                self._say(f"{time.monotonic() - self.started:5.0f} s  {line}")

    def leave(self) -> None:
        """Say nothing more: the site is being stopped, and what fails now fails because of that."""
        self._left = True

    def run(self) -> None:
        """Both loops, side by side, to the end."""
        manager, visitor = person(MANAGER, User.Role.MANAGER), person(VISITOR, User.Role.ANNOTATOR)
        if Match.objects.filter(created_by=manager).count() >= len(WORLDS):
            self.say("the loop was run in this data directory before; --data DIR starts another one")
            self.give_links(manager, visitor)
            return
        annotators = [
            Annotator(name, annotation.issue_token(user=person(name, User.Role.ANNOTATOR)), reliability)
            for name, reliability in ANNOTATORS.items()
        ]
        loops = [
            Loop(
                world,
                manager=manager,
                visitor=visitor,
                annotators=annotators,
                url=self.url,
                say=self.say,
                sizes=self.sizes,
                seed=self.seed,
            )
            for world in WORLDS
        ]
        for loop in loops:  # both ask for little before either asks for much
            loop.open()
        threads = [
            threading.Thread(target=self._play, args=(loop, manager, visitor), name=loop.world.modality)
            for loop in loops
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    def _play(self, loop: Loop, manager: User, visitor: User) -> None:
        modality = loop.world.modality
        try:
            loop.welcome()
            self.give_links(manager, visitor)
            self.results[modality] = loop.run()
        except BaseException as error:  # noqa: BLE001  a thread's error is reported by who started the show
            self.errors[modality] = error
            self.say(f"{modality:<5}  stopped: {error}")
        finally:
            connection.close()

    def give_links(self, manager: User, visitor: User) -> None:
        """Say, once, how to come in."""
        with self._lock:
            given, self._links_given = self._links_given, True
        if given:
            return
        self.say("the site is open; each link signs you in once:")
        for user, what in ((visitor, "compare answers and pictures"), (manager, "watch projects and runs")):
            link = annotation.sign_in_link(user=user, base_url=self.url)
            self.say(f"  {user.username:<9}  {link}   ({what})")

    def verdict(self) -> dict[str, Any]:
        """All that was measured, each with its bar, and whether every bar is met."""
        bars = [bar for modality, measured in self.results.items() for bar in bars_of(modality, measured)]
        for world in WORLDS:
            if world.modality not in self.results:
                error = self.errors.get(world.modality, "not finished")
                bars.append({"name": f"{world.modality}_loop", "value": str(error), "met": False})
        return {
            "results": {modality: asdict(measured) for modality, measured in self.results.items()},
            "bars": bars,
            "seconds": round(time.monotonic() - self.started),
            "met": all(bar["met"] for bar in bars),
        }


def person(username: str, role: str) -> User:
    """The demo's user of this name, made when it is not there yet."""
    found = User.objects.filter(username=username).first()
    return found or annotation.create_user(username=username, role=role)


def bars_of(modality: str, measured: Measured) -> list[dict[str, Any]]:
    """What one world must reach."""
    runs = Run.objects.filter(pk__in=measured.runs)
    worked = runs.filter(status=Run.Status.DONE, attempt__gte=1).exclude(worker="").count()
    bars = [
        _between("win_rate", measured.win_rate, WIN_BAR),
        _between("control_win_rate", measured.control_win_rate, CONTROL_BAR),
        {"name": "matches", "value": measured.matches, "at_least": 1000, "met": measured.matches >= 1000},
        {"name": "judgements_exactly_once", "value": measured.exactly_once, "met": measured.exactly_once},
        {
            "name": "runs_done_by_workers",
            "value": worked,
            "of": len(measured.runs),
            "met": worked == len(measured.runs),
        },
    ]
    if measured.reward_agreement is not None:
        bars.append(_between("reward_agreement", measured.reward_agreement, AGREEMENT_BAR))
    return [{**bar, "name": f"{modality}_{bar['name']}"} for bar in bars]


def _between(name: str, value: float, bar: tuple[float, float]) -> dict[str, Any]:
    low, high = bar
    return {"name": name, "value": round(value, 4), "low": low, "high": high, "met": low <= value <= high}
