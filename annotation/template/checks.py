"""Whether each answer fits its question: one function per kind. They yield (path, message) for what is wrong.

Candidates are presented positions here, and the answers have their shapes (`annotation.template.shapes`).
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Final

from django.utils.translation import gettext as _

from annotation.template.questions import (
    BOTH_BAD,
    MOST_RANKED,
    TIE,
    AspectsQuestion,
    ChoiceQuestion,
    CorrectionQuestion,
    CritiqueQuestion,
    MarksQuestion,
    RankingQuestion,
    RatingsQuestion,
    RubricQuestion,
    TagsQuestion,
    ThumbsQuestion,
    TurnsQuestion,
)
from annotation.template.texts import Text, plain_text, steps_of, turns_of

Problems = Iterator[tuple[str, str]]
Answers = dict[str, Any]
EDGE: Final = 1e-6  # by which a box may stick out of its picture through rounding


@dataclass(frozen=True)
class Shown:
    """What is judged: so many candidates, and their texts in presented order, read when they are needed."""

    candidates: int
    load_texts: Callable[[], list[Text]]

    @cached_property
    def texts(self) -> list[Text]:
        return self.load_texts()

    @cached_property
    def lengths(self) -> list[int]:
        return [len(plain_text(text)) for text in self.texts]

    @cached_property
    def steps(self) -> list[int]:
        return [len(steps_of(text)) for text in self.texts]

    @cached_property
    def shared_turns(self) -> int:
        """How many of the assistant's turns at least two candidates have."""
        return sorted((turns_of(text) for text in self.texts), reverse=True)[1]


def check_choice(question: ChoiceQuestion, given: Answers, shown: Shown) -> Problems:
    choice, strength = given.get("choice"), given.get("strength")
    words = [word for word, offered in ((TIE, question.tie), (BOTH_BAD, question.both_bad)) if offered]
    yield from _check_pick("choice", choice, shown, words)
    yield from _check_strength("strength", choice, strength, question.strength)
    if question.worst:
        yield from _check_best_worst(choice, given.get("ranking"), shown)


def _check_best_worst(choice: object, ranking: list[list[int]] | None, shown: Shown) -> Problems:
    """Best–worst is the ranking [[best], [all others], [worst]]; with two candidates there are no others."""
    if not isinstance(choice, int):
        if ranking is not None:
            yield "ranking", _('must be left out with "%(choice)s".') % {"choice": choice}
        return
    ends = [] if ranking is None else [rank for rank in (ranking[:1] + ranking[-1:]) if len(rank) == 1]
    others = set(range(shown.candidates)) - {rank[0] for rank in ends}
    middle = [sorted(others)] if others else []
    wanted = [ends[0], *middle, ends[-1]] if len(ends) == 2 else None
    if wanted is None or [sorted(rank) for rank in ranking or []] != wanted or ends[0] != [choice]:
        yield "ranking", _("must be the best one, then all others, then the worst: [[best], […], [worst]].")


def check_aspects(question: AspectsQuestion, given: Answers, shown: Shown) -> Problems:
    answer = given["aspects"]
    names = [aspect.name for aspect in question.aspects]
    yield from _check_names("aspects", answer, names, question.required)
    for name, one in answer.items():
        if name in names:
            words = [TIE] if question.tie else []
            yield from _check_pick(f"aspects.{name}.choice", one["choice"], shown, words)
            path = f"aspects.{name}.strength"
            yield from _check_strength(path, one["choice"], one.get("strength"), question.strength)


def check_ranking(question: RankingQuestion, given: Answers, shown: Shown) -> Problems:
    ranking = given["ranking"]
    ranked = [position for rank in ranking for position in rank]
    if shown.candidates > MOST_RANKED:
        yield (
            "ranking",
            _("%(n)s candidates cannot be ranked; %(most)s at most.")
            % {
                "n": shown.candidates,
                "most": MOST_RANKED,
            },
        )
    for number, rank in enumerate(ranking):
        if len(rank) > 1 and not question.ties:
            yield f"ranking.{number}", _("has several candidates; each has a rank of its own here.")
    for position in ranked:
        if position >= shown.candidates:
            yield "ranking", _no_candidate(position, shown)
    if len(set(ranked)) != len(ranked):
        yield "ranking", _("names a candidate twice.")
    if not question.partial and len(set(ranked)) < shown.candidates:
        yield "ranking", _("must name every candidate.")
    if question.partial and len(ranked) < 2:
        yield "ranking", _("must name two candidates at least.")


def check_ratings(question: RatingsQuestion, given: Answers, shown: Shown) -> Problems:
    scales = {aspect.name: aspect for aspect in question.aspects}
    yield from _check_length("ratings", given["ratings"], shown)
    for position, ratings in enumerate(given["ratings"]):
        path = f"ratings.{position}"
        yield from _check_names(path, ratings, list(scales), question.required)
        for name, value in ratings.items():
            scale = scales.get(name)
            if scale is not None and not scale.min <= value <= scale.max:
                ends = {"min": scale.min, "max": scale.max}
                yield f"{path}.{name}", _("must be a number from %(min)s to %(max)s.") % ends


def check_thumbs(question: ThumbsQuestion, given: Answers, shown: Shown) -> Problems:
    yield from _check_length("thumbs", given["thumbs"], shown)
    for position, thumb in enumerate(given["thumbs"]):
        if thumb is None and question.required:
            yield f"thumbs.{position}", _("must be answered: 1 for good, 0 for bad.")


def check_rubric(question: RubricQuestion, given: Answers, shown: Shown) -> Problems:
    names = [criterion.name for criterion in question.criteria]
    yield from _check_length("rubric", given["rubric"], shown)
    for position, met in enumerate(given["rubric"]):
        yield from _check_names(f"rubric.{position}", met, names, question.required)


def check_tags(question: TagsQuestion, given: Answers, shown: Shown) -> Problems:
    known = [option.name for option in question.options]
    tags = given["tags"]
    for number, tag in enumerate(tags):
        if tag not in known:
            yield f"tags.{number}", _one_of(known)
        elif tag in tags[:number]:
            yield f"tags.{number}", _("is there twice.")


def check_critique(question: CritiqueQuestion, given: Answers, shown: Shown) -> Problems:
    n = len(given["critique"])
    if n < question.min_length:
        yield (
            "critique",
            _("has %(n)s characters; write at least %(least)s.") % {"n": n, "least": question.min_length},
        )
    if n > question.max_length:
        yield "critique", _("has %(n)s characters; %(most)s at most.") % {"n": n, "most": question.max_length}


def check_corrections(question: CorrectionQuestion, given: Answers, shown: Shown) -> Problems:
    yield from _check_length("corrections", given["corrections"], shown)


def check_marks(question: MarksQuestion, given: Answers, shown: Shown) -> Problems:
    marks = given["marks"]
    for number, mark in enumerate(marks):
        path = f"marks.{number}"
        if mark["type"] not in question.kinds:
            yield f"{path}.type", _one_of(question.kinds)
            continue
        if mark["candidate"] >= shown.candidates:
            yield f"{path}.candidate", _no_candidate(mark["candidate"], shown)
            continue
        yield from _check_place(path, mark, shown)
        for key, options in (("category", question.categories), ("severity", question.severities)):
            yield from _check_option(f"{path}.{key}", mark, key, [option.name for option in options])
        if mark in marks[:number]:
            yield path, _("is there twice.")
    yield from _check_first_errors(marks)


PLACES: Final = {"span": ("start", "end"), "box": ("box",), "point": ("point",), "step": ("step",)}


def _check_place(path: str, mark: Answers, shown: Shown) -> Problems:
    """The mark lies in its candidate, and says so in the words of its own kind."""
    wanted = PLACES[mark["type"]]
    if set(mark) == {"candidate", "type", "step"}:
        yield path, _("says nothing about the step; give it a category, or say that it is the first error.")
    for key in ("start", "end", "box", "point", "step", "first_error"):
        if key in wanted and key not in mark:
            yield f"{path}.{key}", _("is missing.")
        elif key in mark and key not in wanted and (key != "first_error" or mark["type"] != "step"):
            yield f"{path}.{key}", _("does not belong to a %(kind)s.") % {"kind": mark["type"]}
    if any(key not in mark for key in wanted):
        return
    if mark["type"] == "span":
        length = shown.lengths[mark["candidate"]]
        if not mark["start"] < mark["end"] <= length:
            said = _("%(start)s to %(end)s is no part of a text of %(length)s characters.")
            yield path, said % {"start": mark["start"], "end": mark["end"], "length": length}
    elif mark["type"] == "step":
        steps = shown.steps[mark["candidate"]]
        if mark["step"] >= steps:
            yield (
                f"{path}.step",
                _("%(step)s is no step; there are %(n)s, counted from 0.")
                % {
                    "step": mark["step"],
                    "n": steps,
                },
            )
    elif mark["type"] == "box":
        left, top, width, height = mark["box"]
        if not (width > 0 and height > 0 and left + width <= 1 + EDGE and top + height <= 1 + EDGE):
            yield f"{path}.box", _("must be left, top, width and height within the picture, in 0 to 1.")


def _check_first_errors(marks: list[Answers]) -> Problems:
    """What comes after the first error of a candidate is not labelled."""
    for number, mark in enumerate(marks):
        same = [other for other in marks if other["candidate"] == mark["candidate"] and "step" in other]
        errors = [other["step"] for other in same if other.get("first_error")]
        if "step" not in mark or not errors:
            continue
        if mark.get("first_error") and len(errors) > 1:
            yield (
                f"marks.{number}.first_error",
                _("is marked at %(n)s steps; only one is the first.") % {"n": len(errors)},
            )
        elif mark["step"] > min(errors):
            said = _("%(step)s comes after the first error, %(first)s; what follows is not labelled.")
            yield f"marks.{number}.step", said % {"step": mark["step"], "first": min(errors)}


def check_turns(question: TurnsQuestion, given: Answers, shown: Shown) -> Problems:
    seen = set()
    for number, answer in enumerate(given["turns"]):
        turn, path = answer["turn"], f"turns.{number}"
        if turn >= shown.shared_turns:
            yield (
                f"{path}.turn",
                _("%(turn)s is no turn; there are %(n)s, counted from 0.")
                % {
                    "turn": turn,
                    "n": shown.shared_turns,
                },
            )
            continue
        if turn in seen:
            yield f"{path}.turn", _("is there twice.")
        seen.add(turn)
        yield from _check_pick(f"{path}.choice", answer["choice"], shown, [TIE] if question.tie else [])
        chosen = answer["choice"] if isinstance(answer["choice"], int) else shown.candidates
        if chosen < shown.candidates and turn >= turns_of(shown.texts[chosen]):
            yield f"{path}.choice", _("This candidate has no such turn.")
    if question.required and len(seen) < shown.shared_turns:
        yield "turns", _("must name each of the %(n)s turns.") % {"n": shown.shared_turns}


def _check_pick(path: str, choice: object, shown: Shown, words: list[str]) -> Problems:
    if isinstance(choice, int) and not 0 <= choice < shown.candidates:
        yield path, _no_candidate(choice, shown)
    elif not isinstance(choice, int) and choice not in words:
        said = _("must be a position from 0 to %(last)s.")
        if words:
            said = _("must be a position from 0 to %(last)s, or one of %(words)s.")
        offered = ", ".join(f'"{word}"' for word in words)
        yield path, said % {"last": shown.candidates - 1, "words": offered}


def _check_strength(path: str, choice: object, strength: int | None, asked: bool) -> Problems:
    if strength is None:
        return
    if not asked:
        yield path, _("This project does not ask how much better the answer is.")
    elif not isinstance(choice, int):
        yield path, _('must be left out with "%(choice)s".') % {"choice": choice}


def _check_length(key: str, values: list[Any], shown: Shown) -> Problems:
    if len(values) != shown.candidates:
        yield key, _("has %(n)s entries for %(k)s candidates.") % {"n": len(values), "k": shown.candidates}


def _check_names(path: str, answer: Iterable[str], known: list[str], every: bool) -> Problems:
    for name in answer:
        if name not in known:
            yield f"{path}.{name}", _("is not asked here; asked: %(names)s.") % {"names": ", ".join(known)}
    if every:
        yield from ((f"{path}.{name}", _("must be answered.")) for name in known if name not in answer)


def _check_option(path: str, mark: Answers, key: str, known: list[str]) -> Problems:
    """Where a template has categories or severities, every mark names one; a first error needs none."""
    if key not in mark:
        if known and not mark.get("first_error"):
            yield path, _one_of(known)
    elif mark[key] not in known:
        yield path, _one_of(known) if known else _("is not asked here.")


def _one_of(known: Iterable[str]) -> str:
    return _("must be one of %(names)s.") % {"names": ", ".join(known)}


def _no_candidate(position: int, shown: Shown) -> str:
    return _("%(position)s is no candidate; the positions are 0 to %(last)s.") % {
        "position": position,
        "last": shown.candidates - 1,
    }


CHECKS: Final[dict[str, Callable[[Any, Answers, Shown], Problems]]] = {
    "choice": check_choice,
    "aspects": check_aspects,
    "ranking": check_ranking,
    "ratings": check_ratings,
    "thumbs": check_thumbs,
    "rubric": check_rubric,
    "tags": check_tags,
    "critique": check_critique,
    "correction": check_corrections,
    "marks": check_marks,
    "turns": check_turns,
}
