"""Do a reward model's margins mean the probabilities that they imply? Reliability, and a temperature."""

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Bin:
    """Pairs whose confidence lies in [low, high): their number (weight), mean confidence and agreement."""

    low: float
    high: float
    weight: float
    confidence: float
    agreement: float


def reliability(margins: Tensor, targets: Tensor, weights: Tensor, *, bins: int = 10) -> list[Bin]:
    """Bins of equal width over the confidence σ(|margin|) in [½, 1], those without pairs left out.

    Arguments (B,): margins of ``chosen`` over ``rejected``, the share of votes for ``chosen``, and weights. A
    bin is calibrated if its votes agree with the sign of the margin as often as its confidence says.
    """
    confidence = torch.sigmoid(margins.double().abs())
    agreement = torch.where(margins > 0, targets, 1 - targets).double()
    agreement = torch.where(margins == 0, torch.full_like(agreement, 0.5), agreement)
    weights = weights.double()
    place = ((confidence - 0.5) * 2 * bins).long().clamp(max=bins - 1)
    found = []
    for number in range(bins):
        inside = place == number
        total = float(weights[inside].sum())
        if total:
            found.append(
                Bin(
                    low=0.5 + number / (2 * bins),
                    high=0.5 + (number + 1) / (2 * bins),
                    weight=total,
                    confidence=float((weights[inside] * confidence[inside]).sum()) / total,
                    agreement=float((weights[inside] * agreement[inside]).sum()) / total,
                )
            )
    return found


def calibration_error(found: list[Bin]) -> float:
    """Expected calibration error: the bins' mean |confidence − agreement|, by weight."""
    total = sum(one.weight for one in found)
    return sum(one.weight * abs(one.confidence - one.agreement) for one in found) / total


def fit_temperature(margins: Tensor, targets: Tensor, weights: Tensor) -> float | None:
    """T that makes σ(margin / T) likeliest (arXiv:1706.04599); None if no finite positive one does.

    The log-likelihood is concave in 1/T: its slope is followed to zero by bisection.
    """
    margins, targets, weights = margins.double(), targets.double(), weights.double()

    def slope(inverse: float) -> float:
        return float((weights * margins * (targets - torch.sigmoid(inverse * margins))).sum())

    low, high = 0.0, 1.0
    never_wrong = float((weights * margins * (targets - (margins > 0).double())).sum()) >= 0
    if slope(low) <= 0 or never_wrong:
        return None
    while slope(high) > 0:
        high *= 2
    for _ in range(80):
        middle = (low + high) / 2
        low, high = (middle, high) if slope(middle) > 0 else (low, middle)
    return 2 / (low + high)
