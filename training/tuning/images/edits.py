"""Pictures that are edited as a method trains, on the frame of ``online.py``: MotionNFT (arXiv:2512.10284).

A row is an instruction, the picture to edit, and one that shows the edit that was wanted: of two pictures
the one that was not preferred and the one that was, such as two frames of a film.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor

from training.tuning.config import MotionNFTConfig, PairKeys
from training.tuning.data import Group, plain_text
from training.tuning.errors import BadInput
from training.tuning.images.chains import pictures_of
from training.tuning.images.data import Frame, open_image, to_pixels
from training.tuning.images.families import Conditioning, Editor, Family
from training.tuning.images.generation import Request
from training.tuning.images.groups import preferred
from training.tuning.images.loading import load_for_training
from training.tuning.images.online import ImageOnline
from training.tuning.images.optical_flow import Estimate, dense_flow, flow_between
from training.tuning.images.policies import ImagePolicy
from training.tuning.images.prompts import EncodedPrompts, why_not
from training.tuning.images.schedules import ddim
from training.tuning.images.trajectories import sample, start_noise
from training.tuning.losses.motion import Flow, motion_reward
from training.tuning.rewards.compose import Scored
from training.tuning.rewards.sources import find_function
from training.tuning.rewards.spec import RewardEntry
from training.tuning.run import Run


@dataclass(frozen=True)
class Edit:
    """What to do to which picture, and a picture of what it should be like."""

    instruction: str
    source: Path
    target: Path

    @cached_property
    def key(self) -> str:
        """Tells edits apart: the pictures too, since an instruction may stand in many rows."""
        digest = hashlib.sha256(self.source.read_bytes() + self.target.read_bytes())
        return f"{self.instruction}\0{digest.hexdigest()}"


def find_edits(run: Run, family: Family, groups: Sequence[Group]) -> dict[str, Edit]:
    """Every different edit of the rows, by key. Raises BadInput if there are rows, and none can be used."""
    found = {}
    for group, why in zip(groups, why_no_edit(run, family, groups), strict=True):
        if why is None:
            run.check_stop()
            edit = edit_of(run, group)
            found[edit.key] = edit
    if groups and not found:
        raise BadInput("no row can be used; `inspect` lists the reasons", file=run.dir.train_file)
    return found


def why_no_edit(run: Run, family: Family, groups: Sequence[Group]) -> list[str | None]:
    """For every row the reason if it is no edit that can be learnt."""

    def why(group: Group, of_prompt: str | None) -> str | None:
        if len(group.candidates) != 2:
            return "not two pictures: one to edit, and one that shows how"
        chosen = CHOOSE(group)
        return chosen if isinstance(chosen, str) else of_prompt

    return [
        why(group, of_prompt) for group, of_prompt in zip(groups, why_not(run, family, groups), strict=True)
    ]


def edit_of(run: Run, group: Group) -> Edit:
    """The edit that a usable row describes."""
    chosen = CHOOSE(group)
    assert not isinstance(chosen, str)
    files = [run.dir.media / str(candidate.image) for candidate in group.candidates]
    pair = chosen.pairs[0]
    return Edit(plain_text(group.prompt), files[pair.rejected], files[pair.chosen])


class EncodedEdits:
    """What a denoiser is told about edits: the instructions, and the pictures to edit."""

    def __init__(self, prompts: EncodedPrompts, edits: dict[str, Edit], pictures: dict[str, Tensor]) -> None:
        self._prompts, self._edits, self._pictures = prompts, edits, pictures

    def rows(self, keys: Sequence[str]) -> Conditioning:
        """A row for each of some edits."""
        return self._with_pictures([self._edits[key].instruction for key in keys], keys)

    def without(self, keys: Sequence[str]) -> Conditioning:
        """Without instruction; the picture stays."""
        return self._with_pictures([""] * len(keys), keys)

    def _with_pictures(self, instructions: Sequence[str], keys: Sequence[str]) -> Conditioning:
        rows = self._prompts.rows(instructions)
        device = next(iter(rows.values())).device
        return rows | {"picture": torch.stack([self._pictures[key] for key in keys]).to(device)}


class EditOnline(ImageOnline):
    """The frame for edits: ``prompts`` are their keys, and motion is a reward beside those of the list."""

    family: Editor

    def load_policy(self, *, reference: bool) -> ImagePolicy:
        run = self.run
        return load_for_training(
            run.base,
            lora=run.config.lora,
            keep_copy=reference,
            seed=run.seed,
            device=run.device,
            edits=True,
        )

    def reward_entries(self) -> list[RewardEntry]:
        """Without a function that estimates flow."""
        functions = {one.python: find_function(one.python) for one in self.run.reward if one.python}
        flows = [name for name, function in functions.items() if getattr(function, "estimates_flow", False)]
        if len(flows) > 1:
            raise BadInput("one function estimates the flow", file=self.run.dir.run_file, field="reward")
        self.estimate: Estimate = functions[flows[0]] if flows else dense_flow
        return [one for one in self.run.reward if one.python is None or one.python not in flows]

    def open_prompts(self) -> None:
        train, held_out = (
            find_edits(self.run, self.family, rows) for rows in (self.run.train, self.run.eval)
        )
        self.edits = train | held_out
        self.prompts, self.held_out = list(train), list(held_out)
        self.pixels = {key: self._framed(edit.source) for key, edit in self.edits.items()}
        instructions = list(dict.fromkeys(edit.instruction for edit in self.edits.values()))
        self.encoded = EncodedEdits(
            self.encode_prompts(instructions),
            self.edits,
            {key: self.family.encode_source(own[None])[0].cpu() for key, own in self.pixels.items()},
        )
        self._wanted: dict[str, Flow] = {}

    @property
    def labels(self) -> list[str]:
        """``motion`` last."""
        return [*super().labels, "motion"]

    def judge(self, prompts: Sequence[str], pictures: list[Image.Image]) -> Scored:
        """The rewards of the list, told the instruction, and that of motion."""
        config: MotionNFTConfig = self.run.config
        motion = torch.tensor(
            [self.motion(key, to_pixels(one)) for key, one in zip(prompts, pictures, strict=True)],
            dtype=torch.float32,
        )[:, None]
        added = config.motion_weight * motion
        if not self.rewards.sources:
            return Scored(added[:, 0], added, motion, {})
        told = [self.edits[key].instruction for key in prompts]
        found = self.rewards.parts(told, pictures)
        motion, added = motion.to(found.parts), added.to(found.parts)
        return Scored(
            found.total + added[:, 0],
            torch.cat([found.parts, added], dim=1),
            torch.cat([found.scores, motion], dim=1),
            found.why,
        )

    def motion(self, key: str, edited: Float[Tensor, "3 H W"]) -> float:
        """How well the motion from the source to the edit agrees with that to the target."""
        config, source = self.run.config, self.pixels[key]
        if key not in self._wanted:
            target = self._framed(self.edits[key].target)
            self._wanted[key] = flow_between(self.estimate, source, target)
        flow = flow_between(self.estimate, source, edited)
        return motion_reward(flow, self._wanted[key], levels=config.motion_levels)

    @torch.no_grad()
    def draw_finished(self, requests: Sequence[Request]) -> list[Image.Image]:
        """An edit for each request, without noise on the way."""
        generators = [torch.Generator().manual_seed(request.seed) for request in requests]
        start = start_noise(self.family.latent_shape(self.height, self.width), generators, self.family.device)
        denoise = self.denoiser(self.policy.denoiser, [request.prompt for request in requests])
        chain = sample(denoise, ddim(self.schedule, eta=0.0), start, generators=generators)
        return pictures_of(self.family, chain.final)

    def shown(self, prompt: str) -> str:
        """The instruction."""
        return self.edits[prompt].instruction

    def _framed(self, file: Path) -> Float[Tensor, "3 H W"]:
        return to_pixels(Frame(self.height, self.width).apply(open_image(file)))


CHOOSE = preferred(PairKeys(pairs="majority"))
