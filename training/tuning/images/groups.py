"""Rows of data as an image method sees them: groups that can be trained on, and why others cannot."""

import hashlib
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from PIL import Image

from training.tuning.config import PairKeys, VoteKeys
from training.tuning.data import Group, plain_text
from training.tuning.images.data import Frame
from training.tuning.labels import make_labels
from training.tuning.pairs import Pair, make_pairs, why_no_pairs


@dataclass(frozen=True)
class Chosen:
    """What a method uses of a row: positions of candidates, rising, pairs between positions of the row, or
    how much each candidate counts as good and as bad.
    """

    candidates: list[int]
    pairs: list[Pair] = field(default_factory=list)
    good: list[float] = field(default_factory=list)
    bad: list[float] = field(default_factory=list)


# What a method uses of a row, or why nothing.
Choose = Callable[[Group], Chosen | str]


@dataclass(frozen=True)
class ImageGroup:
    """One prompt, the pictures of a row that a method uses, and what was said about them.

    ``name`` is unique in a run (part and line), and decides about its noise. ``pairs`` are between positions
    in ``files``; ``good`` and ``bad`` have an entry for each file, or none. ``frame`` is the size that all
    pictures are brought to.
    """

    name: str
    prompt: str
    files: list[Path]
    frame: Frame
    pairs: list[Pair] = field(default_factory=list)
    good: list[float] = field(default_factory=list)
    bad: list[float] = field(default_factory=list)
    person: str | None = None

    def for_person(self, name: str, pairs: list[Pair]) -> "ImageGroup":
        """The pictures of this person's pairs, as theirs. ``pairs`` are between positions of this group."""
        used = sorted({place for pair in pairs for place in (pair.chosen, pair.rejected)})
        at = {place: number for number, place in enumerate(used)}
        moved = [replace(pair, chosen=at[pair.chosen], rejected=at[pair.rejected]) for pair in pairs]
        return replace(self, files=[self.files[place] for place in used], pairs=moved, person=name)

    @property
    def pixels(self) -> int:
        """Of all pictures together."""
        return len(self.files) * self.frame.height * self.frame.width


def preferred(keys: PairKeys) -> Choose:
    """The pairs of a row, and the candidates that they name."""

    def choose(group: Group) -> Chosen | str:
        pairs = make_pairs(group, keys)
        used = sorted({index for pair in pairs for index in (pair.chosen, pair.rejected)})
        return Chosen(used, pairs) if pairs else why_no_pairs(group)

    return choose


def labelled(keys: VoteKeys) -> Choose:
    """The candidates that somebody called good or bad, with their votes."""

    def choose(group: Group) -> Chosen | str:
        labels = make_labels(group, keys)
        if not labels:
            return "no thumb, choice or ranking"
        return Chosen(
            [label.candidate for label in labels],
            good=[label.good for label in labels],
            bad=[label.bad for label in labels],
        )

    return choose


@dataclass(frozen=True)
class Limits:
    """What a model can take. None is no limit."""

    longest_prompt: int | None
    count_tokens: Callable[[str], int]


@dataclass(frozen=True)
class Framing:
    """How sizes are settled: a fixed square, or each group's own size, a multiple of ``multiple``."""

    resolution: int | None
    random_crop: bool
    multiple: int
    seed: int


def select_groups(
    groups: Sequence[Group], *, part: str, media: Path, choose: Choose, limits: Limits, framing: Framing
) -> tuple[list[ImageGroup], list[str | None]]:
    """The groups that can be trained on, and for every row the reason if it cannot."""
    kept: list[ImageGroup] = []
    reasons: list[str | None] = []
    for group in groups:
        found = _select(
            group, name=f"{part}:{group.line}", media=media, choose=choose, limits=limits, framing=framing
        )
        reasons.append(found if isinstance(found, str) else None)
        if isinstance(found, ImageGroup):
            kept.append(found)
    return kept, reasons


def count_reasons(reasons: Sequence[str | None]) -> dict[str, int]:
    """How many rows were dropped for each reason."""
    return dict(Counter(reason for reason in reasons if reason is not None))


def _select(
    group: Group, *, name: str, media: Path, choose: Choose, limits: Limits, framing: Framing
) -> ImageGroup | str:
    found = choose(group)
    if isinstance(found, str):
        return found
    prompt = plain_text(group.prompt)
    if limits.longest_prompt is not None and limits.count_tokens(prompt) > limits.longest_prompt:
        return f"prompt longer than {limits.longest_prompt} tokens"
    files = [media / str(group.candidates[index].image) for index in found.candidates]
    frame = _frame(files, name=name, framing=framing)
    if isinstance(frame, str):
        return frame
    place = {index: position for position, index in enumerate(found.candidates)}
    moved = [replace(pair, chosen=place[pair.chosen], rejected=place[pair.rejected]) for pair in found.pairs]
    return ImageGroup(name, prompt, files, frame, moved, found.good, found.bad)


def _frame(files: Sequence[Path], *, name: str, framing: Framing) -> Frame | str:
    """One frame for all pictures of a group, or why there is none."""
    if framing.resolution is not None:
        across, down = _crop_place(name, framing.seed) if framing.random_crop else (0.5, 0.5)
        return Frame(framing.resolution, framing.resolution, across, down)
    sizes = {upright_size(file) for file in files}
    if len(sizes) > 1:
        return "pictures of different sizes; set a resolution"
    width, height = sizes.pop()
    if width % framing.multiple or height % framing.multiple:
        return f"size is not a multiple of {framing.multiple} pixels; set a resolution"
    return Frame(height, width)


def upright_size(path: Path) -> tuple[int, int]:
    """Width and height of a picture as it is to be seen, without decoding it."""
    sideways = {5, 6, 7, 8}  # EXIF orientations that swap the axes
    with Image.open(path) as image:
        width, height = image.size
        return (height, width) if image.getexif().get(0x0112) in sideways else (width, height)


def _crop_place(name: str, seed: int) -> tuple[float, float]:
    digest = hashlib.sha256(f"{seed}\0crop\0{name}".encode()).digest()
    return digest[0] / 255, digest[1] / 255
