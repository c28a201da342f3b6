"""The data of an image run as its trainer will see it; what ``inspect`` shows."""

from collections.abc import Callable, Sequence
from statistics import median, quantiles
from typing import Any

from training.tuning.data import Group, plain_text
from training.tuning.images.groups import count_reasons
from training.tuning.lengths import histogram
from training.tuning.pairs import Pair

ROWS = 50


def preview(
    groups: Sequence[Group],
    *,
    reasons: Sequence[str | None],
    pairs: Callable[[Group], list[Pair]],
    count_tokens: Callable[[str], int],
) -> dict[str, Any]:
    """Counts, the first rows, and why rows are dropped. Tokens are those of the prompts.

    ``reasons`` has one entry per group, None where it is kept.
    """
    lengths = [count_tokens(plain_text(group.prompt)) for group in groups]
    kept = [
        (group, length) for group, length, why in zip(groups, lengths, reasons, strict=True) if why is None
    ]
    return {
        "groups": len(kept),
        "pairs": sum(len(pairs(group)) for group, _ in kept),
        "rows": [
            _row(group, length, why, pairs(group) if why is None else [])
            for group, length, why in zip(groups[:ROWS], lengths, reasons, strict=False)
        ],
        "token_lengths": _spread([length for _, length in kept]),
        "histogram": histogram([length for _, length in kept]),
        "dropped": count_reasons(reasons),
        "total_tokens": sum(length for _, length in kept),
    }


def _row(group: Group, length: int, why: str | None, pairs: list[Pair]) -> dict[str, Any]:
    return {
        "line": group.line,
        "prompt": plain_text(group.prompt),
        "candidates": [candidate.image for candidate in group.candidates],
        "pairs": [
            {"chosen": pair.chosen, "rejected": pair.rejected, "weight": pair.weight, "target": pair.target}
            for pair in pairs
        ],
        "tokens": {"prompt": length},
        "kept": why is None,
        "why": why,
    }


def _spread(lengths: list[int]) -> dict[str, int | float] | None:
    if not lengths:
        return None
    highest = quantiles(lengths, n=20, method="inclusive")[-1] if len(lengths) > 1 else lengths[0]
    return {"min": min(lengths), "median": median(lengths), "p95": highest, "max": max(lengths)}
