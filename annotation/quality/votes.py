"""What the judgements of one comparison say, whatever the questions were: values that can be compared.

A value's name is the question, and for questions that ask several things which of them: `choice`, `strength`,
`aspects.clarity`, `ranking#0-2`, `ratings.helpfulness#1`, `thumbs#0`, `rubric.cites#1`, `tags.wrong`,
`turns#3`. What stands before `#` is the *question* that agreement is reported for.
"""

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations
from typing import Any, Final

from annotation.quality.agreement import Level, Value

TIE, BOTH_BAD = "tie", "both_bad"
MEASURED: Final = ("choice", "ranking", "ratings", "thumbs", "aspects", "turns", "rubric", "tags")
LEVELS: Final[dict[str, Level]] = {"strength": "ordinal", "ranking": "ordinal", "ratings": "interval"}
Pair = tuple[int, int, float]  # candidates i and j, and how much of a win it is for i: 1, ½ or 0


@dataclass(frozen=True)
class Vote:
    """One standing judgement. `position` is where the chosen candidate was shown; None if none or unknown."""

    id: int
    annotator: int
    kind: str
    values: dict[str, Value]
    position: int | None = None
    seconds: float | None = None

    @property
    def key(self) -> str | None:
        """What was pressed, as far as it is known: the same for two answers that look the same to a hand."""
        if self.position is not None:
            return f"{self.position}:{abs(int(self.values.get('strength', 0)))}"
        choice = self.values.get("choice")
        return choice if isinstance(choice, str) else None


@dataclass(frozen=True)
class Unit:
    """One comparison with everything that statistics read of it.

    `main` is the question whose answers stand for the judgement, `gold` holds the values known to be right.
    """

    main: str
    sources: tuple[str, ...]
    lengths: tuple[int | None, ...]
    votes: tuple[Vote, ...]
    gold: dict[str, Value] = field(default_factory=dict)

    def as_data(self) -> list[Any]:
        votes = [[v.id, v.annotator, v.kind, v.values, v.position, v.seconds] for v in self.votes]
        return [self.main, list(self.sources), list(self.lengths), votes, self.gold]

    @classmethod
    def from_data(cls, data: Sequence[Any]) -> "Unit":
        main, sources, lengths, votes, gold = data
        return cls(main, tuple(sources), tuple(lengths), tuple(Vote(*vote) for vote in votes), gold)


def question_of(name: str) -> str:
    return name.split("#", 1)[0]


def family_of(name: str) -> str:
    return question_of(name).split(".", 1)[0]


def level_of(question: str) -> Level:
    return LEVELS.get(family_of(question), "nominal")


def main_question(types: Collection[str]) -> str:
    """The question type whose answers stand for the whole judgement; `choice` where the template has it."""
    return next((name for name in MEASURED if name in types), "choice")


def read_values(
    *,
    choice: object,
    strength: int | None,
    answers: Mapping[str, Any],
    candidates: int,
    tags: Collection[str] = (),
) -> dict[str, Value]:
    """The values of one judgement in canonical indices; `tags` are all that its template offered."""
    values: dict[str, Value] = {}
    if isinstance(choice, int | str):
        values["choice"] = choice
    signed = _signed_strength(choice, strength) if candidates == 2 else None
    if signed is not None:
        values["strength"] = signed
    for name, given in (answers.get("aspects") or {}).items():
        values[f"aspects.{name}"] = given["choice"]
    values |= {
        f"ranking#{i}-{j}": sign for (i, j), sign in _ranked_pairs(answers.get("ranking") or []).items()
    }
    for index, given in enumerate(answers.get("ratings") or []):
        values |= {f"ratings.{name}#{index}": value for name, value in (given or {}).items()}
    for index, thumb in enumerate(answers.get("thumbs") or []):
        if thumb is not None:
            values[f"thumbs#{index}"] = int(thumb)
    for index, given in enumerate(answers.get("rubric") or []):
        values |= {f"rubric.{name}#{index}": int(ticked) for name, ticked in (given or {}).items()}
    if tags or "tags" in answers:
        chosen = set(answers.get("tags") or [])
        values |= {f"tags.{name}": int(name in chosen) for name in sorted({*tags, *chosen})}
    for given in answers.get("turns") or []:
        values[f"turns#{given['turn']}"] = given["choice"]
    return {name: value for name, value in values.items() if value is not None}


def _signed_strength(choice: object, strength: int | None) -> int | None:
    """−3 (the first much better) … 0 (tie) … 3 (the second much better); "both bad" is not on this scale."""
    if choice == TIE:
        return 0
    if isinstance(choice, int) and strength is not None:
        return strength if choice == 1 else -strength
    return None


def _ranked_pairs(ranking: Sequence[Sequence[int]]) -> dict[tuple[int, int], int]:
    """For each two ranked candidates i < j: −1 where i is better, 0 where they are tied, 1 where j is."""
    rank = {index: place for place, group in enumerate(ranking) for index in group}
    return {(i, j): (rank[i] > rank[j]) - (rank[i] < rank[j]) for i, j in combinations(sorted(rank), 2)}


def pairwise(values: Mapping[str, Value], candidates: int) -> Iterator[Pair]:
    """The comparisons of two candidates that a judgement implies, from the first question that implies any.

    A choice beats every other candidate; "tie" and "both bad" tie all; a ranking orders its pairs; ratings
    and thumbs compare the candidates' means.
    """
    ranked = [name for name in values if name.startswith("ranking#")]
    choice = values.get("choice")
    if ranked:
        for name in ranked:
            i, j = map(int, name.removeprefix("ranking#").split("-"))
            yield i, j, 0.5 - float(values[name]) / 2
    elif isinstance(choice, int):
        for other in range(candidates):
            if other != choice:
                yield (choice, other, 1.0) if choice < other else (other, choice, 0.0)
    elif choice in (TIE, BOTH_BAD):
        yield from ((i, j, 0.5) for i, j in combinations(range(candidates), 2))
    else:
        scores = _mean_scores(values, candidates)
        for i, j in combinations(sorted(scores), 2):
            yield i, j, 0.5 + 0.5 * ((scores[i] > scores[j]) - (scores[i] < scores[j]))


def _mean_scores(values: Mapping[str, Value], candidates: int) -> dict[int, float]:
    families = {family_of(name) for name in values if "#" in name}
    family = next((name for name in ("ratings", "thumbs", "rubric") if name in families), None)
    scores: dict[int, list[float]] = {}
    for name, value in values.items():
        if family is not None and family_of(name) == family:
            scores.setdefault(int(name.split("#", 1)[1]), []).append(float(value))
    return {index: sum(found) / len(found) for index, found in scores.items() if index < candidates}
