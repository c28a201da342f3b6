"""Answers between what was shown and how it is stored: one permutation of the candidates, exact both ways.

In requests a candidate is the position at which it was shown; in rows and exports it is canonical, its place
in the comparison. `order[position]` is the canonical index.
"""

from collections.abc import Callable, Sequence
from typing import Any, Final

Answers = dict[str, Any]
Places = Sequence[int]


def to_canonical(answers: Answers, order: Places) -> Answers:
    """Presented positions become canonical indices."""
    return rename_candidates(answers, order)


def to_presented(answers: Answers, order: Places) -> Answers:
    """The inverse of `to_canonical`."""
    return rename_candidates(answers, [order.index(index) for index in range(len(order))])


def rename_candidates(answers: Answers, places: Places) -> Answers:
    """The answers as if candidate i had been candidate places[i]; keys that name no candidate stay."""
    return {
        key: RENAMED[key](value, places) if key in RENAMED and value is not None else value
        for key, value in answers.items()
    }


def rename_choice(choice: Any, places: Places) -> Any:
    """`choice`: an index, or a word that names no candidate."""
    return places[choice] if isinstance(choice, int) else choice


def rename_aspects(aspects: dict[str, Answers], places: Places) -> dict[str, Answers]:
    """`aspects`: a choice in each respect."""
    return {
        name: answer | {"choice": rename_choice(answer["choice"], places)} for name, answer in aspects.items()
    }


def rename_ranking(ranking: list[list[int]], places: Places) -> list[list[int]]:
    """`ranking`: ranks best first; within one, candidates by their number."""
    return [sorted(places[index] for index in rank) for rank in ranking]


def rename_list(values: list[Any], places: Places) -> list[Any]:
    """`ratings`, `thumbs`, `rubric`, `corrections`: an entry for each candidate.

    Some files have rubrics that are about no candidate; those stay as they are.
    """
    if len(values) != len(places):
        return values
    renamed = list(values)
    for index, value in enumerate(values):
        renamed[places[index]] = value
    return renamed


def rename_marks(marks: list[Answers], places: Places) -> list[Answers]:
    """`marks`: each in one candidate; sorted by candidate and place."""
    return sorted_marks([mark | {"candidate": places[mark["candidate"]]} for mark in marks])


def rename_turns(turns: list[Answers], places: Places) -> list[Answers]:
    """`turns`: a choice at each of the assistant's turns."""
    return [turn | {"choice": rename_choice(turn["choice"], places)} for turn in turns]


def sorted_marks(marks: list[Answers]) -> list[Answers]:
    """By candidate, kind and place, then by what is said there."""

    def key(mark: Answers) -> tuple[Any, ...]:
        place = [mark.get("step"), mark.get("start"), mark.get("end")]
        numbers = [-1 if number is None else number for number in place]
        words = [str(mark.get(name, "")) for name in ("category", "severity")]
        return mark["candidate"], mark["type"], numbers, mark.get("box") or mark.get("point") or [], words

    return sorted(marks, key=key)


RENAMED: Final[dict[str, Callable[[Any, Places], Any]]] = {
    "choice": rename_choice,
    "aspects": rename_aspects,
    "ranking": rename_ranking,
    "ratings": rename_list,
    "thumbs": rename_list,
    "rubric": rename_list,
    "corrections": rename_list,
    "marks": rename_marks,
    "turns": rename_turns,
}
