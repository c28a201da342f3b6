"""Dawid & Skene (1979): who can be trusted, and what is probably right, from answers alone.

"Maximum likelihood estimation of observer error-rates using the EM algorithm", Applied Statistics 28, 20-28.
Written out here because crowd-kit's has no prior (an annotator with three answers is then perfect or
useless), reports no progress, and depends on transformers; the tests compare both where they should be
equal.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import numpy as np

from annotation.quality.intervals import Floats, Ints

OnProgress = Callable[[float], None]
OFF_DIAGONAL: Final = (
    0.5  # answers that each annotator is taken to have given before the first: each wrong one
)
DIAGONAL: Final = 2.0  # and the right one, for each true label


@dataclass(frozen=True)
class DawidSkene:
    """posterior (U, L): of each unit's true label. confusion (A, L, L): P(annotator says l | true t).

    prior (L,): of labels. reliability (A,): the expected share of right answers, Σ_t prior_t π_tt.
    """

    posterior: Floats
    confusion: Floats
    prior: Floats
    reliability: Floats
    iterations: int


def fit_dawid_skene(
    units: Ints,
    annotators: Ints,
    labels: Ints,
    *,
    size: tuple[int, int, int],
    smoothing: tuple[float, float] = (DIAGONAL, OFF_DIAGONAL),
    max_iterations: int = 100,
    tolerance: float = 1e-5,
    on_progress: OnProgress | None = None,
) -> DawidSkene:
    """EM over answers: `units`, `annotators`, `labels` are (N,) indices; size is (U, A, L).

    Starts from the vote shares. The M-step is eqs. 2.3 and 2.4 with Dirichlet pseudo-counts `smoothing`
    (right, wrong), the E-step eq. 2.5; ends when no posterior moves more than `tolerance`, or after
    `max_iterations`.
    """
    n_units, n_annotators, n_labels = size
    cells = annotators * n_labels + labels
    posterior = np.bincount(units * n_labels + labels, minlength=n_units * n_labels).astype(float)
    posterior = posterior.reshape(n_units, n_labels)
    posterior /= np.maximum(posterior.sum(axis=1, keepdims=True), 1e-300)
    pseudo = np.full((n_labels, n_labels), smoothing[1])
    np.fill_diagonal(pseudo, smoothing[0])
    confusion = np.zeros((n_annotators, n_labels, n_labels))
    prior = np.full(n_labels, 1 / n_labels)
    iteration = 0
    for iteration in range(1, max_iterations + 1):
        for true in range(n_labels):
            weights = posterior[units, true]
            said = np.bincount(cells, weights=weights, minlength=n_annotators * n_labels)
            confusion[:, true, :] = said.reshape(n_annotators, n_labels) + pseudo[true]
        confusion /= np.maximum(confusion.sum(axis=2, keepdims=True), 1e-300)
        prior = (posterior.sum(axis=0) + smoothing[1]) / (n_units + n_labels * smoothing[1])
        previous, posterior = posterior, label_posterior(units, annotators, labels, confusion, prior, n_units)
        change = float(np.abs(posterior - previous).max()) if n_units else 0.0
        if on_progress is not None:
            on_progress(iteration / max_iterations)
        if change < tolerance:
            break
    reliability = np.einsum("t,att->a", prior, confusion)
    return DawidSkene(posterior, confusion, prior, reliability, iteration)


def label_posterior(
    units: Ints, annotators: Ints, labels: Ints, confusion: Floats, prior: Floats, n_units: int
) -> Floats:
    """Eq. 2.5: P(true label | answers) of each unit, (U, L); also for units that the fit has not seen."""
    n_labels = len(prior)
    with np.errstate(divide="ignore"):
        logs, log_prior = np.log(confusion), np.log(prior)
    posterior = np.empty((n_units, n_labels))
    for true in range(n_labels):
        terms = logs[annotators, true, labels]
        posterior[:, true] = np.bincount(units, weights=terms, minlength=n_units) + log_prior[true]
    posterior -= posterior.max(axis=1, keepdims=True)
    np.exp(posterior, out=posterior)
    posterior /= posterior.sum(axis=1, keepdims=True)
    return posterior
