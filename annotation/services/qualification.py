"""The test before the first work: comparisons with known answers, feedback after each, and a pass mark."""

from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any

from annotation.models import GoldAnswer, Judgement, Kind, Lease, Member, QualificationAttempt
from annotation.services.gold import is_right
from annotation.template import presented_answer


@dataclass(frozen=True)
class Result:
    """Of a finished attempt."""

    right: int
    total: int
    passed: bool
    attempts_left: int


def is_due(member: Member) -> bool:
    """Whether this member has to pass the test first."""
    return member.project.pass_mark is not None and member.qualified_at is None


def questions_of(project: int) -> list[GoldAnswer]:
    """The test's questions, in their order."""
    test = GoldAnswer.objects.filter(project=project, purpose=GoldAnswer.Purpose.QUALIFICATION)
    return list(test.order_by("pk"))


def next_question(member: Member, *, now: datetime) -> int | None:
    """The comparison that this (locked) member is to answer next; None: the attempts are used up, or all that
    is left of this one is in their hands."""
    attempt = _open_attempt(member, now=now)
    if attempt is None:
        return None
    had = set(_leases(member, attempt).filter(state__in=Lease.LIVE).values_list("comparison", flat=True))
    wanted = (gold.comparison_id for gold in questions_of(member.project_id))
    return next((comparison for comparison in wanted if comparison not in had), None)


def has_failed(member: Member) -> bool:
    """Whether all attempts were used and none was passed."""
    return is_due(member) and _attempts(member).filter(passed=False).count() >= member.project.test_attempts


def record(member: Member, judgement: Judgement, *, now: datetime) -> None:
    """End the (locked) member's attempt if this answer, not saved yet, is its last one.

    A passed test opens the work. After a failed one the answers no longer stand if there is another attempt.
    """
    attempt = _attempts(member).filter(finished_at=None).first()
    if attempt is None:
        return
    questions = {gold.comparison_id: gold for gold in questions_of(member.project_id)}
    earlier = Judgement.objects.standing().filter(
        lease__in=_leases(member, attempt), comparison__in=questions
    )
    given = [*earlier, judgement]
    if len({answer.comparison_id for answer in given}) < len(questions):
        return
    right = sum(_is_right(questions.get(answer.comparison_id), answer) for answer in given)
    attempt.right, attempt.total, attempt.finished_at = right, len(questions), now
    attempt.passed = right >= (member.project.pass_mark or 0.0) * len(questions)
    attempt.save(update_fields=["right", "total", "finished_at", "passed"])
    if attempt.passed:
        member.qualified_at = now
        member.save(update_fields=["qualified_at"])
    elif attempt.number < member.project.test_attempts:
        judgement.undone_at = now
        _take_back(member, now=now)


def feedback(judgement: Judgement) -> dict[str, Any] | None:
    """What an annotator is told after an answer of the test: whether it was right, what is right and why, and
    how the attempt ended if this was its last answer. None for every other kind of judgement."""
    if judgement.kind != Kind.QUALIFICATION:
        return None
    gold = GoldAnswer.objects.filter(comparison=judgement.comparison_id).first()
    if gold is None:
        return None
    ended = QualificationAttempt.objects.filter(
        project=gold.project_id, annotator=judgement.annotator_id, finished_at=judgement.created_at
    ).first()
    return {
        "right": _is_right(gold, judgement),
        "expected": presented_answer(gold.answer, judgement.order),
        "explanation": gold.explanation,
        "result": asdict(result_of(ended)) if ended is not None else None,
    }


def result_of(attempt: QualificationAttempt) -> Result:
    left = max(0, attempt.project.test_attempts - attempt.number)
    passed = bool(attempt.passed)
    return Result(attempt.right, attempt.total, passed, attempts_left=0 if passed else left)


def _is_right(gold: GoldAnswer | None, judgement: Judgement) -> bool:
    return gold is not None and is_right(gold, choice=judgement.choice, answers=judgement.answers)


def _attempts(member: Member) -> Any:
    return QualificationAttempt.objects.filter(project=member.project_id, annotator=member.user_id)


def _open_attempt(member: Member, *, now: datetime) -> QualificationAttempt | None:
    attempts = list(_attempts(member).order_by("number"))
    if attempts and attempts[-1].finished_at is None:
        return attempts[-1]
    if len(attempts) >= member.project.test_attempts:
        return None
    _take_back(member, now=now)  # of attempts that were the last ones when they ended
    return QualificationAttempt.objects.create(
        project_id=member.project_id,
        annotator_id=member.user_id,
        number=len(attempts) + 1,
        started_at=now,
    )


def _take_back(member: Member, *, now: datetime) -> None:
    """The answers of earlier attempts no longer stand, so that the questions can be asked again."""
    mine = {"annotator": member.user_id, "comparison__project": member.project_id, "kind": Kind.QUALIFICATION}
    Judgement.objects.standing().filter(**mine).update(undone_at=now)
    Lease.objects.filter(**mine, state=Lease.State.JUDGED).update(state=Lease.State.UNDONE)


def _leases(member: Member, attempt: QualificationAttempt) -> Any:
    return Lease.objects.filter(
        annotator=member.user_id,
        kind=Kind.QUALIFICATION,
        comparison__project=member.project_id,
        created_at__gte=attempt.started_at,
    )
