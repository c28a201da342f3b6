"""Which checkpoint is the project's champion, and what a new one must show in order to follow it."""

import io
import math
from collections.abc import Callable, Mapping
from typing import Any, Final

from django.db import transaction
from django.utils.translation import gettext as _
from PIL import Image

from annotation.errors import Invalid
from annotation.models import Project, User
from training import guardrails
from training.models import Checkpoint, Match, Promotion, RoundStep, Run
from training.services.results import metrics_of, open_result, rows_of

Limits = dict[str, Any]
Bounds = dict[str, list[float | None]]
BOUNDS: Final = '{"agreement": [0.6, null]}: bounds for figures of an evaluation'


def champion_of(project: Project, *, otherwise: str) -> str:
    """The name of the model that was promoted last; `otherwise` as long as there is none."""
    newest = Promotion.objects.filter(project=project).order_by("-pk").first()
    return f"checkpoint:{newest.checkpoint_id}" if newest else otherwise


@transaction.atomic
def promote(
    *, checkpoint: Checkpoint, by: User, evidence: Limits | None = None, step: RoundStep | None = None
) -> Promotion:
    """Make a checkpoint the champion. Invalid for what jobs wrote: it is no model."""
    if checkpoint.run.is_job:
        raise Invalid({"checkpoint": _("Checkpoint %(id)s is no model.") % {"id": checkpoint.pk}})
    return Promotion.objects.create(
        project=checkpoint.run.project,
        checkpoint=checkpoint,
        step=step,
        evidence=evidence or {},
        promoted_by=by,
    )


def promote_if_better(
    *, step: RoundStep, run: Run, match: Match, interval: dict[str, Any], bar: float, guardrails: Limits
) -> dict[str, Any]:
    """Promote the run's checkpoint if the interval of its win rate lies above the bar and no guardrail is
    crossed. The evidence; `promoted` says what came of it, `why_not` lists what stood in the way.
    """
    checks = check_results(run, match, guardrails)
    why_not = [text for text in (_below(interval, bar), *(check["why"] for check in checks)) if text]
    evidence = {
        "match": match.pk,
        "rate": interval["rate"],
        "low": interval["low"],
        "high": interval["high"],
        "bar": bar,
        "guardrails": checks,
    }
    if not why_not:
        promote(checkpoint=run.checkpoint, by=step.round.created_by, evidence=evidence, step=step)
    return {**evidence, "promoted": not why_not, "why_not": why_not}


def _below(interval: dict[str, Any], bar: float) -> str:
    if interval["low"] is not None and interval["low"] > bar:
        return ""
    if interval["rate"] is None:
        return "Nobody has judged the match."
    return (
        f"People preferred it in {interval['rate']:.0%} of the comparisons, {interval['low']:.0%} to "
        f"{interval['high']:.0%}: the interval does not lie above {bar:.0%}."
    )


def check_guardrails(limits: Any) -> None:
    """Raise Invalid for what is no guardrail."""
    if not isinstance(limits, dict):
        raise Invalid({"guardrails": _("must be an object.")})
    for name, limit in limits.items():
        if name not in CHECKS:
            raise Invalid(
                {f"guardrails.{name}": _("must be one of %(names)s.") % {"names": ", ".join(CHECKS)}}
            )
        if not CHECKS[name].is_limit(limit):
            raise Invalid({f"guardrails.{name}": _("must be %(what)s.") % {"what": CHECKS[name].what}})


def check_results(run: Run, match: Match, limits: Limits) -> list[dict[str, Any]]:
    """What each guardrail measured: {"name", "value", "limit", "why"}; `why` is empty where it holds."""
    if not limits:
        return []
    answers = Answers(match)
    return [
        {"name": name, "limit": limit, **CHECKS[name].measure(limit, run, answers)}
        for name, limit in limits.items()
    ]


class Answers:
    """What both sides of a match wrote or drew, read once."""

    def __init__(self, match: Match) -> None:
        self.texts: list[list[str]] = []
        self.pictures: list[list[Image.Image]] = []
        for run in (match.left_run, match.right_run):
            texts, pictures = [], []
            with open_result(run) as result:
                for row in rows_of(result, "generations.jsonl"):
                    for candidate in row["candidates"]:
                        if "image" in candidate:
                            pictures.append(_thumbnail(result.read(f"media/{candidate['image']}")))
                        else:
                            texts.append(_plain(candidate["text"]))
            self.texts.append(texts)
            self.pictures.append(pictures)


def _thumbnail(data: bytes) -> Image.Image:
    with Image.open(io.BytesIO(data)) as picture:
        size = (guardrails.THUMBNAIL, guardrails.THUMBNAIL)
        return picture.convert("RGB").resize(size, Image.Resampling.BOX)


def _plain(text: Any) -> str:
    """An answer's words; of messages those of each."""
    return text if isinstance(text, str) else "\n".join(str(message.get("content", "")) for message in text)


def _length(limit: list[float], run: Run, answers: Answers) -> dict[str, Any]:
    ratio = guardrails.length_ratio(*answers.texts)
    low, high = limit
    crossed = not low <= ratio <= high
    why = f"Its answers are {ratio:.2f} times as long, not {low:g} to {high:g}." if crossed else ""
    return {"value": ratio, "why": why}


def _total_length(limit: list[float], run: Run, answers: Answers) -> dict[str, Any]:
    """What each of many rounds may do, all of them together may not."""
    ratio = _before(run, "total_length") * guardrails.length_ratio(*answers.texts)
    low, high = limit
    crossed = not low <= ratio <= high
    words = "Since the first model its answers have become {:.2f} times as long, not {:g} to {:g}."
    return {"value": ratio, "why": words.format(ratio, low, high) if crossed else ""}


def _total_diversity(limit: float, run: Run, answers: Answers) -> dict[str, Any]:
    share = _before(run, "total_diversity") * _share_of_diversity(answers)
    words = "Since the first model its answers have become {:.2f} times as diverse, less than {:g}."
    return {"value": share, "why": words.format(share, limit) if share < limit else ""}


def _before(run: Run, name: str) -> float:
    """This guardrail's value for the champion, which the newest promotion that measured it tells."""
    for promotion in Promotion.objects.filter(project=run.project_id).order_by("-pk"):
        for check in promotion.evidence.get("guardrails", ()):
            if check["name"] == name:
                return float(check["value"])
    return 1.0


def _share_of_diversity(answers: Answers) -> float:
    if answers.pictures[0]:
        new, old = (guardrails.picture_spread(one) for one in answers.pictures)
    else:
        new, old = (guardrails.distinct_ngrams(one) for one in answers.texts)
    return new / old if old else 1.0


def _diversity(limit: float, run: Run, answers: Answers) -> dict[str, Any]:
    share = _share_of_diversity(answers)
    why = "" if share >= limit else f"Its answers are {share:.2f} times as diverse, less than {limit:g}."
    return {"value": share, "why": why}


def _refusals(limit: float | Limits, run: Run, answers: Answers) -> dict[str, Any]:
    """`limit`: by how much the share of refusals may grow; or {"at_most", "phrases"}."""
    given: Limits = limit if isinstance(limit, dict) else {"at_most": limit}
    new, old = (guardrails.refusal_share(one, given.get("phrases", ())) for one in answers.texts)
    crossed = new - old > given["at_most"]
    why = f"It refuses {new:.0%} of the prompts, {old:.0%} were refused before." if crossed else ""
    return {"value": new - old, "why": why}


def _metrics(limit: Bounds, run: Run, answers: Answers) -> dict[str, Any]:
    """The last value of figures of the run, each within [low, high]; null is no bound."""
    found: dict[str, float | None] = dict.fromkeys(limit)
    for row in metrics_of(run):
        found |= {name: row[name] for name in limit if row.get(name) is not None}
    return {"value": found, "why": out_of_bounds(found, limit)}


def _evaluation(limit: Bounds, run: Run, answers: Answers) -> dict[str, Any]:
    """The figures of the evaluations of rewards in the run's round; a later one replaces an earlier one's."""
    figures: dict[str, float] = {}
    for step in run.round_step.round.steps.filter(kind="evaluate").order_by("index"):
        figures |= step.result.get("figures", {})
    found = {name: figures.get(name) for name in limit}
    return {"value": found, "why": out_of_bounds(found, limit)}


def out_of_bounds(figures: Mapping[str, float | None], limits: Bounds) -> str:
    """Sentences about the figures that are not within their [low, high], or were not measured."""
    why = [_out_of_bounds(name, figures.get(name), *bounds) for name, bounds in limits.items()]
    return " ".join(filter(None, why))


def _out_of_bounds(name: str, value: float | None, low: float | None, high: float | None) -> str:
    if value is None:
        return f"{name} was not measured."
    return "" if _within(value, low, high) else f"{name} is {value:g}, not {_range(low, high)}."


def _within(value: float, low: float | None, high: float | None) -> bool:
    return (low is None or value >= low) and (high is None or value <= high)


def _range(low: float | None, high: float | None) -> str:
    if low is None:
        return f"at most {high:g}"
    return f"at least {low:g}" if high is None else f"{low:g} to {high:g}"


def is_number(value: Any, *, low: float = -math.inf, high: float = math.inf) -> bool:
    """A number within bounds; true and false are none."""
    return isinstance(value, int | float) and not isinstance(value, bool) and low <= value <= high


def _is_pair(value: Any) -> bool:
    if not isinstance(value, list) or len(value) != 2 or not all(map(is_number, value)):
        return False
    return bool(value[0] <= value[1])


def _is_refusal_limit(value: Any) -> bool:
    if not isinstance(value, dict):
        return is_number(value, low=0, high=1)
    if value.keys() - {"at_most", "phrases"} or not is_number(value.get("at_most")):
        return False
    phrases = value.get("phrases", [])
    return isinstance(phrases, list) and all(isinstance(one, str) and one.strip() for one in phrases)


def are_bounds(value: Any) -> bool:
    bounds = [*value.values()] if isinstance(value, dict) else [None]
    return all(
        isinstance(one, list)
        and len(one) == 2
        and all(side is None or is_number(side) for side in one)
        and one != [None, None]
        for one in bounds
    )


class Check:
    """A guardrail: what its limit looks like, and what it measures."""

    def __init__(
        self, what: str, is_limit: Callable[[Any], bool], measure: Callable[..., dict[str, Any]]
    ) -> None:
        self.what, self.is_limit, self.measure = what, is_limit, measure


CHECKS: Final = {
    "length": Check("[low, high], times the length of the other model's answers", _is_pair, _length),
    "diversity": Check(
        "a share from 0 to 1 of the other model's", lambda one: is_number(one, low=0, high=1), _diversity
    ),
    "total_length": Check(
        "[low, high], times the length of the first model's answers", _is_pair, _total_length
    ),
    "total_diversity": Check(
        "a share from 0 to 1 of the first model's",
        lambda one: is_number(one, low=0, high=1),
        _total_diversity,
    ),
    "refusals": Check("a share from 0 to 1 by which refusals may grow", _is_refusal_limit, _refusals),
    "metrics": Check('{"kl": [null, 10]}: bounds for figures of the run', are_bounds, _metrics),
    "evaluation": Check(BOUNDS, are_bounds, _evaluation),
}
