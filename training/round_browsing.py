"""What the pages of rounds read and say."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

from django.db.models import QuerySet
from django.utils.translation import gettext as _
from django.utils.translation import ngettext

from annotation.models import Project
from annotation.numbers import number, percent
from training import browsing
from training.models import Round, RoundStep
from training.services.naming import REWARD_MODELS
from training.tuning.registry import get_method


@dataclass(frozen=True)
class StepShown:
    """A step of a round, in words; `share` says how far what works on it is."""

    step: RoundStep
    title: str
    share: float | None
    sentences: list[str]


def steps_of(shown: Round) -> list[StepShown]:
    rows = shown.steps.select_related("run__checkpoint", "match")
    return [StepShown(step, _title_of(step), _share_done(step), _sentences_of(step)) for step in rows]


def _title_of(step: RoundStep) -> str:
    if step.kind == "train":
        return _(get_method(step.spec["method"]).title)
    return {
        "score": _("Score the queue"),
        "evaluate": _("Evaluate the reward"),
        "generate": _("Write answers"),
        "match": _("Compare blind"),
        "promote": _("Promote if it is better"),
    }[step.kind]


def _share_done(step: RoundStep) -> float | None:
    if step.status != RoundStep.Status.RUNNING:
        return None
    if step.run is not None:
        return step.run.step / step.run.total_steps if step.run.total_steps else None
    if step.match is not None:
        progress = browsing.match_progress(step.match)
        return progress["judged"] / progress["comparisons"] if progress["comparisons"] else None
    return None


def _sentences_of(step: RoundStep) -> list[str]:
    """What came out of a step that has ended."""
    result = step.result
    if result.get("why_not"):
        return why_not_of(result)
    if step.error:
        return [step.error]
    found = []
    if "first" in result:
        count = result["first"]
        text = ngettext(
            "%(count)s comparison is in the new order.", "%(count)s comparisons are in the new order.", count
        )
        found.append(text % {"count": count})
    if "added" in result:
        count = result["added"]
        text = ngettext("%(count)s comparison is queued.", "%(count)s comparisons are queued.", count)
        found.append(text % {"count": count})
    if "suggested" in result:
        count = result["suggested"]
        text = ngettext("%(count)s suggestion is stored.", "%(count)s suggestions are stored.", count)
        found.append(text % {"count": count})
    if result.get("rate") is not None:
        shares = {name: percent(result[name]) for name in ("rate", "low", "high")}
        found.append(_("The new model wins %(rate)s, %(low)s to %(high)s at any time.") % shares)
    if (agreement := _agreement_of(step)) is not None:
        found.append(_("The reward agrees with %(rate)s of the answers.") % {"rate": percent(agreement)})
    if result.get("promoted"):
        found.append(_("It is the project's champion now."))
    return found


def _agreement_of(step: RoundStep) -> float | None:
    """How often a reward agrees with people: one that was evaluated, or trained, on what it had not seen."""
    run = step.run
    if run is not None and run.method in REWARD_MODELS and hasattr(run, "checkpoint"):
        rate: float | None = browsing.accuracy_of(run.checkpoint).get("rate")
        return rate
    found: float | None = step.result.get("figures", {}).get("agreement")
    return found


def reason_of(shown: Round) -> str:
    """Why a round ended before its end: in the reader's language where nobody was to be promoted, in English
    where something failed, as workers write it.
    """
    if shown.status == Round.Status.STOPPED:
        for step in shown.steps.all():
            if step.status == RoundStep.Status.STOPPED and step.result.get("why_not"):
                why = " ".join(why_not_of(step.result))
                return _("Step %(number)s: %(why)s") % {"number": step.index + 1, "why": why}
    return shown.error


def why_not_of(evidence: dict[str, Any]) -> list[str]:
    """What stood in the way of a promotion, from what was measured."""
    found = []
    if evidence["rate"] is None:
        found.append(_("Nobody has judged the match."))
    elif evidence["low"] <= evidence["bar"]:
        shares = {name: percent(evidence[name]) for name in ("rate", "low", "high", "bar")}
        found.append(
            _(
                "People preferred it in %(rate)s of the comparisons, %(low)s to %(high)s: the interval does "
                "not lie above %(bar)s."
            )
            % shares
        )
    crossed = [check for check in evidence["guardrails"] if check["why"]]
    return found + [GUARDRAILS[check["name"]](check["value"], check["limit"]) for check in crossed]


def _length(value: float, limit: list[float]) -> str:
    low, high = (number(bound, 2) for bound in limit)
    words = _("Its answers are %(value)s times as long, not %(low)s to %(high)s.")
    return words % {"value": number(value, 2), "low": low, "high": high}


def _diversity(value: float, limit: float) -> str:
    words = _("Its answers are %(value)s times as diverse, less than %(limit)s.")
    return words % {"value": number(value, 2), "limit": number(limit, 2)}


def _total_length(value: float, limit: list[float]) -> str:
    low, high = (number(bound, 2) for bound in limit)
    words = _(
        "Since the first model its answers have become %(value)s times as long, not %(low)s to %(high)s."
    )
    return words % {"value": number(value, 2), "low": low, "high": high}


def _total_diversity(value: float, limit: float) -> str:
    words = _(
        "Since the first model its answers have become %(value)s times as diverse, less than %(limit)s."
    )
    return words % {"value": number(value, 2), "limit": number(limit, 2)}


def _refusals(value: float, limit: Any) -> str:
    return _("It refuses %(share)s more of the prompts than before.") % {"share": percent(value)}


def _figures(value: dict[str, float | None], limit: dict[str, list[float | None]]) -> str:
    """Those that were not measured, or lie out of their bounds."""
    found = []
    for name, (low, high) in limit.items():
        measured = value[name]
        if measured is None:
            found.append(_("%(name)s was not measured.") % {"name": name})
        elif (low is not None and measured < low) or (high is not None and measured > high):
            words = _("%(name)s is %(value)s, out of its bounds.")
            found.append(words % {"name": name, "value": number(measured, 3)})
    return " ".join(found)


GUARDRAILS: Final[dict[str, Callable[[Any, Any], str]]] = {
    "length": _length,
    "diversity": _diversity,
    "total_length": _total_length,
    "total_diversity": _total_diversity,
    "refusals": _refusals,
    "metrics": _figures,
    "evaluation": _figures,
}


def rounds_of(project: Project) -> QuerySet[Round]:
    """Newest first, with their steps."""
    return Round.objects.filter(project=project).order_by("-pk").prefetch_related("steps")
