"""Temperatures undo a scaling; reliabilities are log-odds; bins add up."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from loradar.core.errors import BadConfigError, BadImagesError
from loradar.guard.calibration import Calibration, calibrate, reliability


@pytest.mark.parametrize("factor", [0.5, 1.0, 4.0])
def test_the_temperature_undoes_a_scaling_of_calibrated_logits(factor: float) -> None:
    draws = torch.Generator().manual_seed(0)
    logits = 2 * torch.randn(4000, 5, generator=draws)
    y = torch.multinomial(logits.softmax(1), 1, generator=draws).squeeze(1)
    found = calibrate(logits * factor, y)
    assert found.temperature == pytest.approx(factor, rel=0.06)
    assert found.right == int((logits.argmax(1) == y).sum())


def test_a_voter_that_is_never_wrong_keeps_a_finite_weight() -> None:
    assert Calibration(temperature=1.0, right=10, total=10).weight == pytest.approx(2.3979, abs=1e-3)
    assert Calibration(temperature=1.0, right=1, total=10).weight == 0


def test_labels_that_do_not_fit_are_refused() -> None:
    with pytest.raises(BadImagesError):
        calibrate(torch.zeros(3, 2), torch.tensor([0, 1, 2]))
    with pytest.raises(BadConfigError, match="expected a temperature above 0"):
        Calibration(temperature=0.0, right=1, total=2)


@given(st.integers(0, 10_000))
def test_bins_hold_every_answer_once(seed: int) -> None:
    draws = torch.Generator().manual_seed(seed)
    confidence, right = torch.rand(50, generator=draws), torch.rand(50, generator=draws) < 0.5
    bins = reliability(confidence, right)
    assert sum(bins.counts) == 50
    assert sum(bins.rights) == int(right.sum())
    assert 0 <= bins.error <= 1


def test_the_calibration_error_of_a_braggart() -> None:
    bins = reliability(torch.full((10,), 0.95), torch.tensor([True] * 5 + [False] * 5))
    assert bins.error == pytest.approx(0.45)
    assert reliability(torch.tensor([1.0]), torch.tensor([True])).error == 0
