"""What the methods that learn from given pictures have in common: groups, plan, policy, reference, and the
dull parts of the loop. The loop itself, and the loss, stand in each method.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor

from training.tuning.data import Group
from training.tuning.errors import BadInput
from training.tuning.images.bases import copy_generation_defaults
from training.tuning.images.batches import PreparedGroups
from training.tuning.images.errors import NoisyGroups, denoising_errors
from training.tuning.images.groups import Choose, ImageGroup
from training.tuning.images.interfaces import INTERFACE_FILE
from training.tuning.images.loading import load_for_sampling, load_for_training
from training.tuning.images.pair_index import PairIndex, index_pairs
from training.tuning.images.parts import how_to_draw
from training.tuning.images.policies import ImagePolicy
from training.tuning.images.preparation import (
    ReferenceErrors,
    autocast,
    choose_groups,
    prepare_groups,
    reference_errors,
    remove_cache,
    usable_groups,
)
from training.tuning.images.preview import preview
from training.tuning.images.samples import draw_samples
from training.tuning.metrics import Means
from training.tuning.optim import make_optimizer, update
from training.tuning.plan import Plan, make_plan, split
from training.tuning.run import Run

PIXELS = 2**20  # of pictures in one micro-batch: four of 512 × 512
EVAL_DRAWS = 4  # noises and timesteps at which a held-out group is measured
Errors = Float[Tensor, " N"]


@dataclass(frozen=True)
class Micro:
    """Groups that are read together. ``draw`` decides their noise: the epoch, or which of so many draws its
    turn is, or the number of an evaluation's pass. ``key`` names groups and draw in training or evaluation.
    """

    key: tuple[int, int]
    groups: list[int]
    draw: int


@dataclass(frozen=True)
class Reading:
    """A micro-batch as it was read: per picture the policy's and the reference's denoising error (N,).

    Without a reference its errors are those of the policy, without a gradient.
    """

    batch: NoisyGroups
    groups: list[ImageGroup]
    policy: Errors
    reference: Errors

    @property
    def pairs(self) -> PairIndex:
        """The pairs of the groups, as positions among the pictures."""
        counts = [len(group.files) for group in self.groups]
        return index_pairs([group.pairs for group in self.groups], counts, device=self.policy.device)


class Direct:
    """One training run on given pictures.

    ``choose`` says what is used of a row, ``needs`` what a row needs for it. ``arrange`` makes the groups
    that are trained on of those that can be, ``apart`` all groups of those of rows. ``policy``: one that is
    there already; ``people``: whom it is told of, by name. ``reference``: ``cached`` and ``live`` are the
    model as it starts, with the same values; None leaves it out. ``draws``: how many noises and timesteps a
    group has; None: new ones in every epoch.
    """

    def __init__(
        self,
        run: Run,
        choose: Choose,
        *,
        needs: str,
        reference: Literal["cached", "live"] | None,
        draws: int | None = None,
        arrange: Callable[[list[ImageGroup]], list[ImageGroup]] = list,
        policy: ImagePolicy | None = None,
        apart: Callable[[list[ImageGroup]], list[ImageGroup]] = list,
        people: dict[str, Tensor] | None = None,
    ) -> None:
        config = run.config
        self.run = run
        self._people = people
        self.policy = policy or load_for_training(
            run.base, lora=config.lora, keep_copy=reference == "live", seed=run.seed, device=run.device
        )
        if config.gradient_checkpointing:
            self.policy.denoiser.enable_gradient_checkpointing()
        usable = apart(usable_groups(run, self.policy.family, run.train, choose, part="train"))
        if not usable:
            problem = f"no row gives {needs} to train on; `inspect` lists the reasons"
            raise BadInput(problem, file=run.dir.train_file)
        held_out = apart(usable_groups(run, self.policy.family, run.eval, choose, part="eval"))
        self._reference = reference
        self._draws = draws
        self._sources: dict[str, PreparedGroups] = {}
        self._cached: dict[str, ReferenceErrors] = {}
        self.train = self._prepare("train", arrange(usable))
        self.held_out = self._prepare("eval", held_out)
        self.plan: Plan = make_plan(
            self.train.sizes, config=config, seed=run.seed, budget=PIXELS, buckets=self.train.shapes
        )
        self._eval_batches = split(
            range(len(held_out)),
            self.held_out.sizes,
            most=config.micro_batch_size,
            budget=PIXELS,
            buckets=self.held_out.shapes,
        )
        # Before the first step and before resuming: the policy still is the reference.
        self._cache("train", (micro for step in self._all_steps() for micro in self.micro_batches(step)))
        self._cache("eval", self.eval_micro_batches)
        self._optimizer = make_optimizer(self.policy.denoiser.parameters(), config)
        self._started = 0.0

    def add_source(self, name: str, groups: list[ImageGroup], *, like: Literal["train", "eval"]) -> None:
        """Other groups that are read in the places, and with the noise, of those of training or
        evaluation; now is when their reference is asked.
        """
        self._prepare(name, groups, like=like)
        if like == "train":
            self._cache(name, (micro for step in self._all_steps() for micro in self.micro_batches(step)))
        else:
            self._cache(name, self.eval_micro_batches)

    def micro_batches(self, step: int) -> list[Micro]:
        """What is read in a step, which counts from 1."""
        epoch, place = divmod(step - 1, len(self.plan.batches))
        draw = epoch % self._draws if self._draws else epoch
        key = draw * len(self.plan.batches) + self.plan.order(epoch)[place]
        return [Micro((key, number), own, draw) for number, own in enumerate(self.plan.step(step))]

    @property
    def eval_micro_batches(self) -> list[Micro]:
        """What is read in an evaluation: all held-out groups, at the same noises and timesteps every time."""
        return [
            Micro((draw, number), own, draw)
            for draw in range(EVAL_DRAWS)
            for number, own in enumerate(self._eval_batches)
        ]

    def begin(self, keep: dict[str, Tensor] | None = None) -> Iterator[int]:
        """The steps that are left, from 1; ``keep`` as for ``Run.begin``."""
        run = self.run
        total = self.plan.total_steps
        done = run.begin(self.policy.denoiser, self._optimizer, total_steps=total, keep=keep)
        if done == 0:
            draw_samples(run, self.policy.family, step=0, when="before")
        for step in run.steps(done):
            self._started = time.perf_counter()
            yield step

    def noisy(self, micro: Micro, *, source: str = "train") -> NoisyGroups:
        """A micro-batch of ``train``, ``eval`` or another source, with its noise, before it is read."""
        return self._sources[source].batch(micro.groups, epoch=micro.draw)

    def names(self, micro: Micro, *, source: str = "train") -> list[str]:
        """The names of a micro-batch's groups, unique in the run."""
        return [self._sources[source].groups[index].name for index in micro.groups]

    def read(self, micro: Micro, *, source: str = "train") -> Reading:
        """Read a micro-batch with the policy and the reference."""
        batch = self.noisy(micro, source=source)
        policy = self._errors(batch)
        groups = [self._sources[source].groups[index] for index in micro.groups]
        return Reading(batch, groups, policy, self._read_reference(batch, micro, policy, source))

    def evaluate(self, measure: Callable[[Micro, str], tuple[dict[str, Tensor], Tensor]]) -> dict[str, float]:
        """Means over the held-out groups of what ``measure`` gives for a micro-batch of a source: metrics
        (B,) and their weights (B,).
        """
        means = Means()
        for micro in self.eval_micro_batches:
            means.add(*measure(micro, "eval"))
        return means.result()

    def end_step(self, step: int, means: Means, evaluate: Callable[[], dict[str, float]]) -> None:
        """Update the weights, log, evaluate and save when it is time to."""
        run, config = self.run, self.run.config
        metrics = means.result()
        metrics |= update(self._optimizer, config, step=step, total_steps=self.plan.total_steps)
        metrics |= self.train.speed(self.plan.step(step), seconds=time.perf_counter() - self._started)
        run.log(step, metrics)
        if self.held_out.groups and run.due(config.eval_every, step):
            with torch.no_grad():
                run.log_eval(step, evaluate())
        run.end_step(step)

    def finish(self) -> None:
        """Samples after training, and the result."""
        draw_samples(self.run, self.policy.family, step=self.run.total_steps, when="after")
        publish(self.run, self.policy)
        remove_cache(self.run)

    def _prepare(self, name: str, groups: list[ImageGroup], *, like: str | None = None) -> PreparedGroups:
        found = prepare_groups(self.run, self.policy.family, groups, part=like or name, people=self._people)
        self._sources[name] = found
        return found

    def _cache(self, name: str, micro_batches: Iterator[Micro] | Sequence[Micro]) -> None:
        """Ask the reference: for training if it is cached, for evaluation in any case."""
        if self._reference is None or (self._reference == "live" and name != "eval"):
            return
        asked = ((micro.key, micro.groups, micro.draw) for micro in micro_batches)
        self._cached[name] = reference_errors(self.run, self.policy, self._sources[name], asked, part=name)

    def _all_steps(self) -> range:
        return range(1, self.plan.total_steps + 1)

    def _errors(self, batch: NoisyGroups) -> Errors:
        return denoising_errors(
            self.policy.family, self.policy.denoiser, batch, autocast=autocast(self.run.config)
        )

    @torch.no_grad()
    def _read_reference(self, batch: NoisyGroups, micro: Micro, policy: Errors, source: str) -> Errors:
        if self._reference is None:
            return policy.detach()
        if source in self._cached:
            return self._cached[source][micro.key].to(policy.device)
        with self.policy.as_reference():
            return self._errors(batch)


def publish(run: Run, policy: ImagePolicy) -> None:
    """Write the result: an adapter, also as interfaces read it, or a whole pipeline."""
    notes: list[str] = []
    facts: dict[str, Any] = {}

    def write(folder: Path) -> None:
        policy.save(folder)
        if policy.adapter:
            notes.append(policy.save_for_interfaces(folder))
            if (folder / INTERFACE_FILE).exists():
                facts["interface_file"] = INTERFACE_FILE
        copy_generation_defaults(run.base, folder)

    how_to_load = policy.family.how_to_load_adapter if policy.adapter else HOW_TO_LOAD_PIPELINE
    if policy.parts is not None:
        how_to_load += how_to_draw(policy.family, count=policy.parts)
    run.publish(write, how_to_load=how_to_load, notes=notes, facts=facts)


def inspect_direct(run: Run, choose: Choose) -> dict[str, Any]:
    """The rows as ``train`` will see them."""
    family = load_for_sampling(run.base, device=run.device)
    _, reasons = choose_groups(run, family, run.train, choose, part="train")

    def pairs(group: Group) -> list[Any]:
        found = choose(group)
        return [] if isinstance(found, str) else found.pairs

    return preview(run.train, reasons=reasons, pairs=pairs, count_tokens=family.count_tokens)


HOW_TO_LOAD_PIPELINE = """
from diffusers import DiffusionPipeline

pipeline = DiffusionPipeline.from_pretrained("result")
"""
