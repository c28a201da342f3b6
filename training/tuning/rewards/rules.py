"""Rewards that need no model. Torch-free; images are PIL's, opened by the caller.

A rule is named in a ``reward`` list as ``"words"``, or with its argument after a colon, ``"pattern:^Yes"``.
"""

import io
import json
import math
import re
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

Score = Callable[[Any, Any], float]
PixelScore = Callable[[Any], Any]  # of pictures (N, 3, H, W) in -1..1, (N,), with a gradient
SENTENCE = re.compile(r"[^.!?]+[.!?]*")


@dataclass(frozen=True)
class Rule:
    """One entry of the list. ``make(argument)`` gives the function of prompt and candidate.

    A rule that is differentiable has ``of_pixels(argument)`` too: the same measure of pictures as tensors.
    """

    name: str
    modality: Literal["text", "image"]
    summary: str
    make: Callable[[str], Score]
    argument: str | None = None  # what stands after the colon, in a word; None: nothing
    of_pixels: Callable[[str], PixelScore] | None = None


def _plain(measure: Callable[[Any], float]) -> Callable[[str], Score]:
    return lambda argument: lambda prompt, candidate: float(measure(candidate))


def _pattern(argument: str) -> Score:
    try:
        found = re.compile(argument)
    except re.error as error:
        raise ValueError(f"{argument!r} is no regular expression: {error}") from None
    return lambda prompt, candidate: float(found.search(candidate) is not None)


def _near_length(argument: str) -> Score:
    target = _number(argument)
    return lambda prompt, candidate: -abs(len(candidate.split()) - target) / target


def _repetition(text: str) -> float:
    """Share of the text's four-word runs that occurred before."""
    words = text.lower().split()
    runs = Counter(tuple(words[at : at + 4]) for at in range(len(words) - 3))
    total = sum(runs.values())
    return 1 - len(runs) / total if total else 0.0


def _is_json(text: str) -> bool:
    try:
        json.loads(text)
    except ValueError:
        return False
    return True


def _copied(argument: str) -> Score:
    def share(prompt: str, candidate: str) -> float:
        words = candidate.lower().split()
        return sum(word in set(prompt.lower().split()) for word in words) / len(words) if words else 0.0

    return share


def _jpeg_kilobytes(image: Any) -> float:
    """Size as JPEG of quality 95: the compressibility reward of DDPO (arXiv:2305.13301) is its negative."""
    target = io.BytesIO()
    image.convert("RGB").save(target, format="JPEG", quality=95)
    return len(target.getvalue()) / 1000


def _aspect(argument: str) -> Score:
    wanted = _number(argument)
    return lambda prompt, image: -abs(math.log(image.width / image.height / wanted))


def _measure(name: str) -> Callable[[str], PixelScore]:
    def of_pixels(argument: str) -> PixelScore:
        def measure(pixels: Any) -> Any:
            from training.tuning.images import measures

            return getattr(measures, name)(pixels)

        return measure

    return of_pixels


def _closeness(argument: str) -> PixelScore:
    if not re.fullmatch(r"#[0-9a-fA-F]{6}", argument):
        raise ValueError(f'"{argument}" is no colour; write it as #ff8800')
    wanted = [int(argument[at : at + 2], 16) / 255 for at in (1, 3, 5)]

    def measure(pixels: Any) -> Any:
        from training.tuning.images import measures

        return measures.closeness(pixels, wanted)

    return measure


def _of_image(of_pixels: Callable[[str], PixelScore]) -> Callable[[str], Score]:
    """The measure of tensors, of one picture."""

    def make(argument: str) -> Score:
        measure = of_pixels(argument)

        def score(prompt: Any, image: Any) -> float:
            from training.tuning.images.data import to_pixels

            return float(measure(to_pixels(image.convert("RGB"))[None]))

        return score

    return make


def _differentiable(
    name: str, summary: str, of_pixels: Callable[[str], PixelScore], *, argument: str | None = None
) -> Rule:
    return Rule(name, "image", summary, _of_image(of_pixels), argument, of_pixels)


def _number(argument: str) -> float:
    try:
        value = float(argument)
    except ValueError:
        value = 0.0
    if not 0 < value < float("inf"):
        raise ValueError(f'"{argument}" is no positive number')
    return value


RULES = [
    Rule("words", "text", "Words of the answer.", _plain(lambda text: len(text.split()))),
    Rule("characters", "text", "Characters of the answer.", _plain(len)),
    Rule(
        "sentences",
        "text",
        "Sentences of the answer.",
        _plain(lambda text: sum(bool(part.strip()) for part in SENTENCE.findall(text))),
    ),
    Rule("length", "text", "0 at this many words, lower by the relative distance.", _near_length, "words"),
    Rule("pattern", "text", "1 where a regular expression is found, else 0.", _pattern, "expression"),
    Rule("json", "text", "1 if the answer is valid JSON, else 0.", _plain(_is_json)),
    Rule("repetition", "text", "Share of four-word runs that are repeats.", _plain(_repetition)),
    Rule("copied", "text", "Share of the answer's words that stand in the prompt.", _copied),
    Rule("jpeg_size", "image", "Kilobytes as JPEG: how hard it is to compress.", _plain(_jpeg_kilobytes)),
    Rule(
        "aspect",
        "image",
        "0 at this width over height, lower by the distance of logarithms.",
        _aspect,
        "ratio",
    ),
    _differentiable("brightness", "Mean brightness, 0 to 1.", _measure("brightness")),
    _differentiable("contrast", "Spread of the brightness, 0 to ½.", _measure("contrast")),
    _differentiable("saturation", "Mean saturation, 0 to 1.", _measure("saturation")),
    _differentiable("colourfulness", "How colourful, by Hasler and Süsstrunk.", _measure("colourfulness")),
    _differentiable("sharpness", "Variance of the Laplacian.", _measure("sharpness")),
    _differentiable(
        "colour", "Closeness of the mean colour to this one, 0 to 1.", _closeness, argument="#rrggbb"
    ),
]


def find_rule(text: str, *, modality: str) -> Score:
    """The function that ``name`` or ``name:argument`` stands for. ValueError if there is none."""
    rule, argument = _look_up(text, modality=modality)
    return rule.make(argument)


def find_pixel_rule(text: str) -> PixelScore | None:
    """The same of pictures as tensors, or None for a rule without a gradient. ValueError if there is none."""
    rule, argument = _look_up(text, modality="image")
    return rule.of_pixels(argument) if rule.of_pixels else None


def _look_up(text: str, *, modality: str) -> tuple[Rule, str]:
    name, colon, argument = text.partition(":")
    fitting = {rule.name: rule for rule in RULES if rule.modality == modality}
    if name not in fitting:
        raise ValueError(f'there is no rule "{name}" for {modality}s; there are {", ".join(fitting)}')
    rule = fitting[name]
    if rule.argument is None and colon:
        raise ValueError(f"{name} takes no argument")
    if rule.argument is not None and not argument:
        raise ValueError(f"{name} needs an argument, {name}:{rule.argument}")
    return rule, argument
