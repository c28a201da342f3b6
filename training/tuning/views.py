"""What of the judgements a method learns from, where its config asks for a part: the choices in one aspect,
the ratings, or the choices at each turn of a chat. Torch-free.

Each view turns groups into groups whose judgements say that part as choices and rankings, so that every
method reads them as it reads any other.
"""

from collections.abc import Iterable, Iterator
from itertools import pairwise
from typing import Any, Final

from training.tuning.data import Group, Judgement, Message, Text
from training.tuning.errors import BadInput

SILENT: Final[dict[str, Any]] = dict.fromkeys(["choice", "strength", "ranking", "thumbs", "ratings"])


def viewed(groups: list[Group], config: Any, *, must_say_something: bool) -> list[Group]:
    """The groups as the config's `aspect`, `rating_margin` or `turns` wants them; else as they are.

    Raises BadInput if nobody judged what is asked for and the groups must say something.
    """
    if (aspect := getattr(config, "aspect", None)) is not None:
        _need("judged the aspect", aspect, aspects_of(groups) if must_say_something else [aspect])
        return [in_aspect(group, aspect) for group in groups]
    if (margin := getattr(config, "rating_margin", None)) is not None:
        name = config.margin_rating
        known = ratings_of(groups)
        if must_say_something and not known:
            raise BadInput("rating_margin learns from ratings, and there are none in the data")
        _need("gave the rating", name, known if must_say_something else [name])
        return [by_rating(group, margin=margin, name=name) for group in groups]
    if getattr(config, "turns", False):
        if must_say_something and not any(one.turns for group in groups for one in group.judgements):
            raise BadInput("turns learns from choices at each turn, and there are none in the data")
        return [turn for group in groups for turn in at_turns(group)]
    return groups


def _need(did: str, name: str | None, known: list[str]) -> None:
    if name is not None and name not in known:
        raise BadInput(f'nobody {did} "{name}"; there are: {", ".join(known) or "none"}')


def in_aspect(group: Group, aspect: str) -> Group:
    """The group as if people had compared its candidates in this aspect alone."""
    judgements = []
    for judgement in group.judgements:
        found = (judgement.aspects or {}).get(aspect)
        about = {"choice": found.choice, "strength": found.strength} if found else {}
        judgements.append(judgement.model_copy(update=SILENT | about))
    return group.model_copy(update={"judgements": judgements})


def aspects_of(groups: Iterable[Group]) -> list[str]:
    """The aspects in which anybody compared candidates, sorted."""
    judged = (judgement.aspects or {} for group in groups for judgement in group.judgements)
    return sorted({name for aspects in judged for name in aspects})


def by_rating(group: Group, *, margin: float, name: str | None) -> Group:
    """The group as if every annotator had ranked its candidates by their own ratings.

    Candidates share a rank where none of the steps between them, in order, is larger than the margin; one
    without a rating has no rank. `name` is the rating that counts; None is the mean of each candidate's.
    """
    judgements = []
    for judgement in group.judgements:
        scores = [rating(ratings or {}, name) for ratings in judgement.ratings or []]
        ranking = _ranked({at: score for at, score in enumerate(scores) if score is not None}, margin)
        judgements.append(judgement.model_copy(update=SILENT | {"ranking": ranking}))
    return group.model_copy(update={"judgements": judgements})


def _ranked(scores: dict[int, float], margin: float) -> list[list[int]] | None:
    """Tiers, the best first; None where there are not two to compare."""
    if len(scores) < 2:
        return None
    order = sorted(scores, key=lambda at: (-scores[at], at))
    tiers = [[order[0]]]
    for before, at in pairwise(order):
        if scores[before] - scores[at] > margin:
            tiers.append([])
        tiers[-1].append(at)
    return tiers


def rating(ratings: dict[str, Any], name: str | None) -> float | None:
    """One rating of a candidate, or the mean of all that are numbers."""
    if name is not None:
        value = ratings.get(name)
        return float(value) if isinstance(value, int | float) else None
    numbers = [float(value) for value in ratings.values() if isinstance(value, int | float)]
    return sum(numbers) / len(numbers) if numbers else None


def ratings_of(groups: Iterable[Group]) -> list[str]:
    """The names of the ratings that anybody gave, sorted."""
    given = (one for group in groups for judgement in group.judgements for one in judgement.ratings or [])
    return sorted({name for ratings in given for name in ratings or {}})


def at_turns(group: Group) -> Iterator[Group]:
    """A group for each turn of the assistant that was judged: what was said before it is the prompt.

    Only candidates in which everything before the turn is the same can be compared at it.
    """
    judged = {answer.turn for judgement in group.judgements for answer in judgement.turns or []}
    for turn in sorted(judged):
        alike: dict[str, tuple[list[Message], dict[int, Message]]] = {}
        for at, candidate in enumerate(group.candidates):
            if candidate.text is not None and (found := _turn(candidate.text, turn)) is not None:
                before, answer = found
                alike.setdefault(str(before), (before, {}))[1][at] = answer
        for before, answers in alike.values():
            if len({str(answer) for answer in answers.values()}) > 1:
                yield _at_turn(group, turn, before, answers)


def _turn(text: Text, turn: int) -> tuple[list[Message], Message] | None:
    """What comes before the assistant's turn of this number, and the turn; None if there is no such turn."""
    messages = _messages(text, "assistant")
    spoken = [at for at, message in enumerate(messages) if message.role == "assistant"]
    return (messages[: spoken[turn]], messages[spoken[turn]]) if turn < len(spoken) else None


def _messages(text: Text, role: str) -> list[Message]:
    return [Message(role=role, content=text)] if isinstance(text, str) else text


def _at_turn(group: Group, turn: int, before: list[Message], answers: dict[int, Message]) -> Group:
    places = {at: place for place, at in enumerate(answers)}
    prompt: Text = [*_messages(group.prompt, "user"), *before] if before else group.prompt
    candidates = [
        group.candidates[at].model_copy(update={"text": [answer]}) for at, answer in answers.items()
    ]
    judgements = [_judged_at(judgement, turn, places) for judgement in group.judgements]
    return Group(
        prompt=prompt, candidates=candidates, judgements=judgements, meta=group.meta, line=group.line
    )


def _judged_at(judgement: Judgement, turn: int, places: dict[int, int]) -> Judgement:
    """What it says about the candidates at these places at the turn, and nothing else."""
    said = next((answer.choice for answer in judgement.turns or [] if answer.turn == turn), None)
    choice = places.get(said) if isinstance(said, int) else said
    kept = judgement.model_dump(include={"annotator", "annotator_group", "kind", "seconds", "at", "context"})
    return Judgement(**kept, choice=choice)
