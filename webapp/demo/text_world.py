"""The simulated text world: prompts to a support desk, answers in many styles, and what is good.

The corpus, the hidden utility and the check of the grammar come from one set of sentences
(`text_grammar`), but the utility never sees how an answer was made: it reads the text. Each choice
of style is drawn on its own, so a model of this corpus has something to gain in every answer.
"""

import hashlib
import math
import random
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from typing import Literal

from webapp.demo import text_grammar as grammar

Split = Literal["train", "held_out"]

WORDS_FOR_FREE = 45
SLOTS = {"name": grammar.NAMES, "product": grammar.PRODUCTS, "day": grammar.DAYS}
SLOT_PATTERN = re.compile(
    r"\b(?:"
    + "|".join(f"(?P<{slot}>{'|'.join(words)})" for slot, words in SLOTS.items())
    + r"|(?P<order>[A-Z]\d+))\b"
)
SENTENCE_END = re.compile(r"(?<=[.?!])\s+")
# One letter per sentence, in the grammar's order: greeting, filler, acknowledgement, blame, steps, offer.
WELL_FORMED = re.compile(r"[Gg]?F?[Aa]?B?(?:SS?|V)F?(?:O|E)?")

# What a careful reader would say, in points. See `utility`.
POINTS = {
    "G": 1.0,  # greets by name
    "g": 0.0,  # greets without a name
    "A": 1.0,  # shows that the request was read
    "a": 0.4,  # kind, but would fit any request
    "S": 2.0,  # a concrete next step
    "V": -0.5,  # puts the customer off
    "F": -0.6,  # says nothing
    "B": -1.5,  # blames the customer
    "O": 0.5,  # offers more help
    "E": 0.0,  # signs off
}
SECOND_STEP = 0.3
WRONG = -1.5  # a detail that is not the prompt's, a sentence that answers another request
UNKNOWN = -1.5  # a sentence that is none of the language's
NO_STEP = -1.0  # an answer without any next step, good or bad
REPEATED = -1.0  # the same kind of sentence again (beyond two fillers, two steps)
PER_WORD = -0.1  # each word beyond WORDS_FOR_FREE
EMPTY = -4.0
LOWEST = -10.0
MOST_OF_A_KIND = {"F": 2, "S": 2}


@dataclass(frozen=True)
class Sentence:
    """A sentence as read: its kind (a letter of `POINTS`, or "?"), its templates and its details."""

    kind: str
    templates: frozenset[int]
    details: frozenset[tuple[str, str]]


def prompts(split: Split, n: int, seed: int) -> list[str]:
    """`n` different prompts of one split. A prompt's split is a function of its text."""
    rng = random.Random(f"prompts {split} {seed}")
    found: dict[str, None] = {}
    while len(found) < n:
        prompt = draw_prompt(rng)[0]
        if split_of(prompt) == split:
            found[prompt] = None
    return list(found)


def split_of(prompt: str) -> Split:
    """One prompt in five is held out: neither the base models' corpus nor any training prompt has it."""
    return "held_out" if hashlib.sha256(prompt.encode()).digest()[0] % 5 == 0 else "train"


def corpus(n: int, seed: int) -> Iterator[tuple[str, str]]:
    """`n` samples (prompt, answer) over training prompts."""
    rng = random.Random(f"corpus {seed}")
    while n:
        prompt, template, details = draw_prompt(rng)
        if split_of(prompt) == "train":
            n -= 1
            yield prompt, draw_answer(template, details, rng)


def draw_prompt(rng: random.Random) -> tuple[str, grammar.Template, dict[str, str]]:
    """A random prompt with the template and the details behind it."""
    template = rng.choice(grammar.TEMPLATES)
    details = {slot: rng.choice(words) for slot, words in SLOTS.items()}
    details["order"] = rng.choice("ABCDEFGHJKLMNPQRSTUVWXYZ") + rng.choice("123456789")
    body = template.body.format(**details)
    return rng.choice(grammar.OPENINGS).format(name=details["name"], body=body), template, details


def draw_answer(template: grammar.Template, details: dict[str, str], rng: random.Random) -> str:
    """An answer whose choices of style are all independent of one another."""
    parts: list[str] = []
    greeting = rng.random()
    if greeting < 0.4:
        parts.append(rng.choice(grammar.GREETINGS_BY_NAME))
    elif greeting < 0.75:
        parts.append(rng.choice(grammar.GREETINGS))
    opening, *closing = rng.sample(grammar.FILLERS, 2)
    if rng.random() < 0.35:
        parts.append(opening)
    acknowledgement = rng.random()
    if acknowledgement < 0.35:
        parts.append(template.acknowledgement)
    elif acknowledgement < 0.55:
        parts.append(rng.choice(grammar.ACKNOWLEDGEMENTS))
    if rng.random() < 0.3:
        parts.append(rng.choice(grammar.BLAMES))
    step = rng.random()
    if step < 0.3:
        parts.append(rng.choice(template.steps))
    elif step < 0.5:
        parts.extend(template.steps)
    else:
        parts.append(rng.choice(grammar.VAGUE_STEPS))
    if rng.random() < 0.25:
        parts.extend(closing)
    end = rng.random()
    if end < 0.4:
        parts.append(rng.choice(grammar.OFFERS))
    elif end < 0.6:
        parts.append(rng.choice(grammar.SIGN_OFFS))
    return " ".join(parts).format(**details)


def utility(prompt: str, answer: str) -> float:
    """How good an answer is to a careful reader: the hidden utility of every simulated annotator.

    Wanted: a greeting by name, a word on what happened, one or two concrete next steps with the
    prompt's own details, an offer of more help. Unwanted: blame, empty phrases, putting off, no step
    at all, wrong details, an answer to something else, repetition, more than `WORDS_FOR_FREE` words,
    and any sentence that is not of the language. `POINTS` and the constants beside it say how much.
    Deterministic; between `LOWEST` and 4.8.
    """
    sentences = read(answer)
    if not sentences:
        return EMPTY
    asked, details = _read_prompt(prompt)
    points = PER_WORD * max(0, len(answer.split()) - WORDS_FOR_FREE)
    seen: Counter[str] = Counter()
    said: set[Sentence] = set()
    for sentence in sentences:
        kind = sentence.kind.upper()
        seen[kind] += 1
        if sentence.kind == "?":
            points += UNKNOWN
        elif sentence in said or seen[kind] > MOST_OF_A_KIND.get(kind, 1):
            points += min(REPEATED, POINTS[sentence.kind])
        elif not sentence.details <= details or (sentence.templates and asked not in sentence.templates):
            points += WRONG
        else:
            points += SECOND_STEP if sentence.kind == "S" and seen[kind] > 1 else POINTS[sentence.kind]
        said.add(sentence)
    if not seen.keys() & {"S", "V"}:
        points += NO_STEP
    return max(LOWEST, round(points, 6))


def well_formed(answer: str) -> bool:
    """Whether the grammar can make this answer, details aside."""
    return WELL_FORMED.fullmatch("".join(sentence.kind for sentence in read(answer))) is not None


def details_right(prompt: str, answer: str) -> bool:
    """Whether every detail in the answer is the prompt's."""
    _, details = _read_prompt(prompt)
    return all(sentence.details <= details for sentence in read(answer))


def read(answer: str) -> list[Sentence]:
    """The sentences of an answer, each recognised by its shape once its details are taken out."""
    return [_read_sentence(text) for text in SENTENCE_END.split(answer.strip()) if text]


def choose(
    u_a: float, u_b: float, rng: random.Random, reliability: float, tie_width: float
) -> int | Literal["tie"]:
    """A noisy choice: 0, 1 or "tie". Bradley-Terry with the ties of Rao and Kupper (1967).

    The annotator sees the difference of utilities times `reliability` plus logistic noise, and calls
    a tie what falls within `tie_width` of zero. At `tie_width` 0 the first wins with probability
    sigmoid(reliability * (u_a - u_b)). `reliability` 0 is an annotator who does not look.
    """
    uniform = rng.uniform(1e-12, 1 - 1e-12)
    seen = reliability * (u_a - u_b) + math.log(uniform / (1 - uniform))
    if abs(seen) < tie_width:
        return "tie"
    return 0 if seen > 0 else 1


def _read_sentence(text: str) -> Sentence:
    shape, details = _take_out(text)
    kind, templates = _shapes().get(shape, ("?", frozenset()))
    return Sentence(kind, templates, details)


def _read_prompt(prompt: str) -> tuple[int | None, frozenset[tuple[str, str]]]:
    """Which template a prompt is of (None if of none), and its details."""
    shape, details = _take_out(prompt)
    return _prompt_shapes().get(shape), details


def _take_out(text: str) -> tuple[str, frozenset[tuple[str, str]]]:
    details = frozenset((match.lastgroup or "", match[0]) for match in SLOT_PATTERN.finditer(text))
    return SLOT_PATTERN.sub(lambda match: f"{{{match.lastgroup}}}", text), details


@cache
def _shapes() -> dict[str, tuple[str, frozenset[int]]]:
    """Every sentence of the language: its kind, and the templates that it answers (none: all)."""
    everywhere = {
        "G": grammar.GREETINGS_BY_NAME,
        "g": grammar.GREETINGS,
        "F": grammar.FILLERS,
        "a": grammar.ACKNOWLEDGEMENTS,
        "B": grammar.BLAMES,
        "V": grammar.VAGUE_STEPS,
        "O": grammar.OFFERS,
        "E": grammar.SIGN_OFFS,
    }
    shapes = {text: (kind, frozenset[int]()) for kind, texts in everywhere.items() for text in texts}
    for number, template in enumerate(grammar.TEMPLATES):
        for kind, text in [("A", template.acknowledgement), *(("S", step) for step in template.steps)]:
            shapes[text] = (kind, shapes.get(text, (kind, frozenset()))[1] | {number})
    return shapes


@cache
def _prompt_shapes() -> dict[str, int]:
    return {
        opening.replace("{body}", template.body): number
        for opening in grammar.OPENINGS
        for number, template in enumerate(grammar.TEMPLATES)
    }
