"""Groups as the trainer sees them: encoded, with their pairs, and what was dropped with the reason."""

import logging
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

from training.tuning.config import PairKeys
from training.tuning.data import Group, Text
from training.tuning.errors import BadInput
from training.tuning.lengths import histogram
from training.tuning.pairs import Apart, Pair, make_pairs, why_no_pairs
from training.tuning.text.tokens import EncodedGroup, GroupTokenizer, PairTokenizer, Unusable

PREVIEW_ROWS = 50
logger = logging.getLogger("training.tuning")


@dataclass(frozen=True)
class Example:
    """A group that is used: its tokens and its pairs (for methods that have pairs)."""

    group: Group
    tokens: EncodedGroup
    pairs: list[Pair] = field(default_factory=list)


@dataclass
class Prepared:
    """The examples of one file, and why the other rows are not among them, by row."""

    file: Path
    groups: list[Group]
    examples: list[Example]
    why: dict[int, str]

    @property
    def dropped(self) -> dict[str, int]:
        """How many rows were dropped for which reason."""
        return dict(Counter(self.why.values()).most_common())

    @property
    def sizes(self) -> list[int]:
        """Tokens that the model sees, by example."""
        return [example.tokens.size for example in self.examples]


Choose = Callable[[Group], tuple[list[Text], list[Pair]]]


def prepare(
    groups: Sequence[Group],
    tokenizer: GroupTokenizer | PairTokenizer,
    choose: Choose,
    *,
    file: Path,
    needs: str | None,
) -> Prepared:
    """Encode groups. ``choose`` gives the answers to encode and the pairs among them, or raises Unusable.

    Raises BadInput if no row can be used; ``needs`` says in a few words what the method asks of a row. With
    None there may be none (held-out rows), and what was dropped is in the log.
    """
    prepared = Prepared(file=file, groups=list(groups), examples=[], why={})
    for number, group in enumerate(groups):
        try:
            answers, pairs = choose(group)
            tokens = tokenizer.encode(group.prompt, answers)
            if pairs and all(answer == tokens.answers[0] for answer in tokens.answers):
                raise Unusable("the answers are the same, or are once they are cut")
            prepared.examples.append(Example(group, tokens, pairs))
        except Unusable as reason:
            prepared.why[number] = str(reason)
        except BadInput as error:
            raise BadInput(
                error.message, file=error.file or file, line=group.line, field=error.field
            ) from None
    reasons = ", ".join(f"{reason} ({count})" for reason, count in prepared.dropped.items())
    if reasons:
        logger.info("%s: %d of %d rows dropped: %s", file.name, len(prepared.why), len(groups), reasons)
    if not prepared.examples and needs is not None:
        raise BadInput(f"no row can be used: {reasons}. The method needs {needs}", file=file)
    return prepared


def choose_pairs(keys: PairKeys, *, apart: Sequence[Apart] = ()) -> Choose:
    """All candidates of a group, and its pairs by the config's rule; ``apart`` as for ``make_pairs``."""

    def choose(group: Group) -> tuple[list[Text], list[Pair]]:
        pairs = make_pairs(group, keys, apart=apart)
        if not pairs:
            raise Unusable(why_no_pairs(group))
        return texts_of(group), pairs

    return choose


def texts_of(group: Group) -> list[Text]:
    """The candidates' texts (``load_groups`` has made sure that they are texts)."""
    return [candidate.text for candidate in group.candidates if candidate.text is not None]


def preview(prepared: Prepared, tokenizer: Any, *, joined: str) -> dict[str, Any]:
    """What ``inspect`` shows: first rows as the trainer will see them, lengths, and what is dropped."""
    used = {id(example.group): example for example in prepared.examples}
    return summary(
        rows=[
            _row(group, used.get(id(group)), prepared.why.get(number), tokenizer)
            for number, group in enumerate(prepared.groups[:PREVIEW_ROWS])
        ],
        lengths=[length for example in prepared.examples for length in example.tokens.lengths],
        groups=len(prepared.examples),
        pairs=sum(len(example.pairs) for example in prepared.examples),
        dropped=list(prepared.why.values()),
        total_tokens=sum(prepared.sizes),
        joined=joined,
    ) | {"truncated": sum(example.tokens.truncated for example in prepared.examples)}


def summary(
    *,
    rows: list[dict[str, Any]],
    lengths: Sequence[int],
    groups: int,
    pairs: int,
    dropped: Sequence[str],
    total_tokens: int,
    joined: str,
) -> dict[str, Any]:
    """The preview's document. ``lengths`` are tokens of prompt and answer; ``dropped`` a reason per row."""
    ordered = sorted(lengths)
    at = round(0.95 * (len(ordered) - 1))
    found = (
        {"min": ordered[0], "median": median(ordered), "p95": ordered[at], "max": ordered[-1]}
        if ordered
        else None
    )
    return {
        "groups": groups,
        "pairs": pairs,
        "rows": rows,
        "token_lengths": found,
        "histogram": histogram(lengths),
        "dropped": dict(Counter(dropped).most_common()),
        "total_tokens": total_tokens,
        "joined": joined,
    }


def _row(group: Group, example: Example | None, why: str | None, tokenizer: Any) -> dict[str, Any]:
    prompt = group.prompt if isinstance(group.prompt, str) else [turn.model_dump() for turn in group.prompt]
    row: dict[str, Any] = {"line": group.line, "prompt": prompt, "kept": example is not None, "why": why}
    texts = [_plain(text) for text in texts_of(group)]
    if example is None:
        return {**row, "candidates": texts, "tokens": None}
    if len(example.pairs) == 1:
        pair = example.pairs[0]
        row |= {"chosen": texts[pair.chosen], "rejected": texts[pair.rejected]}
    else:
        row["candidates"] = texts
    row["pairs"] = [vars(pair) for pair in example.pairs]
    tokens = example.tokens
    row["tokens"] = {
        "prompt": tokens.lengths[0] - len(tokens.answers[0]),
        "answers": [len(answer) for answer in tokens.answers],
        "total": tokens.size,
        "truncated": tokens.truncated,
        # The shared prefix and what the model is trained to write, exactly as decoded from the tokens.
        "prefix": tokenizer.decode(tokens.prefix),
        "completions": [tokenizer.decode(answer) for answer in tokens.answers],
    }
    return row


def _plain(text: Text) -> Any:
    return text if isinstance(text, str) else [turn.model_dump() for turn in text]
