"""Chains that jump: ShortFT's shortcut-based denoising chain (arXiv:2507.22604).

The noise levels are split into stretches (``parts.py``). Where the chain jumps, a model of few steps goes
from a stretch's first level to its last in one call, and the trained model takes the step from there. Of 50
steps in four stretches the calls are at the timesteps 981, 761 | 741, 501 | 481, 261 | 241, 1: eight.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from training.tuning.config import ShortFTConfig
from training.tuning.errors import BadInput
from training.tuning.images.bases import LORA_FILE, adapter_beside, resolve_base
from training.tuning.images.loading import load_for_training
from training.tuning.images.online import ImageOnline
from training.tuning.images.parts import AdapterParts, stretch_of
from training.tuning.images.policies import POLICY, ImagePolicy, load_adapter
from training.tuning.images.schedules import Schedule
from training.tuning.images.trajectories import Denoise
from training.tuning.rewards.spec import RewardEntry
from training.tuning.run import Run

SHORTCUT = "shortcut"


@dataclass(frozen=True)
class ShortChain:
    """A schedule through some of another's levels. ``jumps``: the times at which another model steps.

    ``last``: how many of its steps, the last, belong to the stretch it begins to jump in and those after it.
    """

    schedule: Schedule
    jumps: frozenset[float]
    last: int


def stretches(schedule: Schedule, *, span: float, count: int) -> list[range]:
    """The steps of every stretch. Raises BadInput if one has none."""
    places = [stretch_of(time / span, count=count) for time in schedule.times.tolist()]
    if missing := sorted(set(range(count)) - set(places)):
        raise BadInput(
            f"{schedule.steps} steps leave part {missing[0] + 1} of {count} without one; take more steps or "
            "fewer parts",
            field="config.parts",
        )
    return [range(places.index(one), places.index(one) + places.count(one)) for one in range(count)]


def shortened(schedule: Schedule, parts: Sequence[range], *, stage: int) -> ShortChain:
    """All steps before the stretch ``stage``; from there on each one's first, a jump, and its last."""
    kept = [index for part in parts[:stage] for index in part]
    before = len(kept)
    jumps: set[float] = set()
    for part in parts[stage:]:
        if len(part) > 1:
            kept.append(part[0])
            jumps.add(float(schedule.times[part[0]]))
        kept.append(part[-1])
    levels = [*kept, schedule.steps]
    short = replace(
        schedule,
        alphas=schedule.alphas[levels],
        sigmas=schedule.sigmas[levels],
        times=schedule.times[kept],
        skip=None if schedule.skip is None else schedule.skip[kept],
        out=None if schedule.out is None else schedule.out[kept],
    )
    return ShortChain(short, frozenset(jumps), len(kept) - before)


def stage_of(step: int, *, total_steps: int, count: int) -> int:
    """Which of ``count`` stages of equal length a step of training, counted from 1, is in."""
    return (step - 1) * count // total_steps


class ShortcutOnline(ImageOnline):
    """The frame for a policy in parts, with a model of few steps beside it, or itself before training."""

    def __init__(self, run: Run, *, reference: bool) -> None:
        super().__init__(run, reference=reference)
        config: ShortFTConfig = run.config
        shortcut = self._load_shortcut() if config.shortcut == "model" else None
        self.parts = AdapterParts(self.family, count=config.parts, name=POLICY, beside=shortcut)
        span = float(self.family.train_timesteps)
        self.stretches = stretches(self.schedule, span=span, count=config.parts)

    def chain(self, stage: int) -> ShortChain:
        """The chain of a stage of training."""
        return shortened(self.schedule, self.stretches, stage=stage)

    def short_denoiser(self, prompts: Sequence[str], chain: ShortChain) -> Denoise:
        """The policy, and where the chain jumps the model of few steps, whose weights get no gradient."""
        module, scale = self.policy.denoiser, self.run.config.shortcut_guidance
        step, jump = self.denoiser(module, prompts), self.denoiser(module, prompts, scale=scale)

        def denoise(x: torch.Tensor, time: float) -> torch.Tensor:
            self.parts.replaced = time in chain.jumps
            try:
                return (jump if self.parts.replaced else step)(x, time)
            finally:
                self.parts.replaced = False

        return denoise

    def load_policy(self, *, reference: bool) -> ImagePolicy:
        config, run = self.run.config, self.run
        whole = config.lora.model_copy(
            update={key: config.parts * getattr(config.lora, key) for key in ("r", "alpha")}
        )
        return load_for_training(
            run.base,
            lora=whole,
            keep_copy=reference,
            seed=run.seed,
            device=run.device,
            parts=config.parts,
        )

    def reward_entries(self) -> list[RewardEntry]:
        """Without the model of few steps."""
        return [one for one in self.run.reward if not self._is_shortcut(one)]

    def _is_shortcut(self, entry: RewardEntry) -> bool:
        return (
            self.run.config.shortcut == "model"
            and entry.model is not None
            and (Path(entry.model) / LORA_FILE).is_file()
        )

    def _load_shortcut(self) -> str:
        """Put the model of few steps on the denoiser, frozen."""
        found = [str(one.model) for one in self.run.reward if self._is_shortcut(one)]
        if len(found) != 1:
            problem = "the shortcut is one adapter of few steps among these, as rg_lcd makes one"
            raise BadInput(problem, file=self.run.dir.run_file, field="reward")
        file = adapter_beside(
            found[0],
            resolve_base(self.run.base),
            needed="a shortcut is a plain adapter of few steps, as rg_lcd makes one",
            field="reward",
        )
        load_adapter(self.family, file, name=SHORTCUT)
        denoiser = self.family.denoiser
        denoiser.set_adapters([POLICY, SHORTCUT], [1.0, 1.0])
        for name, weight in denoiser.named_parameters():
            weight.requires_grad_(f".{POLICY}." in name)
        return SHORTCUT
