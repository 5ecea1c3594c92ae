"""The mean of the weights along a training."""

from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from loradar.training import FitSettings, WeightAverage, fit


@given(st.lists(st.floats(-10, 10, width=32), min_size=1, max_size=40), st.sampled_from([0.5, 0.9, 0.99]))
def test_the_mean_is_that_of_the_recursion(values: list[float], decay: float) -> None:
    live = torch.zeros(1)
    average, mean = WeightAverage({"w": live}, decay=decay), 0.0
    for count, value in enumerate(values, start=1):
        live.fill_(value)
        average.update()
        rate = min(decay, (1 + count) / (10 + count))
        mean = rate * mean + (1 - rate) * value
    with average.applied():
        assert float(live) == pytest.approx(mean, abs=1e-3)
    assert float(live) == pytest.approx(values[-1], abs=1e-5)


def test_what_was_there_comes_back_to_the_bit_also_after_an_error() -> None:
    live, seen = torch.rand(5), torch.tensor(3)
    average = WeightAverage({"w": live, "seen": seen}, decay=0.9)
    live.add_(1.0)
    seen.add_(1)
    average.update()
    before = live.clone()

    def interrupted() -> None:
        with average.applied():
            assert not torch.equal(live, before)
            raise RuntimeError

    with pytest.raises(RuntimeError):
        interrupted()
    assert torch.equal(live, before)
    assert int(seen) == 4, "whole numbers are not averaged"


def test_a_killed_run_ends_with_the_same_mean(tmp_path: Path) -> None:
    def run(checkpoint: Path, stop: int | None) -> tuple[Tensor, Tensor]:
        weight = torch.ones(3, requires_grad=True)
        average = WeightAverage({"w": weight}, decay=0.9)
        steps = fit(
            lambda indices, seed: ((weight - indices.float().mean() - seed % 7) ** 2).sum(),
            parameters=[weight],
            state={"w": weight.detach()},
            count=8,
            settings=FitSettings(epochs=6, batch_size=4, learning_rate=0.1),
            checkpoint=checkpoint,
            checkpoint_seconds=0.0,
            average=average,
        )
        for step in steps:
            if step.index == stop:
                break
        last = weight.detach().clone()
        average.apply()
        return last, weight.detach()

    whole = run(tmp_path / "whole", None)
    run(tmp_path / "killed", 5)
    again = run(tmp_path / "killed", None)
    assert torch.equal(again[0], whole[0])
    assert torch.equal(again[1], whole[1])
    assert not torch.equal(*whole)
