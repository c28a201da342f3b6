"""The demo's loop for one world: generate, compare, learn, tune, and compare again.

Everything goes the way that a real project goes. Candidates, tuned models and scores come from runs on
Celery workers, judgements over HTTP; only the annotators are simulated. What is measured at the end is
measured with the hidden utility on held-out prompts, from samples that are independent of one another.
"""

import io
import math
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from PIL import Image

from annotation import services as annotation
from annotation.models import Judgement, User
from annotation.services.media import store_image
from training import services as training
from training.models import BaseModel, Checkpoint, Match, Run
from webapp.demo.simulate import Annotator, Content, Sent, label
from webapp.demo.worlds import World

LOOK_EVERY = 0.3  # seconds between looks at a run
SPEAK_EVERY = 30.0  # seconds between lines about a run that is waited for
RUN_LIMIT = 1800.0  # seconds after which a run that has not ended is an error
ANNOTATORS = {  # reliabilities; the last one does not look
    "ada": 2.0,
    "bela": 1.6,
    "chen": 1.4,
    "dina": 1.2,
    "emil": 1.0,
    "fay": 1.0,
    "gus": 0.8,
    "hasty": 0.0,
}

Say = Callable[[str], None]


class DemoError(RuntimeError):
    """The loop cannot go on."""


@dataclass(frozen=True)
class Sizes:
    """How much is done in each modality."""

    first: int = 40  # comparisons made before everything else, so that a visitor soon has some
    judgements: int = 1000
    left: int = 60  # comparisons left for the visitor
    held_out: int = 1000  # prompts of the matches that are measured
    blind: int = 40  # prompts of the blind match that waits for the visitor


@dataclass
class Measured:
    """What came out of one world. Win rates are against the base, ties ½."""

    win_rate: float = 0.0
    control_win_rate: float = 0.0
    matches: int = 0
    reward_agreement: float | None = None
    reward_pairs: int = 0
    judgements_sent: int = 0
    judgements_stored: int = 0
    exactly_once: bool = False
    runs: list[int] = field(default_factory=list)


class Loop:
    """One world's way through the product: `open`, `welcome`, `run`."""

    def __init__(
        self,
        world: World,
        *,
        manager: User,
        annotators: Sequence[Annotator],
        visitor: User,
        url: str,
        say: Say,
        sizes: Sizes,
        seed: int = 0,
    ) -> None:
        self.world, self.manager, self.annotators, self.visitor = world, manager, annotators, visitor
        self.url, self.sizes, self.seed = url, sizes, seed
        self.say: Say = lambda line: say(f"{world.modality:<5}  {line}")
        self.measured = Measured()
        self.told: set[int] = set()

    # 1. A project, and the first comparisons

    def open(self) -> None:
        """Make the project, and ask for the candidates of its first comparisons."""
        self.register_bases()
        self.project = annotation.create_project(
            by=self.manager,
            name=self.world.project,
            modality=self.world.modality,
            guidelines=self.world.guidelines,
            questions=[{"type": "choice", "text": self.world.question}],
        )
        for username in [self.visitor.username, *(annotator.username for annotator in self.annotators)]:
            annotation.add_member(project=self.project, username=username, role="annotator", by=self.manager)
        wanted = self.sizes.judgements + self.sizes.left
        spare = wanted // 10  # a pair of equal answers is no comparison
        self.prompts = self.world.prompts("train", wanted + spare, self.seed)
        self.first = self.generate(self.prompts[: self.sizes.first], seed=1, samples=2)

    def welcome(self) -> None:
        """Return when there is something to compare. Asks for all else that the base has to answer."""
        self.held_out = self.world.prompts("held_out", self.sizes.held_out, self.seed)
        self.rest = self.generate(self.prompts[self.sizes.first :], seed=2, samples=2)
        self.of_base = self.generate(self.held_out, seed=3, samples=self.world.answers)
        self.add_comparisons(self.first)

    def register_bases(self) -> None:
        """Give the base models their names, unless they have them."""
        for name, location in {
            self.world.base: str(self.world.folder),
            self.world.reward_base: self.world.reward_folder,
        }.items():
            if not BaseModel.objects.filter(name=name).exists():
                training.register_base_model(
                    by=self.manager, name=name, modality=self.world.modality, location=location
                )

    # 2. to 5.

    def run(self) -> Measured:
        """The rest of the loop, to the end."""
        self.add_comparisons(self.rest)
        self.label()
        world = self.world
        tuned = self.start(world.method, base=world.base, config=world.tuning)
        reward = self.start(world.reward_method, base=world.reward_base, config=world.reward)
        control = self.start(world.method, base=world.base, config=world.tuning, shuffle_labels=True)
        # Each model is put to use as soon as it is there: no worker waits for another one's run.
        self.wait(tuned, what="the tuned model")
        of_tuned = self.generate(self.held_out, seed=4, base=tuned, samples=world.answers)
        match = self.ask_for_match(tuned)
        self.wait(reward, what="the reward model")
        scores = self.ask_for_scores(reward) if world.answers == 2 else None
        self.wait(control, what="the control")
        of_control = self.generate(self.held_out, seed=5, base=control, samples=world.answers)
        self.measure(of_tuned, of_control, scores)
        self.wait_for_match(match)
        return self.measured

    def label(self) -> None:
        """The annotators work, all at once, over HTTP; then every judgement is looked for in the database."""
        started = time.monotonic()
        sent = label(
            self.url,
            project=self.project.pk,
            annotators=self.annotators,
            wanted=self.sizes.judgements,
            utility=self.world.utility,
            seed=self.seed,
        )
        rate = len(sent) / (time.monotonic() - started)
        self.say(f"{len(sent):,} judgements by {len(self.annotators)} annotators, {rate:.0f} a second")
        self.check_judgements(sent)

    def check_judgements(self, sent: Sequence[Sent]) -> None:
        """Every judgement sent is stored exactly once, and nothing else is from these annotators."""
        names = [annotator.username for annotator in self.annotators]
        stored = Judgement.objects.filter(comparison__project=self.project, annotator__username__in=names)
        rows = Counter(str(client_id) for client_id in stored.values_list("client_id", flat=True))
        self.measured.judgements_sent = len(sent)
        self.measured.judgements_stored = sum(rows.values())
        self.measured.exactly_once = rows == Counter(judgement.client_id for judgement in sent)

    def ask_for_match(self, tuned: Run) -> Match:
        """A blind comparison of the tuned model and its base, for the visitor."""
        return training.create_match(
            by=self.manager,
            project=self.project,
            left=self.checkpoint_of(tuned),
            right=self.world.base,
            prompts=self.world.prompts("held_out", self.sizes.blind, self.seed + 1),
            config=self.world.sampling,
            seed=6,
        )

    def ask_for_scores(self, reward: Run) -> Run:
        """What the reward model thinks of the base's two answers to each held-out prompt."""
        rows = [
            {"prompt": row["prompt"], "candidates": [{"text": item["text"]} for item in row["candidates"]]}
            for row in training.generations_of(self.wait(self.of_base, what="the base's answers"))
        ]
        run = training.create_scoring(
            by=self.manager,
            project=self.project,
            base=self.checkpoint_of(reward),
            groups=rows,
            config={"batch_size": 64},
        )
        self.measured.runs.append(run.pk)
        return run

    def measure(self, of_tuned: Run, of_control: Run, scores: Run | None) -> None:
        """Score everything with the hidden utility."""
        measured = self.measured
        base = self.utilities(self.wait(self.of_base, what="the base's answers"))
        tuned = self.utilities(self.wait(of_tuned, what="the tuned model's answers"))
        control = self.utilities(self.wait(of_control, what="the control's answers"))
        measured.matches = sum(len(values) for values in base)
        measured.win_rate = win_rate(tuned, base)
        measured.control_win_rate = win_rate(control, base)
        self.say(
            f"the tuned model wins {measured.win_rate:.3f} of {measured.matches:,} independent matches on "
            f"held-out prompts, the control {measured.control_win_rate:.3f}"
        )
        if scores is not None:
            rows = training.scores_of(self.wait(scores, what="scores"))
            known = [[math.nan if score is None else score for score in row] for row in rows]
            measured.reward_agreement = agreement(known, base)
            measured.reward_pairs = len(base)
            self.say(
                f"the reward model agrees with the hidden utility on {measured.reward_agreement:.3f} of pairs"
            )

    # Runs

    def start(self, method: str, *, base: str, config: dict[str, Any], shuffle_labels: bool = False) -> Run:
        run = training.create_run(
            by=self.manager,
            project=self.project,
            method=method,
            base=base,
            config=config,
            eval_fraction=0.1,
            seed=self.seed,
            shuffle_labels=shuffle_labels,
        )
        self.measured.runs.append(run.pk)
        return run

    def generate(
        self, prompts: Sequence[str], *, seed: int, base: Run | None = None, samples: int = 1
    ) -> Run:
        run = training.create_generation(
            by=self.manager,
            project=self.project,
            base=self.checkpoint_of(base) if base else self.world.base,
            prompts=prompts,
            config={**self.world.sampling, "samples_per_prompt": samples},
            seed=seed,
        )
        self.measured.runs.append(run.pk)
        return run

    def checkpoint_of(self, run: Run) -> str:
        """The name under which runs start from another's result."""
        return f"checkpoint:{Checkpoint.objects.get(run=run).pk}"

    def wait(self, run: Run, *, what: str) -> Run:
        """Return the run when it is done. Raises DemoError if it ends otherwise, or not at all."""
        started = spoke = time.monotonic()
        while time.monotonic() - started < RUN_LIMIT:
            run.refresh_from_db()
            if run.status == Run.Status.DONE:
                self.tell_done(run, what)
                return run
            if run.status in Run.ENDED:
                raise DemoError(f"Run {run.pk} ({run.method}) {run.status}: {run.error}")
            if time.monotonic() - spoke > SPEAK_EVERY:
                spoke = time.monotonic()
                self.say(
                    f"{what}: {run.status}" + (f", step {run.step} of {run.total_steps}" if run.step else "")
                )
            time.sleep(LOOK_EVERY)
        raise DemoError(f"Run {run.pk} ({run.method}) has not ended after {RUN_LIMIT:.0f} s.")

    def tell_done(self, run: Run, what: str) -> None:
        """Say once who did it, and for how long."""
        if run.pk in self.told or run.started_at is None or run.finished_at is None:
            return
        self.told.add(run.pk)
        seconds = (run.finished_at - run.started_at).total_seconds()
        self.say(f"{what}: run {run.pk} ({run.method}) done by {run.worker} in {seconds:.0f} s")

    def wait_for_match(self, match: Match) -> None:
        """Return when the blind match is ready to be judged."""
        for run in (match.left_run, match.right_run):
            self.wait(run, what="answers for the blind match")
        training.advance_matches()
        match.refresh_from_db()
        self.say(f"a blind match of {match.comparisons.count()} pairs waits")

    # Material

    def add_comparisons(self, run: Run) -> None:
        """Pairs from a generation with two answers to each prompt; equal ones have nothing to compare."""
        self.wait(run, what="candidates")
        groups = []
        for prompt, contents in self.answers(run):
            if contents[0] != contents[1]:
                candidates = [{**self.candidate(content), "source": self.world.base} for content in contents]
                groups.append({"prompt": prompt, "candidates": candidates})
        added = annotation.add_comparisons(project=self.project, groups=groups)
        self.say(f"{len(added):,} comparisons")

    def candidate(self, content: str | bytes) -> dict[str, Any]:
        """A candidate as `add_comparisons` takes it."""
        return {"text": content} if isinstance(content, str) else {"image": store_image(content)}

    def answers(self, run: Run) -> list[tuple[str, list[str | bytes]]]:
        """What a generation run wrote: per prompt the texts, or the bytes of the pictures."""
        found = []
        with training.open_result(run) as result:
            for row in training.generations_of(run):
                contents: list[str | bytes] = [
                    item["text"] if "text" in item else result.read(f"media/{item['image']}")
                    for item in row["candidates"]
                ]
                found.append((row["prompt"], contents))
        return found

    def utilities(self, run: Run) -> list[list[float]]:
        """The hidden utility of every answer of a finished generation run."""
        return [
            [self.world.utility(prompt, as_seen(content)) for content in contents]
            for prompt, contents in self.answers(run)
        ]


def as_seen(content: str | bytes) -> Content:
    """A text, or a picture decoded."""
    if isinstance(content, str):
        return content
    with Image.open(io.BytesIO(content)) as image:
        return image.convert("RGB")


def win_rate(ours: Sequence[Sequence[float]], theirs: Sequence[Sequence[float]]) -> float:
    """Share of matches in which ours is worth more; a tie is half a win.

    Per prompt the utilities of one or more answers: the first meets the other side's first, and so on.
    """
    pairs = [
        (our, their)
        for our_row, their_row in zip(ours, theirs, strict=True)
        for our, their in zip(our_row, their_row, strict=True)
    ]
    return sum((our > their) + 0.5 * (our == their) for our, their in pairs) / len(pairs)


def agreement(scores: Sequence[Sequence[float]], utilities: Sequence[Sequence[float]]) -> float:
    """Share of pairs that scores and utilities order alike.

    A tie in one of them is half an agreement, a pair without scores (NaN) none.
    """
    total = 0.0
    for (score_a, score_b), (utility_a, utility_b) in zip(scores, utilities, strict=True):
        order = (score_a - score_b) * (utility_a - utility_b)
        total += 0.5 if order == 0 else float(order > 0)
    return total / len(scores)
