"""Pictures in prompts, for vision-language models.

A picture stands in a prompt's text as one token; the model reads many in its place. ``PictureReader`` says
which, and what numbers the model's vision part gets, both from the processor beside the model. The picture
belongs to the prefix that a group's candidates share, so it is read once for all of them.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from training.tuning.errors import BadInput


class PictureReader:
    """The processor of a model: from a file to tokens and numbers."""

    def __init__(self, processor: Any) -> None:
        self.processor = processor
        self.token_id: int = processor.tokenizer.convert_tokens_to_ids(processor.image_token)

    def read(self, path: Path) -> tuple[list[int], dict[str, Tensor]]:
        """The tokens that stand for a picture, and the vision part's inputs."""
        from PIL import Image

        with Image.open(path) as image:
            found = self.processor(
                text=[self.processor.image_token],
                images=[image.convert("RGB")],
                add_special_tokens=False,
                return_tensors="pt",
            )
        own = {"input_ids", "attention_mask", "mm_token_type_ids", "token_type_ids"}
        return found["input_ids"][0].tolist(), {name: found[name] for name in found if name not in own}


@dataclass(frozen=True)
class Picture:
    """A picture of a prompt. It is read again whenever it is needed: its numbers would fill the memory."""

    path: Path
    reader: PictureReader

    @property
    def ids(self) -> list[int]:
        """The tokens that stand for it."""
        return self.reader.read(self.path)[0]


def vision_inputs(
    pictures: Sequence[Picture], *, device: torch.device, dtype: torch.dtype
) -> dict[str, Tensor]:
    """What the model is given for pictures, in the order in which their tokens stand in the row."""
    if not pictures:
        return {}
    found = [one.reader.read(one.path)[1] for one in pictures]
    joined = {name: torch.cat([one[name] for one in found]) for name in found[0]}
    return {
        name: value.to(device, dtype if value.is_floating_point() else value.dtype)
        for name, value in joined.items()
    }


def expanded(ids: Sequence[int], pictures: Sequence[Picture], reader: PictureReader) -> list[int]:
    """Tokens with each picture's own in the place of the one that stands for it. BadInput if they differ in
    number.
    """
    places = [at for at, token in enumerate(ids) if token == reader.token_id]
    if len(places) != len(pictures):
        raise BadInput(
            f"the chat template makes {len(places)} places for {len(pictures)} pictures of a prompt",
            file=reader.processor.tokenizer.name_or_path,
            field="chat_template",
        )
    found: list[int] = []
    after = 0
    for at, picture in zip(places, pictures, strict=True):
        found += [*ids[after:at], *picture.ids]
        after = at + 1
    return found + list(ids[after:])
