"""What the pages and the API show of duels. Names are for those who have judged."""

from dataclasses import dataclass
from typing import Any, Final

from django.utils.translation import gettext as _

from annotation.models import User
from training.models import Arena, Duel, Run

DUELS_SHOWN: Final = 20


@dataclass(frozen=True)
class Outcome:
    """Of a judged duel, by presented positions: the models' names, what was chosen, and in words."""

    names: list[str]
    choice: int | str | None
    sentence: str


def judged_duels_of(arena: Arena, user: User) -> list[tuple[Duel, Outcome]]:
    """What this person judged last, newest first."""
    rows = Duel.objects.filter(arena=arena, asker=user).judged().order_by("-created_at", "-pk")
    rows = rows.select_related("left__base", "right__base", "lease__judgement", "lease__comparison")
    return [(duel, outcome_of(duel)) for duel in rows[:DUELS_SHOWN]]


def outcome_of(duel: Duel) -> Outcome:
    """Only for who has judged: see `services.is_judged`."""
    assert duel.lease is not None
    canonical = [duel.left.name, duel.right.name]
    if duel.left_index:
        canonical.reverse()
    names = [canonical[index] for index in duel.lease.order]
    choice = duel.lease.judgement.choice
    if isinstance(choice, int):
        position = duel.lease.order.index(choice)
        said = {"winner": names[position], "loser": names[1 - position]}
        return Outcome(names, position, _("You preferred %(winner)s to %(loser)s.") % said)
    pair = {"one": names[0], "other": names[1]}
    if choice is None:  # where the template lets it be left out
        return Outcome(names, None, " · ".join(names))
    if choice == "both_bad":
        return Outcome(names, choice, _("You found both %(one)s and %(other)s bad.") % pair)
    return Outcome(names, choice, _("You found %(one)s and %(other)s equal.") % pair)


def duel_progress(duel: Duel) -> dict[str, Any]:
    """How far the two answers are, taken together so that it does not tell which model is slower."""
    turns = list(duel.turns.select_related("left_run", "right_run").order_by("number"))
    runs = [turns[-1].left_run, turns[-1].right_run]
    done = sum(run.status == Run.Status.DONE for run in runs)
    waiting = all(run.status in (Run.Status.PREPARING, Run.Status.QUEUED) for run in runs)
    return {"duel": duel, "message": turns[-1].message, "done": done, "waiting": waiting}
