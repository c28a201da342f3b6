"""Prompts alone, for methods that draw pictures themselves: read once, encoded once."""

import hashlib
import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol

import torch

from training.tuning.data import Group, plain_text
from training.tuning.errors import BadInput
from training.tuning.images.data import TensorCache, weights_hash
from training.tuning.images.families import Conditioning, Family
from training.tuning.images.groups import count_reasons
from training.tuning.images.loading import load_for_sampling
from training.tuning.images.preview import preview
from training.tuning.run import Run

logger = logging.getLogger("training.tuning")
ENCODE_AT_ONCE = 64


def open_prompts(run: Run, family: Family, groups: Sequence[Group]) -> list[str]:
    """Every different prompt of the rows once. Raises BadInput if there are rows, and none can be drawn."""
    reasons = why_not(run, family, groups)
    for reason, count in count_reasons(reasons).items():
        logger.info("%d rows dropped: %s", count, reason)
    usable = [group for group, reason in zip(groups, reasons, strict=True) if reason is None]
    if groups and not usable:
        raise BadInput("no prompt can be used; `inspect` lists the reasons", file=run.dir.train_file)
    return list(dict.fromkeys(plain_text(group.prompt) for group in usable))


def why_not(run: Run, family: Family, groups: Sequence[Group]) -> list[str | None]:
    """For every row the reason if its prompt cannot be used."""
    longest = min(family.reader[1], run.config.max_length or family.reader[1])
    return [
        f"prompt longer than {longest} tokens"
        if family.count_tokens(plain_text(group.prompt)) > longest
        else None
        for group in groups
    ]


class Encoded(Protocol):
    """What a denoiser is told about prompts."""

    def rows(self, prompts: Sequence[str]) -> Conditioning: ...

    def without(self, prompts: Sequence[str]) -> Conditioning: ...


class EncodedPrompts:
    """What a denoiser is told about prompts, computed once and kept in ``folder``."""

    def __init__(
        self, family: Family, prompts: Sequence[str], *, folder: Path, on_batch: Callable[[], None]
    ) -> None:
        self._cache = TensorCache(folder)
        self._device = family.device
        self._weights = "".join(weights_hash(encoder) for encoder in family.encoders)
        found = list(prompts)
        self._cache.fill(
            [self._key(prompt) for prompt in found],
            lambda rows: family.encode_prompts([found[row] for row in rows]),
            batch_size=ENCODE_AT_ONCE,
            on_batch=on_batch,
        )

    def rows(self, prompts: Sequence[str]) -> Conditioning:
        """A row for each of some of the prompts."""
        told = {prompt: self._cache.load(self._key(prompt)) for prompt in dict.fromkeys(prompts)}
        found = [told[prompt] for prompt in prompts]
        return {name: torch.stack([one[name] for one in found]).to(self._device) for name in found[0]}

    def without(self, prompts: Sequence[str]) -> Conditioning:
        """As many rows without a prompt."""
        return self.rows([""] * len(prompts))

    def _key(self, prompt: str) -> str:
        return hashlib.sha256(f"{self._weights}\0{prompt}".encode()).hexdigest()


def preview_prompts(run: Run) -> dict[str, Any]:
    """The prompts as a method on rewards will see them."""
    family = load_for_sampling(run.base, device=run.device)
    return preview(
        run.train,
        reasons=why_not(run, family, run.train),
        pairs=lambda group: [],
        count_tokens=family.count_tokens,
    )
