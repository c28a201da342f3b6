"""Crowd-BT: Bradley–Terry scores of items and the reliability of who compared them, together.

Chen, Bennett, Collins-Thompson & Horvitz, "Pairwise ranking aggregation in a crowdsourced setting", WSDM
2013. Written out here because crowd-kit's NoisyBradleyTerry is another model (Bugakova et al. 2019) and
choix knows no annotators.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import numpy as np
from scipy.optimize import minimize
from scipy.special import expit

from annotation.quality.intervals import Floats, Ints

OnProgress = Callable[[float], None]
VIRTUAL: Final = 0.5  # λ: each item's comparisons with the virtual item, one won and one lost
ETA_PRIOR: Final = (4.0, 2.0)  # Beta; it says which way round everything is, and weighs a few answers


@dataclass(frozen=True)
class CrowdBT:
    """scores (I,): s, log-strengths. reliability (A,): η, the chance that an annotator compares as s says;
    0.5 is guessing, below it the wrong way round."""

    scores: Floats
    reliability: Floats
    log_likelihood: float


def fit_crowd_bt(
    first: Ints,
    second: Ints,
    annotators: Ints,
    wins: Floats,
    *,
    size: tuple[int, int],
    virtual: float = VIRTUAL,
    eta_prior: tuple[float, float] = ETA_PRIOR,
    max_iterations: int = 200,
    on_progress: OnProgress | None = None,
) -> CrowdBT:
    """Comparisons (N,) of items `first` and `second`; `wins` is 1 where the first won, 0, or 0.5 for a tie.

    size is (I, A). Maximises Σ log[η_k σ(s_i − s_j) + (1 − η_k) σ(s_j − s_i)] (the paper's model, section
    3), a tie counting half for each side, plus λ Σ_i log[σ(s_i − s_0) σ(s_0 − s_i)], its virtual node with
    s_0 = 0, and a Beta prior on η. By L-BFGS over s and logit η.
    """
    n_items, n_annotators = size
    alpha, beta = eta_prior
    steps = 0

    def objective(parameters: Floats) -> tuple[float, Floats]:
        scores, logits = parameters[:n_items], parameters[n_items:]
        eta = expit(logits)[annotators]
        p = expit(scores[first] - scores[second])
        q = eta * p + (1 - eta) * (1 - p)  # the chance that the first wins
        q = np.clip(q, 1e-12, 1 - 1e-12)
        slope = wins / q - (1 - wins) / (1 - q)
        by_difference = slope * (2 * eta - 1) * p * (1 - p)
        by_logit = slope * (2 * p - 1) * eta * (1 - eta)
        gradient = np.empty_like(parameters)
        gradient[:n_items] = np.bincount(first, by_difference, n_items) - np.bincount(
            second, by_difference, n_items
        )
        share = expit(scores)
        gradient[:n_items] += virtual * (1 - 2 * share)
        eta_all = expit(logits)
        gradient[n_items:] = np.bincount(annotators, by_logit, n_annotators) + (
            alpha * (1 - eta_all) - beta * eta_all
        )
        value = float((wins * np.log(q) + (1 - wins) * np.log1p(-q)).sum())
        value += virtual * float((_log_expit(scores) + _log_expit(-scores)).sum())
        value += float((alpha * _log_expit(logits) + beta * _log_expit(-logits)).sum())
        return -value, -gradient

    def count_step(_: Floats) -> None:
        nonlocal steps
        steps += 1
        if on_progress is not None:
            on_progress(min(1.0, steps / max_iterations))

    start = np.zeros(n_items + n_annotators)
    start[:n_items] = _start_scores(first, second, wins, n_items)
    start[n_items:] = np.log(alpha / beta)
    found = minimize(
        objective,
        start,
        jac=True,
        method="L-BFGS-B",
        callback=count_step,
        options={"maxiter": max_iterations},
    )
    return CrowdBT(found.x[:n_items], expit(found.x[n_items:]), -float(found.fun))


def _start_scores(first: Ints, second: Ints, wins: Floats, n_items: int) -> Floats:
    """Log-odds of each item's own wins, so that the search starts on the majority's side."""
    won = np.bincount(first, wins, n_items) + np.bincount(second, 1 - wins, n_items)
    played = np.bincount(first, minlength=n_items) + np.bincount(second, minlength=n_items)
    return np.log((won + 1) / (played - won + 1))


def _log_expit(x: Floats) -> Floats:
    return -np.logaddexp(0, -x)
