"""Duels: a person asks two models that are not named, judges their answers, and learns whose they were.

Both answer in generation runs of their own; what they wrote becomes a held-out comparison in the hands of
the asker alone (`annotation.services.duels`), judged like any other. Nothing here tells who the two are: that
is for whoever has seen `is_judged`.
"""

import random
import secrets
from collections.abc import Iterable
from contextlib import suppress
from datetime import datetime, timedelta
from typing import Any, Final

from django.conf import settings
from django.db import transaction
from django.db.models import Q
from django.utils.translation import gettext as _

from annotation.errors import Conflict, Invalid, TooMany
from annotation.models import Lease, Project, User
from annotation.permissions import Action, find
from annotation.services import check_may_ask, lease_alone, limits, take_away
from annotation.services.duels import KEPT
from training.models import Arena, Contender, Duel, DuelTurn, Run
from training.services.arena import draw
from training.services.creating import MAX_SEED, cancel_run
from training.services.jobs import content_of, create_generation
from training.services.results import open_result, rows_of

MOST_CHARACTERS: Final = 8000
MOST_TURNS: Final = 10
ENDED_BADLY: Final = (Run.Status.FAILED, Run.Status.CANCELLED)


def ask(
    *, project: Project, user: User, prompt: str, now: datetime, generator: random.Random | None = None
) -> Duel:
    """Put a prompt to two models of the project's arena. A duel that this person left open is abandoned."""
    check_may_ask(project=project, user=user)
    message = _checked(prompt)
    arena = Arena.objects.filter(project=project).first()
    if arena is None or not arena.is_open:
        raise Conflict(_("The arena of this project is closed."))
    _count(user)
    generator = generator or random.SystemRandom()
    with transaction.atomic():
        arena = Arena.objects.select_for_update(no_key=True).get(pk=arena.pk)
        for earlier in open_duels(arena, user):
            with suppress(Conflict):  # judged at this moment
                _abandon(_held(earlier))
        left, right = draw(arena, generator=generator)
        duel = Duel.objects.create(
            arena=arena,
            asker=user,
            left=left,
            right=right,
            left_index=generator.randrange(2),
            created_at=now,
        )
        DuelTurn.objects.create(duel=duel, number=0, message=message, **_start_runs(duel, [], message))
    return duel


def say_more(*, duel: Duel, user: User, message: str) -> Duel:
    """Go on with the conversation: each model gets the message behind its own answers so far."""
    said = _checked(message)
    if duel.arena.project.modality != Project.Modality.TEXT:
        raise Conflict(_("Pictures are judged after one prompt; ask anew for others."))
    check_may_ask(project=duel.arena.project, user=user)
    _count(user)
    with transaction.atomic():
        held = _held(duel)
        turns = list(held.turns.order_by("number"))
        if held.status != Duel.Status.READY or held.lease is None:
            raise Conflict(_("Wait until both answers are there."))
        if len(turns) >= MOST_TURNS:
            raise Conflict(
                _("A conversation has %(most)s turns at most; judge it now.") % {"most": MOST_TURNS}
            )
        take_away(lease=held.lease)
        held.lease, held.status = None, Duel.Status.GENERATING
        held.save(update_fields=["lease", "status"])
        DuelTurn.objects.create(duel=held, number=len(turns), message=said, **_start_runs(held, turns, said))
    return held


def try_again(*, duel: Duel, user: User) -> Duel:
    """Have the same two models answer once more, after one of them could not."""
    check_may_ask(project=duel.arena.project, user=user)
    _count(user)
    with transaction.atomic():
        held = _held(duel)
        if held.status != Duel.Status.FAILED:
            raise Conflict(_("There is nothing to try again."))
        *before, last = held.turns.order_by("number")
        for name, run in _start_runs(held, before, last.message).items():
            setattr(last, name, run)
        last.save(update_fields=["left_run", "right_run"])
        held.status = Duel.Status.GENERATING
        held.save(update_fields=["status"])
    return held


def abandon(*, duel: Duel) -> None:
    """Leave a duel without a judgement: its runs end, and its comparison goes. Conflict if it is judged."""
    with transaction.atomic():
        _abandon(_held(duel))


def duel_of(*, pk: int, user: User, action: Action = Action.JUDGE) -> Duel:
    """A duel of this person's own; anybody else's does not exist for them."""
    rows = Duel.objects.select_related(
        "arena__project", "left__base", "right__base", "lease__judgement", "lease__comparison"
    )
    return find(rows, user, action, pk=pk, asker=user)


def open_duels(arena: Arena, user: User) -> list[Duel]:
    """What this person has begun and neither judged nor left; the newest first."""
    begun = Duel.objects.filter(arena=arena, asker=user).exclude(status=Duel.Status.ABANDONED)
    unanswered = Q(status__in=[Duel.Status.GENERATING, Duel.Status.FAILED])
    rows = begun.filter(unanswered | Q(lease__state=Lease.State.OPEN))
    return list(rows.order_by("-created_at", "-pk"))


def can_be_judged(duel: Duel) -> bool:
    """Whether both answers are there and wait for the asker."""
    return duel.lease is not None and duel.lease.state == Lease.State.OPEN


def is_judged(duel: Duel) -> bool:
    """Whether the asker has judged, so that they may know which models these were."""
    return duel.lease is not None and hasattr(duel.lease, "judgement")


def belongs_to_duel(run: Run) -> bool:
    """Whether somebody waits for this run in an arena."""
    return DuelTurn.objects.filter(Q(left_run=run.pk) | Q(right_run=run.pk)).exists()


def advance_duels(*, now: datetime) -> int:
    """Turn answers that are there into comparisons; how many duels went on."""
    waiting = Duel.objects.filter(status=Duel.Status.GENERATING)
    count = 0
    for pk in waiting.order_by("pk").values_list("pk", flat=True):
        with transaction.atomic():
            duel = waiting.select_for_update(skip_locked=True, no_key=True).filter(pk=pk).first()
            count += duel is not None and _advance(duel, now=now)
    return count


def forget_duels(*, now: datetime) -> int:
    """Abandon what nobody has judged for a day; how many."""
    old = Duel.objects.filter(created_at__lt=now - KEPT - timedelta(hours=1), lease__judgement=None)
    count = 0
    for duel in old.exclude(status=Duel.Status.ABANDONED).order_by("pk"):
        abandon(duel=duel)
        count += 1
    return count


def _advance(duel: Duel, *, now: datetime) -> bool:
    turn = duel.turns.select_related("left_run", "right_run").order_by("-number")[0]
    runs = [turn.left_run, turn.right_run]
    if any(run.status in ENDED_BADLY for run in runs):
        cancel_unfinished(runs)
        return _fail(duel)
    if any(run.status != Run.Status.DONE for run in runs):
        return False
    answers = [answer for answer in map(_answer_of, runs) if answer is not None]
    if len(answers) < len(runs):
        return _fail(duel)
    turn.left_answer, turn.right_answer = (answer.get("text") for answer in answers)
    turn.save(update_fields=["left_answer", "right_answer"])
    duel.lease = _hand_over(duel, answers, now=now)
    duel.status = Duel.Status.READY
    duel.save(update_fields=["lease", "status"])
    return True


def _fail(duel: Duel) -> bool:
    duel.status = Duel.Status.FAILED
    duel.save(update_fields=["status"])
    return True


def _hand_over(duel: Duel, answers: list[Any], *, now: datetime) -> Lease:
    """The comparison of all that the two said, in the asker's hands."""
    turns = list(duel.turns.order_by("number"))
    candidates = []
    for side, contender, answer in zip(("left", "right"), (duel.left, duel.right), answers, strict=True):
        content = answer if "image" in answer else {"text": _said(turns, side)}
        candidates.append({**content, "source": contender.name})
    if duel.left_index:
        candidates.reverse()
    group = {"prompt": turns[0].message, "candidates": candidates, "meta": {"duel": duel.pk}}
    return lease_alone(project=duel.arena.project, user=duel.asker, group=group, now=now)


def _said(turns: list[DuelTurn], side: str) -> Any:
    """All behind the first message: a text, or from the second turn on the messages."""
    messages = _conversation(turns, side)[1:]
    return messages[0]["content"] if len(messages) == 1 else messages


def _conversation(turns: list[DuelTurn], side: str) -> list[dict[str, str]]:
    messages = []
    for turn in turns:
        messages.append({"role": "user", "content": turn.message})
        messages.append({"role": "assistant", "content": getattr(turn, f"{side}_answer")})
    return messages


def _start_runs(duel: Duel, before: list[DuelTurn], message: str) -> dict[str, Run]:
    """A generation by each of the two, whose seeds differ."""
    runs = {}
    for side, contender in (("left", duel.left), ("right", duel.right)):
        prompt = [*_conversation(before, side), {"role": "user", "content": message}] if before else message
        runs[f"{side}_run"] = _generate(duel.arena, contender, prompt)
    return runs


def _generate(arena: Arena, contender: Contender, prompt: Any) -> Run:
    try:
        return create_generation(
            by=arena.managed_by,
            project=arena.project,
            base=contender.name,
            prompts=[prompt],
            config=arena.config,
            seed=secrets.randbelow(MAX_SEED),
        )
    except Invalid:
        raise Conflict(
            _("One of the models cannot answer just now. Ask again; the project's managers can look into it.")
        ) from None


def _answer_of(run: Run) -> dict[str, Any] | None:
    """{"text"} or {"image": Media}; None where the model could not take the prompt."""
    with open_result(run) as result:
        row = next(rows_of(result, "generations.jsonl"), None)
        return None if row is None else content_of(result, row["candidates"][0])


def _abandon(duel: Duel) -> None:
    """Of a locked duel."""
    if duel.lease is not None:
        take_away(lease=duel.lease)
    for turn in duel.turns.select_related("left_run", "right_run"):
        cancel_unfinished([turn.left_run, turn.right_run])
    duel.lease, duel.status = None, Duel.Status.ABANDONED
    duel.save(update_fields=["lease", "status"])


def cancel_unfinished(runs: Iterable[Run]) -> None:
    for run in runs:
        if run.status not in Run.ENDED:
            with suppress(Conflict):  # ended at this moment
                cancel_run(run=run)


def _held(duel: Duel) -> Duel:
    """The row, locked until the end of the transaction."""
    rows = Duel.objects.select_for_update(no_key=True, of=("self",))
    return rows.select_related("arena__project", "arena__managed_by", "lease").get(pk=duel.pk)


def _checked(message: str) -> str:
    text = message.strip()
    if not text or len(text) > MOST_CHARACTERS:
        problem = _("must have 1 to %(most)s characters.") % {"most": MOST_CHARACTERS}
        raise Invalid({"prompt": problem})
    if "\x00" in text:
        raise Invalid({"prompt": _("contains a NUL character")})
    return text


def _count(user: User) -> None:
    """Each question costs two runs. Outside of transactions: see `limits`."""
    rate = settings.RATE_LIMITS.get("arena")
    if rate is None:
        return
    counted = limits.count(what="arena", who=f"user {user.pk}", rate=limits.Rate(*rate))
    if not counted.is_within:
        wait = int(counted.wait) + 1
        raise TooMany(
            _("You have asked often in a short time; the next question can be asked in %(n)s seconds.")
            % {"n": wait},
            wait=wait,
        )
