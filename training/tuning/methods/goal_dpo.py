"""Reward-augmented DPO (Zhang et al., arXiv:2410.08067): a goal in the prompt, and both answers are right
once.

1. A rated pair (w, l) becomes two: for the goal r_w the answer w is preferred, for the goal r_l the answer l.
   The goal, from 1 to 10, stands in the system prompt, for policy and reference alike. Pairs whose chosen
   answer is rated below the other are left out.
2. DPO on these, with any of its losses and options.
"""

from collections.abc import Sequence
from typing import Any

from training.tuning.config import GoalDPOConfig
from training.tuning.data import Group, Judgement, Message, Text, turns_of
from training.tuning.errors import BadInput
from training.tuning.labels import make_scores
from training.tuning.methods import dpo
from training.tuning.pairs import make_pairs
from training.tuning.run import Run


def train(run: Run) -> None:
    """Train a policy on preferences under goals. See the module for the steps."""
    augment(run)
    dpo.train(run)


def inspect(run: Run) -> dict[str, Any]:
    """The data as ``train`` will see it."""
    augment(run)
    return dpo.inspect(run)


def augment(run: Run) -> None:
    """Put the pairs with their goals in the place of the run's rows."""
    run.train = with_goals(run.train, run.config)
    run.eval = with_goals(run.eval, run.config)
    if not run.train:
        raise BadInput("no row has a judged pair whose answers are rated", file=run.dir.train_file)


def with_goals(groups: Sequence[Group], config: GoalDPOConfig) -> list[Group]:
    """Two groups for every pair of rated answers, one for the rating of each."""
    found = []
    for group in groups:
        scores = make_scores(group, config)
        for pair in make_pairs(group, config):
            chosen, rejected = scores[pair.chosen], scores[pair.rejected]
            if chosen is None or rejected is None or chosen < rejected or pair.target <= 0.5:
                continue
            candidates = [group.candidates[pair.chosen], group.candidates[pair.rejected]]
            for preferred, score in enumerate((chosen, rejected)):
                changes = {
                    "prompt": with_goal(group.prompt, 1 + 9 * score, config.goal_text),
                    "candidates": candidates,
                    "judgements": [Judgement(choice=preferred)],
                    "meta": {},
                }
                found.append(group.model_copy(update=changes))
    return found


def with_goal(prompt: Text, goal: float, text: str) -> list[Message]:
    """The prompt with the goal (1 to 10) in its system message."""
    named = text.replace("{goal}", f"{goal:g}")
    first, *others = turns_of(prompt)
    if first.role == "system":
        return [first.model_copy(update={"content": f"{first.words}\n{named}"}), *others]
    opening = Message(role="system", content=named, tools=first.tools)
    return [opening, first.model_copy(update={"tools": None}), *others]
