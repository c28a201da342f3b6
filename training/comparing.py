"""What two runs have in common and what not, for the page that shows them side by side."""

from typing import Any

from django.db.models import Q
from django.utils.translation import gettext as _

from annotation.models import Project
from training import services
from training.browsing import as_json, figures_of, matches_of, samples_of
from training.models import Match, Run


def differences(a: Run, b: Run) -> list[tuple[str, Any, Any]]:
    """Settings in which two runs differ, with both values."""
    sides = [
        {"method": run.method, _("start from"): services.name_of_base(run), "seed": run.seed}
        | {"data": run.snapshot.sha256[:12], **{f"config.{key}": value for key, value in run.config.items()}}
        for run in (a, b)
    ]
    names = list(sides[0] | sides[1])
    return [
        (name, sides[0].get(name, "–"), sides[1].get(name, "–"))
        for name in names
        if sides[0].get(name, "–") != sides[1].get(name, "–")
    ]


def last_values(
    a: list[dict[str, Any]], b: list[dict[str, Any]]
) -> list[tuple[str, float | None, float | None]]:
    """Every metric of either's rows, with both last values."""
    sides = [{figure.name: figure.last for figure in figures_of(rows)} for rows in (a, b)]
    return [(name, sides[0].get(name), sides[1].get(name)) for name in sides[0] | sides[1]]


def samples_of_both(a: Run, b: Run) -> list[tuple[Any, dict[str, Any], dict[str, Any]]]:
    """Prompts of which two runs have samples, each with what either made of it last."""

    def last(run: Run) -> dict[tuple[str, Any], tuple[Any, dict[str, Any]]]:
        found = ((sample, sample.after or sample.before) for sample in samples_of(run))
        return {(as_json(one.prompt), one.seed): (one.prompt, row) for one, row in found if row}

    of_a, of_b = last(a), last(b)
    return [(prompt, row, of_b[key][1]) for key, (prompt, row) in of_a.items() if key in of_b]


def matches_between(project: Project, a: Run, b: Run) -> list[tuple[Match, dict[str, Any]]]:
    """Blind matches between what two runs made, newest first, with the win rates of `a`."""
    straight = Q(left_run__base_checkpoint__run=a, right_run__base_checkpoint__run=b)
    turned = Q(left_run__base_checkpoint__run=b, right_run__base_checkpoint__run=a)
    found = list(matches_of(project).filter(straight | turned).select_related("left_run__base_checkpoint"))
    rates = services.win_rates(found)
    return [(match, rates[match.pk] if _is_left(a, match) else _turned(rates[match.pk])) for match in found]


def _is_left(run: Run, match: Match) -> bool:
    checkpoint = match.left_run.base_checkpoint
    return checkpoint is not None and checkpoint.run_id == run.pk


def _turned(result: dict[str, Any]) -> dict[str, Any]:
    """The win rate of the other side."""
    if not result["n"]:
        return result
    return result | {"rate": 1 - result["rate"], "low": 1 - result["high"], "high": 1 - result["low"]}
