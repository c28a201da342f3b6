"""Rewards that depend on more than prompt and answer: what a judgement was asked to look at, or whose it is.

The condition stands in the prompt as text, before everything else (arXiv:2407.14916, arXiv:2310.05910): a
reward model that has read "Judge by: safety" learns two rewards in one. Torch-free.
"""

import json
from collections import defaultdict
from collections.abc import Iterator
from typing import Any

from training.tuning.data import Group, Judgement, Text
from training.tuning.rewards.info import Condition

OPENING = "Judge by: "


def with_context(group: Group, context: str | None) -> Group:
    """The group with the condition in its prompt; itself if there is none."""
    if context is None:
        return group
    return group.model_copy(update={"prompt": conditioned(group.prompt, context)})


def conditioned(prompt: Text, context: str) -> Text:
    """The prompt with the condition before it: on a line of its own, in the first turn's text."""
    opening = f"{OPENING}{context}\n\n"
    if isinstance(prompt, str):
        return opening + prompt
    return [prompt[0].opened_with(opening), *prompt[1:]]


def condition_of(judgement: Judgement, condition: Condition) -> str | None:
    """What a judgement depends on, as text; None if it says nothing of the kind."""
    value: Any = getattr(judgement, condition)
    if value is None or value == "":
        return None
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, sort_keys=True)


def split_by_condition(groups: list[Group], condition: Condition) -> list[Group]:
    """A group for every condition that its judgements were given under, with that in its prompt.

    Judgements that say nothing of the kind are left out; with ``none`` the groups come back as they are.
    """
    if condition == "none":
        return groups
    return [part for group in groups for part in _parts(group, condition)]


def _parts(group: Group, condition: Condition) -> Iterator[Group]:
    by_condition: dict[str, list[Judgement]] = defaultdict(list)
    for judgement in group.judgements:
        if (found := condition_of(judgement, condition)) is not None:
            by_condition[found].append(judgement)
    for context, judgements in by_condition.items():
        yield with_context(group.model_copy(update={"judgements": judgements}), context)
