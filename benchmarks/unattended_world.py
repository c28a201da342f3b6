"""One project of `benchmarks.unattended_rounds`: its set-up, its people, and what is read at the end."""

import threading
import time
from statistics import fmean
from typing import Any

from django.db import connection

from annotation import services as annotation
from annotation.models import Judgement, User
from benchmarks.unattended_rounds import PATIENCE, Round, Size, Story, rate_of, tell
from training import services as training
from training.models import BaseModel, Run, Schedule
from training.models import Round as RoundRow
from webapp.demo.loop import ANNOTATORS, as_seen
from webapp.demo.show import person
from webapp.demo.simulate import Annotator, Content, label
from webapp.demo.worlds import WORLDS

LOOK_EVERY = 1.0  # seconds
MOST = 100_000  # judgements


def people() -> list[Annotator]:
    return [
        Annotator(name, annotation.issue_token(user=person(name, User.Role.ANNOTATOR)), reliability)
        for name, reliability in ANNOTATORS.items()
    ]


def words(prompt: str, content: Content) -> float:
    """What people who pay for length like: a point for every four words."""
    return len(str(content).split()) / 4


class World:
    """`prepare` makes the project, its first candidates and the schedule; `live` has people judge."""

    def __init__(self, name: str, *, url: str, annotators: list[Annotator], size: Size) -> None:
        self.name, self.url, self.annotators, self.size = name, url, annotators, size
        self.modality = "image" if name == "image" else "text"
        self.world = next(one for one in WORLDS if one.modality == self.modality)
        self.liked = words if name == "hack" else self.world.utility
        self.error: BaseException | None = None

    def prepare(self, *, seed: int, guardrails: dict[str, Any], eval_share: float) -> None:
        self.seed = seed
        self.manager = person("manager", User.Role.MANAGER)
        self._register_base()
        self.project = annotation.create_project(
            by=self.manager,
            name=f"{self.world.project} ({self.name})",
            modality=self.modality,
            guidelines=self.world.guidelines,
            questions=[{"type": "choice", "text": self.world.question}],
        )
        for annotator in self.annotators:
            annotation.add_member(
                project=self.project, username=annotator.username, role="annotator", by=self.manager
            )
        self.schedule = training.create_schedule(
            by=self.manager,
            project=self.project,
            name="unattended",
            every_judgements=self.size.every,
            plan=self._plan(guardrails, eval_share),
        )
        self.first = training.create_generation(
            by=self.manager,
            project=self.project,
            base=self.world.base,
            prompts=self.world.prompts("train", self.size.candidates, seed),
            config={**self.world.sampling, "samples_per_prompt": 2},
            seed=seed,
        )

    def _register_base(self) -> None:
        if not BaseModel.objects.filter(name=self.world.base).exists():
            training.register_base_model(
                by=self.manager,
                name=self.world.base,
                modality=self.modality,
                location=str(self.world.folder),
            )

    def _plan(self, guardrails: dict[str, Any], eval_share: float) -> list[dict[str, Any]]:
        prompts = len(set(self.world.prompts("train", self.size.candidates, self.seed)))
        champion = {"champion": self.world.base}
        return [
            {
                "method": self.world.method,
                "base": champion,
                "config": self.world.tuning,
                "filters": {"since": "last_round"},
                "eval_fraction": eval_share,
                "seed": self.seed,
            },
            {
                "do": "match",
                "left": {"step": 0},
                "right": champion,
                "samples_per_prompt": max(1, round(self.size.pairs / (eval_share * prompts))),
                "config": self.world.sampling,
                "seed": self.seed,
            },
            {
                "do": "promote",
                "model": {"step": 0},
                "match": 1,
                "guardrails": guardrails,
                "go_on": True,
            },
            {
                "do": "generate",
                "base": champion,
                "config": {**self.world.sampling, "samples_per_prompt": 2},
                "times": max(1, round(self.size.candidates / prompts)),
                "judge": True,
                "seed": self.seed,
            },
        ]

    # Nobody touches anything from here on

    def live(self, rounds: int) -> None:
        try:
            self._await(lambda: self._has_written(self.first), "the first candidates")
            tell(f"{self.name}: {training.add_answers(run=self.first)}")
            over = threading.Event()
            judging = threading.Thread(target=self._judge, args=[over])
            judging.start()
            try:
                self._await(lambda: self._ended() >= rounds, "the rounds")
            finally:
                over.set()
                judging.join()
                self._stop()
        except BaseException as error:  # noqa: BLE001  told by who started the thread
            self.error = error
        finally:
            connection.close()

    def _judge(self, over: threading.Event) -> None:
        """People look again and again whether there is something to judge."""
        shift = 0
        try:
            while not over.is_set():
                shift += 1
                label(
                    self.url,
                    project=self.project.pk,
                    annotators=self.annotators,
                    wanted=MOST,
                    utility=self.liked,
                    seed=1000 * self.seed + shift,
                )
                over.wait(LOOK_EVERY)
        except BaseException as error:  # noqa: BLE001
            self.error = error
        finally:
            connection.close()

    def _stop(self) -> None:
        training.set_enabled(schedule=self.schedule, enabled=False)
        for row in RoundRow.objects.filter(schedule=self.schedule, status=RoundRow.Status.RUNNING):
            training.cancel_round(round_id=row.pk)

    def _await(self, condition: Any, what: str) -> None:
        deadline, told = time.monotonic() + PATIENCE, ""
        while not condition():
            if self.error is not None:
                raise self.error
            if time.monotonic() > deadline:
                raise TimeoutError(f"waited {PATIENCE:.0f} s for {what}")
            if (now := self._state()) != told:
                told = now
                tell(f"{self.name}: {now}")
            time.sleep(LOOK_EVERY)

    def _state(self) -> str:
        newest = RoundRow.objects.filter(schedule=self.schedule).order_by("-number").first()
        if newest is None:
            return "no round yet"
        steps = ", ".join(f"{step.kind} {step.status}" for step in newest.steps.all())
        return f"round {newest.number} {newest.status}: {steps} {newest.error}"

    def _has_written(self, run: Run) -> bool:
        run.refresh_from_db()
        if run.status in (Run.Status.FAILED, Run.Status.CANCELLED):
            raise RuntimeError(f"run {run.pk} {run.status}: {run.error}")
        return run.status == Run.Status.DONE

    def _ended(self) -> int:
        rows = RoundRow.objects.filter(schedule=self.schedule)
        if bad := rows.filter(status=RoundRow.Status.FAILED).first():
            raise RuntimeError(bad.error)
        return rows.exclude(status=RoundRow.Status.RUNNING).count()

    # What is read at the end

    def story(self) -> Story:
        ended = RoundRow.objects.filter(
            schedule=Schedule.objects.get(pk=self.schedule.pk), status=RoundRow.Status.DONE
        ).order_by("number")
        steps = [{step.index: step for step in row.steps.all()} for row in ended]
        base = self._utilities(steps[0][1].match.right_run)
        judged = Judgement.objects.filter(comparison__project=self.project).count()
        found = Story(self.name, self.modality, mean_of(base), judged)
        for row, of in zip(ended, steps, strict=True):
            ours = self._utilities(of[1].match.left_run)
            both = sorted(ours.keys() & base.keys())  # not all prompts had been judged before the first round
            rate, low, high = rate_of([ours[key] for key in both], [base[key] for key in both])
            evidence = of[2].result
            found.rounds.append(
                Round(
                    number=row.number,
                    seconds=(row.finished_at - row.started_at).total_seconds(),
                    blind=of[1].result,
                    promoted=evidence["promoted"],
                    why_not=evidence["why_not"],
                    guardrails={one["name"]: one["value"] for one in evidence["guardrails"]},
                    rate=rate,
                    low=low,
                    high=high,
                    utility=mean_of(ours),
                    length=self._length(of[1].match.left_run),
                )
            )
        return found

    def _utilities(self, run: Run) -> dict[str, list[float]]:
        """By prompt."""
        return {
            prompt: [self.world.utility(prompt, as_seen(content)) for content in contents]
            for prompt, contents in self._answers(run)
        }

    def _length(self, run: Run) -> float | None:
        if self.modality == "image":
            return None
        return fmean(len(str(one).split()) for _, contents in self._answers(run) for one in contents)

    def _answers(self, run: Run) -> list[tuple[str, list[str | bytes]]]:
        with training.open_result(run) as result:
            return [
                (
                    row["prompt"],
                    [
                        item["text"] if "text" in item else result.read(f"media/{item['image']}")
                        for item in row["candidates"]
                    ],
                )
                for row in training.generations_of(run)
            ]


def mean_of(utilities: dict[str, list[float]]) -> float:
    return fmean(value for values in utilities.values() for value in values)
