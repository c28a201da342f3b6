"""What a job gave, as cards: candidates with their scores, or what a model wrote or drew."""

import heapq
import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import count
from typing import Any, Final

from django.urls import reverse
from PIL import Image

from annotation.data_browsing import PAGE, Page
from annotation.models import Comparison, Lease, User
from annotation.prompts import Prompt, words_of
from training.models import Run
from training.services.results import comparison_of, open_pictures, open_result, open_snapshot, rows_of

MOST_SHOWN: Final = 20 * PAGE  # cards of a gallery; filters lead to the others

Key = tuple[Any, ...]
# Where it stands, the numbers of its group and of the candidate, the group's line, and its scores.
Found = tuple[Key, int, int, bytes, dict[str, Any]]

ORDERS: Final[dict[str, Callable[[float | None], Key]]] = {
    "highest": lambda score: (score is None, -(score or 0)),
    "lowest": lambda score: (score is None, score or 0),
    "given": lambda score: (),
}


@dataclass(frozen=True)
class Card:
    """A candidate as it was scored, or as it was written or drawn.

    `why` says what is known where there is no `score`. `place` is its place among the `among` candidates of
    its group that have one; equal scores share a place. `address` is empty where the comparison is gone or
    none of the project's, `picture` where the candidate is a text.
    """

    prompt: Prompt
    number: int
    text: Any
    picture: str
    size: dict[str, int]
    address: str
    score: float | None
    why: str
    place: int
    among: int


@dataclass(frozen=True)
class Gallery:
    """A page of cards; how many pass the filters; whether some are left out, which the reader is to judge."""

    page: Page
    count: int
    left_out: bool


def gallery_of(
    run: Run,
    filters: Mapping[str, Any],
    *,
    user: User,
    before: int | None = None,
    after: int | None = None,
) -> Gallery:
    """What a scoring or a generation gave: the cards `after` so many, or those `before`.

    The best of a scoring come first, or in another `order`; what has no score comes last, unless all stand as
    they came. `q` are words of the prompt, `at_least` and `at_most` are about the score. The rows are read
    from their files one after another, and no more of them are held than the page and those before it need:
    never more than `MOST_SHOWN`. What this person is to judge themselves is left out, since a score would
    tell them what a model thinks, and a generation whose answer it is.
    """
    start = after if after is not None else (before or PAGE) - PAGE
    start = max(0, min(start, MOST_SHOWN - PAGE))
    counted = count()
    passing = (found for found, _ in zip(_found(run, filters), counted, strict=False))
    first = heapq.nsmallest(start + PAGE, passing)
    total = next(counted)  # `zip` asks it for another number only once there is another candidate
    shown = [(found, json.loads(found[3])) for found in first[start:]]
    hidden = _in_hands(run, user)
    cards = _cards(run, [one for one in shown if one[1]["prompt"] not in hidden])
    end = start + PAGE
    page = Page(rows=cards, before=start or None, after=end if end < min(total, MOST_SHOWN) else None)
    return Gallery(page, total, left_out=len(cards) < len(shown))


def _found(run: Run, filters: Mapping[str, Any]) -> Iterator[Found]:
    """Every candidate that passes the filters, in the order of the file."""
    key = ORDERS[filters.get("order") or "highest"]
    words = (filters.get("q") or "").casefold().split()
    low, high = filters.get("at_least"), filters.get("at_most")
    for number, (line, given) in enumerate(_rows(run)):
        if words and not _has_words(json.loads(line)["prompt"], words):
            continue
        for index, score in enumerate(given["scores"]):
            if _is_within(score, low, high):
                yield key(score), number, index, line, given


def _rows(run: Run) -> Iterator[tuple[bytes, dict[str, Any]]]:
    """Each group as its line in the file, still unread, and the row of its scores."""
    if run.gives_scores:
        with (
            open_snapshot(run) as snapshot,
            open_result(run) as result,
            snapshot.open("train.jsonl") as lines,
        ):
            yield from zip(lines, rows_of(result, "scores.jsonl"), strict=True)
        return
    with open_result(run) as result, result.open("generations.jsonl") as lines:
        for line in lines:
            yield line, {"scores": [None] * len(json.loads(line)["candidates"])}


def _is_within(score: float | None, low: float | None, high: float | None) -> bool:
    """What has no score is within no bounds, but passes where there are none."""
    if score is None:
        return low is None and high is None
    return (low is None or score >= low) and (high is None or score <= high)


def _has_words(prompt: Prompt, words: Iterable[str]) -> bool:
    said = prompt if isinstance(prompt, str) else "\n".join(words_of(one["content"]) for one in prompt)
    folded = said.casefold()
    return all(word in folded for word in words)


def _in_hands(run: Run, user: User) -> list[Prompt]:
    """The prompts of what this person is to judge themselves."""
    held = Lease.objects.in_hands_of(user).filter(comparison__project=run.project_id)
    return list(held.values_list("comparison__prompt", flat=True))


def _cards(run: Run, shown: list[tuple[Found, dict[str, Any]]]) -> list[Card]:
    numbers = [comparison_of(group) for _, group in shown]
    here = Comparison.objects.filter(project=run.project_id, pk__in=[pk for pk in numbers if pk])
    addresses = {
        pk: reverse("annotation:comparison", args=[run.project_id, pk])
        for pk in here.values_list("pk", flat=True)
    }
    sizes = _sizes(run, [group["candidates"][found[2]].get("image") for found, group in shown])
    return [
        _card(run, found, group, address=addresses.get(number or 0, ""), size=size)
        for (found, group), number, size in zip(shown, numbers, sizes, strict=True)
    ]


def _card(run: Run, found: Found, group: dict[str, Any], *, address: str, size: dict[str, int]) -> Card:
    _, _, index, _, given = found
    candidate, score = group["candidates"][index], given["scores"][index]
    known = [other for other in given["scores"] if other is not None]
    name = candidate.get("image")
    return Card(
        prompt=group["prompt"],
        number=index + 1,
        text=candidate.get("text"),
        picture=reverse("training:run_picture", args=[run.pk, name]) if name else "",
        size=size,
        address=address,
        score=score,
        why=given.get("why", ""),
        place=0 if score is None else 1 + sum(other > score for other in known),
        among=len(known),
    )


def _sizes(run: Run, names: list[str | None]) -> list[dict[str, int]]:
    """Width and height of pictures, so that the page keeps their places; nothing of texts."""
    if not any(names):
        return [{} for _ in names]
    sizes: list[dict[str, int]] = []
    with open_pictures(run) as archive:
        for name in names:
            with archive.open(f"media/{name}") as file, Image.open(file) as picture:
                sizes.append({"width": picture.width, "height": picture.height})
    return sizes
