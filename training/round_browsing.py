"""What the pages of rounds read and say."""

from dataclasses import dataclass

from django.db.models import QuerySet
from django.utils.translation import gettext as _
from django.utils.translation import ngettext

from annotation.models import Project
from annotation.numbers import percent
from training import browsing
from training.models import Round, RoundStep
from training.tuning.registry import get_method


@dataclass(frozen=True)
class StepShown:
    """A step of a round, in words; `share` says how far what works on it is."""

    step: RoundStep
    title: str
    share: float | None
    sentences: list[str]


def steps_of(shown: Round) -> list[StepShown]:
    rows = shown.steps.select_related("run", "match")
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
    if step.error:
        return [step.error]
    result = step.result
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
    if (agreement := result.get("figures", {}).get("agreement")) is not None:
        found.append(_("The reward agrees with %(rate)s of the answers.") % {"rate": percent(agreement)})
    if result.get("promoted"):
        found.append(_("It is the project's champion now."))
    return found


def rounds_of(project: Project) -> QuerySet[Round]:
    """Newest first."""
    return Round.objects.filter(project=project).order_by("-pk")
