"""Reliability by hand, and a temperature that is put back."""

import math

import pytest
import torch

from training.tuning.calibration import calibration_error, fit_temperature, reliability


def wide(*values: float) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float64)


def test_reliability_by_hand() -> None:
    """Margins ±ln 3 say ¾, and three of four agree: calibrated. A margin of ln 9 says .9, and is wrong.

    So two bins, errors 0 and .9, weights 4 and 1: .18.
    """
    margins = wide(*[math.log(3)] * 3, -math.log(3), math.log(9))
    targets = wide(1, 1, 0, 0, 0)
    found = reliability(margins, targets, torch.ones(5, dtype=torch.float64))
    assert [(one.weight, round(one.confidence, 6), round(one.agreement, 6)) for one in found] == [
        (4, 0.75, 0.75),
        (1, 0.9, 0),
    ]
    assert calibration_error(found) == pytest.approx(0.18)


def test_a_tie_agrees_by_half() -> None:
    (one,) = reliability(wide(0.0), wide(1.0), wide(2.0))
    assert (one.low, one.confidence, one.agreement, one.weight) == (0.5, 0.5, 0.5, 2)


@pytest.mark.parametrize("scale", [0.2, 1.0, 5.0])
def test_temperature_is_put_back(scale: float) -> None:
    """Soft labels σ(m), margins scaled by T: the fit is T."""
    margins = torch.linspace(-3, 4, 50, dtype=torch.float64)
    found = fit_temperature(scale * margins, torch.sigmoid(margins), torch.ones(50, dtype=torch.float64))
    assert found == pytest.approx(scale, rel=1e-6)


def test_no_temperature_for_what_knows_nothing_or_all() -> None:
    """Margins that point the wrong way, or are never wrong, have no finite positive temperature."""
    ones = wide(1, 1)
    assert fit_temperature(wide(-1, -2), ones, ones) is None
    assert fit_temperature(wide(1, 2), ones, ones) is None
