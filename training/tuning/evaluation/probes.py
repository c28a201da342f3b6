"""Rows made from an evaluation's rows in order to see what a reward does with them. Torch-free."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import combinations

from training.tuning.config.jobs import ProbeKeys
from training.tuning.data import Candidate, Group, plain_text
from training.tuning.evaluation.rows import Item

# "One token to fool LLM-as-a-judge" (arXiv:2507.08794): marks and openers of reasoning without an answer.
OPENERS = (
    " ",
    ".",
    ",",
    ":",
    "Thought process:",
    "Let's solve this problem step by step.",
    "Solution",
    "解",
    "かいせつ",
    "Respuesta",
)
MOST_CONTRASTS = 500


@dataclass
class Probes:
    """Groups to be scored beside the rows, in this order: reversed rows, openers, contrasts."""

    turned: list[Group] = field(default_factory=list)
    attacked: list[int] = field(default_factory=list)  # rows
    openers: list[Group] = field(default_factory=list)
    contrasts: list[tuple[int, int]] = field(default_factory=list)  # rows with like prompts
    crossed: list[Group] = field(default_factory=list)  # two for each: A with B's answer, B with A's

    @property
    def groups(self) -> list[Group]:
        return [*self.turned, *self.openers, *self.crossed]


def make_probes(items: Sequence[Item], keys: ProbeKeys, *, attacked: int) -> Probes:
    """What the config asks for; openers at so many prompts."""
    found = Probes()
    if keys.reverse_order:
        found.turned = [
            item.group.model_copy(update={"candidates": item.group.candidates[::-1]}) for item in items
        ]
    known = [number for number, item in enumerate(items) if item.right]
    found.attacked = known[:attacked]
    found.openers = [with_candidates(items[number].group, OPENERS) for number in found.attacked]
    if keys.like_prompts is not None:
        found.contrasts = like_prompts([items[number] for number in known], at_least=keys.like_prompts)
        found.contrasts = [(known[one], known[other]) for one, other in found.contrasts]
        for one, other in found.contrasts:
            found.crossed += [_crossed(items[one], items[other]), _crossed(items[other], items[one])]
    return found


def with_candidates(group: Group, texts: Sequence[str]) -> Group:
    """The group with other answers. Blanks are no answer elsewhere, but a reward can be asked about them."""
    candidates = [Candidate.model_construct(text=text, image=None, source=None) for text in texts]
    return group.model_copy(update={"candidates": candidates, "judgements": []})


def like_prompts(items: Sequence[Item], *, at_least: float) -> list[tuple[int, int]]:
    """Pairs of rows whose prompts share most character trigrams but differ, the most alike first."""
    words = [plain_text(item.group.prompt) for item in items]
    families = [item.group.meta.get("family") for item in items]
    grams = [trigrams(text) for text in words]
    found = []
    for one, other in combinations(range(len(items)), 2):
        if words[one] == words[other] or (families[one] is not None and families[one] == families[other]):
            continue
        alike = similarity(grams[one], grams[other])
        if alike >= at_least and _answer(items[one]) != _answer(items[other]):
            found.append((-alike, one, other))
    return [(one, other) for _, one, other in sorted(found)[:MOST_CONTRASTS]]


def trigrams(text: str) -> frozenset[str]:
    """Runs of three characters, lower case, with spaces around."""
    padded = f" {' '.join(text.lower().split())} "
    return frozenset(padded[at : at + 3] for at in range(max(1, len(padded) - 2)))


def similarity(one: frozenset[str], other: frozenset[str]) -> float:
    """Jaccard's: shared over all."""
    return len(one & other) / len(one | other)


def _answer(item: Item) -> Candidate:
    return item.group.candidates[item.right[0]].model_copy(update={"source": None})


def _crossed(item: Item, other: Item) -> Group:
    return item.group.model_copy(update={"candidates": [_answer(other)], "judgements": []})
