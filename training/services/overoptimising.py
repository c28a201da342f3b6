"""Over-optimisation curves of a tuning run, from what it logged and what people said in blind matches."""

from typing import Any, Final

from training.models import Checkpoint, Match, Run
from training.overoptimisation import fit_law, hacked_from
from training.services.matches import win_rates
from training.services.naming import name_of_base
from training.services.promoting import is_number
from training.services.results import metrics_of
from training.services.workspace import named_model

MOST: Final = 300  # points of a curve
PART: Final = "reward/"


def overoptimisation_of(run: Run, logged: list[dict[str, Any]] | None = None) -> dict[str, Any]:
    """{"proxy", "gold", "people", "law", "stop", "hacked_at"} against the root of the logged `kl`.

    `proxy` is the reward that the run maximised, `gold` what an entry of its reward list with the weight 0
    measured beside it, both as gains over the first step; `people` the win rates, less one half, of this
    run's checkpoint and of others from the same base against that base. The law is fitted to the gold
    reward, else to people; `stop` is where it turns, with the nearest step. Empty without a logged KL.
    `logged` are the run's metrics, where they are at hand.
    """
    logged = metrics_of(run) if logged is None else logged
    rows = [row for row in logged if is_number(row.get("kl")) and is_number(row.get("reward"))]
    rows = [row for row in rows if row["kl"] >= 0]
    if not rows:
        return {}
    people = _people(run)
    rows = rows[:: len(rows) // MOST + 1]
    found: dict[str, Any] = {"proxy": _curve(rows, "reward"), "people": people}
    gold = _gold_of(run, rows)
    found["gold"] = _curve(rows, gold) if gold else []
    judged = [(one["d"], one["gain"]) for one in people]
    points = [(one["d"], one["gain"]) for one in found["gold"]] or judged
    law = fit_law([d for d, _ in points], [gain for _, gain in points])
    found |= {"law": None, "stop": None, "hacked_at": None}
    if law is not None:
        found["law"] = {"alpha": law.alpha, "beta": law.beta, "of": "gold" if found["gold"] else "people"}
        if law.peak is not None and law.peak <= max(one["d"] for one in found["proxy"]):
            nearest = min(found["proxy"], key=lambda one: abs(one["d"] - law.peak))
            found["stop"] = {"d": law.peak, "gain": law.at(law.peak), "step": nearest["step"]}
    if found["gold"]:
        proxy, golden = ([-one["gain"] for one in found[name]] for name in ("proxy", "gold"))
        at = hacked_from(proxy, golden)
        found["hacked_at"] = None if at is None else found["gold"][at]["step"]
    return found


def _curve(rows: list[dict[str, Any]], name: str) -> list[dict[str, float]]:
    start = rows[0][name]
    return [
        {"step": row["step"], "d": row["kl"] ** 0.5, "gain": row[name] - start}
        for row in rows
        if is_number(row.get(name))
    ]


def _gold_of(run: Run, rows: list[dict[str, Any]]) -> str | None:
    """The metric of an entry that is measured and does not count."""
    for at, entry in enumerate(run.reward):
        if entry.get("weight", 1) == 0:
            for name in (PART + _label(entry), f"{PART}{_label(entry)}-{at}"):
                if is_number(rows[0].get(name)):
                    return name
    return None


def _label(entry: dict[str, Any]) -> str:
    """How the trainer's metrics name an entry: by its rule, or by the last part of the model's place."""
    if "rule" in entry:
        return str(entry["rule"])
    location, checkpoint = named_model(entry.get("model", ""))
    return f"checkpoint-{checkpoint.pk}" if checkpoint else location.rstrip("/").rsplit("/", 1)[-1]


def _people(run: Run) -> list[dict[str, Any]]:
    """Blind win rates against the run's base, at the last logged distance of each winner's run."""
    base = name_of_base(run)
    matches = Match.objects.filter(project=run.project_id).select_related(
        "left_run__base", "left_run__base_checkpoint__run__base", "right_run__base"
    )
    fitting = [
        match
        for match in matches
        if name_of_base(match.right_run) == base
        and match.left_run.base_checkpoint
        and name_of_base(match.left_run.base_checkpoint.run) == base
    ]
    rates = win_rates(fitting)
    found = []
    for match in fitting:
        checkpoint: Checkpoint = match.left_run.base_checkpoint  # type: ignore[assignment]
        kl = [row["kl"] for row in metrics_of(checkpoint.run) if is_number(row.get("kl"))]
        rate = rates[match.pk]
        if kl and kl[-1] >= 0 and rate["n"]:
            shifted = {"gain": rate["rate"] - 0.5, "low": rate["low"] - 0.5, "high": rate["high"] - 0.5}
            found.append({"d": kl[-1] ** 0.5, "run": checkpoint.run_id, "match": match.pk, **shifted})
    return sorted(found, key=lambda one: one["d"])
