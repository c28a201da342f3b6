"""The arena of a project: which models answer in it, which two are asked, and how they stand."""

import random
from collections import Counter
from collections.abc import Iterable, Sequence
from itertools import combinations
from typing import Any, Final

from django.db import transaction
from django.utils.translation import gettext as _

from annotation.errors import Conflict, Invalid
from annotation.models import Project, User
from annotation.quality.counts import Key, weighted_results
from annotation.quality.leaderboard import Leaderboard, leaderboard
from annotation.template import find_question
from training.models import Arena, Contender, Duel
from training.services import naming
from training.services.creating import check_config
from training.services.jobs import GENERATE

MOST_MODELS: Final = 20
FIXED: Final = ("samples_per_prompt", "best_of", "search")  # one answer each, the model's own


@transaction.atomic
def set_arena(
    *,
    by: User,
    project: Project,
    models: Sequence[str],
    is_open: bool = True,
    config: dict[str, Any] | None = None,
) -> Arena:
    """Make a project's arena, or change who takes part, whether it is open and how its models answer.

    `models` are named as bases of runs are; without `config` it stays as it is. Models that leave keep what
    was said about them. Whoever changes it last is in whose name the models run.
    """
    if find_question(project.questions, "choice") is None:
        raise Invalid({"models": _("In an arena people choose an answer; this project asks for no choice.")})
    wanted = list(dict.fromkeys(models))
    if not 2 <= len(wanted) <= MOST_MODELS:
        raise Invalid({"models": _("Name two to %(most)s different models.") % {"most": MOST_MODELS}})
    method = naming.method_for(project, GENERATE[project.modality], purpose="job")
    bases = [naming.find_base(by=by, name=name, method=method, field="models") for name in wanted]
    values: dict[str, Any] = {"is_open": is_open, "managed_by": by}
    if config is not None:
        _check_config(project, config)
        values["config"] = config
    arena, _made = Arena.objects.update_or_create(project=project, defaults=values)
    arena.contenders.update(is_active=False)
    for base in bases:
        Contender.objects.update_or_create(arena=arena, **base, defaults={"is_active": True})
    return arena


def _check_config(project: Project, config: dict[str, Any]) -> None:
    method = naming.method_for(project, GENERATE[project.modality], purpose="job")
    check_config(method, config)
    for key in FIXED:
        if key in config:
            message = _("cannot be set here: in an arena each model gives one answer of its own.")
            raise Invalid({f"config.{key}": message})


def contenders_of(arena: Arena) -> list[Contender]:
    """Who takes part now, by number."""
    return list(arena.contenders.filter(is_active=True).select_related("base").order_by("pk"))


def draw(arena: Arena, *, generator: random.Random) -> tuple[Contender, Contender]:
    """Two different contenders in random order: the two that met least; of those the two with the fewest
    duels, and of these any. Call it with the arena locked.
    """
    active = contenders_of(arena)
    if len(active) < 2:
        raise Conflict(_("Fewer than two models take part in this arena."))
    met: Counter[frozenset[int]] = Counter()
    duels: Counter[int] = Counter()
    counted = arena.duels.exclude(status=Duel.Status.ABANDONED)
    for left, right in counted.values_list("left", "right"):
        met[frozenset((left, right))] += 1
        duels.update((left, right))

    def order(pair: Iterable[Contender]) -> tuple[int, int, float]:
        first, second = (one.pk for one in pair)
        return met[frozenset((first, second))], duels[first] + duels[second], generator.random()

    chosen = list(min(combinations(active, 2), key=order))
    generator.shuffle(chosen)
    return chosen[0], chosen[1]


def standings(arena: Arena) -> Leaderboard | None:
    """Points of the models with intervals, from this arena's judgements alone. "Both bad" counts as a tie,
    as on the project's leaderboard. None before the first judgement.
    """
    judged = Duel.objects.filter(arena=arena).judged()
    rows = judged.values_list("lease__comparison", "lease__judgement__choice", "left_index", "left", "right")
    names = {one.pk: one.name for one in arena.contenders.select_related("base")}
    changes = [
        (comparison, Counter({_result(choice, left_index, names[left], names[right]): 1}))
        for comparison, choice, left_index, left, right in rows.order_by("pk")
        if choice is not None
    ]
    return leaderboard(dict(weighted_results(changes))) if changes else None


def _result(choice: Any, left_index: int, left: str, right: str) -> Key:
    """As `annotation.quality.counts.source_results` has it, without lengths."""
    first, second = sorted((left, right))
    if not isinstance(choice, int):
        return first, second, "tied", 0
    winner = left if choice == left_index else right
    return first, second, "won" if winner == first else "lost", 0
