"""How far people agree, and how each of them works. Only standing regular judgements with a choice count.

Raw agreement is the share of pairs of judgements of one comparison that chose the same. Krippendorff's alpha
sets it against what the same answers would give by chance: 1 is perfect, 0 is chance. The intervals are 95 %
percentile bootstraps over comparisons, because judgements of one comparison are not independent.
"""

import json
from dataclasses import dataclass
from typing import Any, Final

import krippendorff
import numpy as np
from django.db import connection

from annotation.models import Project
from annotation.services.comparisons import annotator_name

RESAMPLES: Final = 2000
Z95: Final = 1.959964

# Comparisons with the same answers are exchangeable, so a project comes down to a few patterns of answers.
PATTERNS = """
SELECT answers::text, count(*) FROM (
    SELECT comparison_id, jsonb_object_agg(choice::text, n) AS answers FROM (
        SELECT j.comparison_id, j.choice, count(*) AS n
        FROM annotation_judgement j JOIN annotation_comparison c ON c.id = j.comparison_id
        WHERE c.project_id = %s AND j.undone_at IS NULL AND j.kind = 'regular' AND j.choice IS NOT NULL
        GROUP BY j.comparison_id, j.choice
    ) AS votes GROUP BY comparison_id HAVING sum(n) >= 2
) AS comparisons GROUP BY answers ORDER BY answers::text
"""

ANNOTATORS = """
WITH mine AS (
    SELECT j.comparison_id, j.annotator_id, j.choice, j.seconds, j.created_at,
           CASE WHEN jsonb_typeof(j.choice) = 'number' AND jsonb_array_length(j."order") = 2
                THEN j."order" -> 0 = j.choice END AS took_first
    FROM annotation_judgement j JOIN annotation_comparison c ON c.id = j.comparison_id
    WHERE c.project_id = %s AND j.undone_at IS NULL AND j.kind = 'regular' AND j.choice IS NOT NULL
), own AS (
    SELECT annotator_id, count(*) AS judgements, max(created_at) AS last_at,
           percentile_cont(0.5) WITHIN GROUP (ORDER BY seconds) AS median_seconds,
           count(*) FILTER (WHERE jsonb_typeof(choice) = 'string') AS undecided,
           count(took_first) AS sided, count(*) FILTER (WHERE took_first) AS first
    FROM mine GROUP BY annotator_id
), shared AS (
    SELECT a.annotator_id, avg((a.choice = b.choice)::int) AS agreed
    FROM mine a JOIN mine b ON a.comparison_id = b.comparison_id AND a.annotator_id <> b.annotator_id
    GROUP BY a.annotator_id, a.comparison_id
), others AS (
    SELECT annotator_id, avg(agreed) AS agreement, count(*) AS compared FROM shared GROUP BY annotator_id
)
SELECT u.username, own.*, others.agreement, coalesce(others.compared, 0) AS compared
FROM own JOIN annotation_user u ON u.id = own.annotator_id
LEFT JOIN others ON others.annotator_id = own.annotator_id
ORDER BY own.judgements DESC, u.username
"""


@dataclass(frozen=True)
class Interval:
    """A rate and its 95 % interval."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Agreement:
    """Of a project: `pairs` of judgements within `comparisons`; without any nothing else is known.

    `agreement` is raw, `chance` what the same answers give at random, `alpha` Krippendorff's (nominal);
    alpha is None where everybody always says the same, because nothing can then be told from chance.
    """

    comparisons: int
    judgements: int
    pairs: int
    agreement: float | None = None
    low: float | None = None
    high: float | None = None
    chance: float | None = None
    alpha: float | None = None
    alpha_low: float | None = None
    alpha_high: float | None = None


@dataclass(frozen=True)
class Annotator:
    """One person's work. `agreement` is with others over `compared` comparisons; None without any.

    `first_side` is how often they took what was shown first, of the pairs where they took a side; an
    interval that leaves out 0.5 is position bias. `undecided` counts ties and "both bad".
    """

    name: str
    judgements: int
    median_seconds: float | None
    undecided: int
    agreement: Interval | None
    compared: int
    first_side: Interval | None
    sided: int
    last_at: Any


def summarise(project: Project, *, seed: int = 0) -> Agreement:
    """Raw agreement and Krippendorff's alpha of a project, with intervals."""
    with connection.cursor() as cursor:
        cursor.execute(PATTERNS, [project.pk])
        rows = [(json.loads(answers), int(number)) for answers, number in cursor.fetchall()]
    if not rows:
        return Agreement(comparisons=0, judgements=0, pairs=0)
    choices = sorted({choice for answers, _ in rows for choice in answers})
    counts = np.array([[answers.get(choice, 0) for choice in choices] for answers, _ in rows], dtype=float)
    times = np.array([number for _, number in rows], dtype=float)
    votes = counts.sum(axis=1)
    raw, chance, _ = statistics(counts, times)
    resampled = np.random.default_rng(seed).multinomial(int(times.sum()), times / times.sum(), size=RESAMPLES)
    raws, _, alphas = statistics(counts, resampled.astype(float))
    low, high = np.quantile(raws, [0.025, 0.975])
    alpha, alpha_low, alpha_high = None, None, None
    if chance < 1:
        units = np.repeat(counts, times.astype(int), axis=0)
        alpha = float(krippendorff.alpha(value_counts=units, level_of_measurement="nominal"))
        alpha_low, alpha_high = (float(value) for value in np.nanquantile(alphas, [0.025, 0.975]))
    return Agreement(
        comparisons=int(times.sum()),
        judgements=int((votes * times).sum()),
        pairs=int((votes * (votes - 1) / 2 * times).sum()),
        agreement=float(raw),
        low=float(low),
        high=float(high),
        chance=float(chance),
        alpha=alpha,
        alpha_low=alpha_low,
        alpha_high=alpha_high,
    )


def statistics(counts: np.ndarray, times: np.ndarray) -> tuple[Any, Any, Any]:
    """Raw agreement, chance agreement and nominal alpha.

    `counts` (P, V): votes for each value in each pattern of answers, at least two in each pattern; `times`
    (..., P): how often each pattern occurs. Krippendorff (2011), "Computing Krippendorff's
    Alpha-Reliability", section C: alpha = 1 - (n - 1) * (n - sum o_cc) / (n^2 - sum n_c^2), which is nan
    where only one value occurs.
    """
    votes = counts.sum(axis=1)
    agreeing = (counts * (counts - 1)).sum(axis=1)
    raw = times @ agreeing / (times @ (votes * (votes - 1)))
    totals = times @ counts
    n = totals.sum(axis=-1)
    chance = (totals * (totals - 1)).sum(axis=-1) / (n * (n - 1))
    coincidences = times @ (agreeing / (votes - 1))
    expected = n**2 - (totals**2).sum(axis=-1)
    with np.errstate(invalid="ignore", divide="ignore"):
        alpha = np.where(expected > 0, 1 - (n - 1) * (n - coincidences) / expected, np.nan)
    return raw, chance, alpha


def annotators(project: Project) -> list[Annotator]:
    """Everybody who judged something in this project, the busiest first. One query."""
    with connection.cursor() as cursor:
        cursor.execute(ANNOTATORS, [project.pk])
        names = [column.name for column in cursor.description]
        rows = [dict(zip(names, values, strict=True)) for values in cursor.fetchall()]
    return [_annotator(row) for row in rows]


def _annotator(row: dict[str, Any]) -> Annotator:
    agreement = float(row["agreement"]) if row["agreement"] is not None else None
    return Annotator(
        name=annotator_name(row["username"]),
        judgements=row["judgements"],
        median_seconds=row["median_seconds"],
        undecided=row["undecided"],
        agreement=wilson(agreement * row["compared"], row["compared"]) if agreement is not None else None,
        compared=row["compared"],
        first_side=wilson(row["first"], row["sided"]) if row["sided"] else None,
        sided=row["sided"],
        last_at=row["last_at"],
    )


def wilson(successes: float, n: int) -> Interval:
    """Wilson's score interval (1927) at 95 % for a rate; `successes` may hold halves and other shares."""
    rate, z2 = successes / n, Z95**2
    middle = (rate + z2 / (2 * n)) / (1 + z2 / n)
    spread = Z95 / (1 + z2 / n) * np.sqrt(rate * (1 - rate) / n + z2 / (4 * n**2))
    return Interval(rate, max(0.0, float(middle - spread)), min(1.0, float(middle + spread)))
