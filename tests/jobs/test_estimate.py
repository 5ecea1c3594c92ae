"""What is said before a training begins."""

import re

import pytest

from loradar.jobs.estimate import ENOUGH_STEPS, steps_in_words
from loradar.training import FitSettings


@pytest.mark.parametrize("count", [1, 6, 60, 127, 128, 190, 240, 1000, 9000])
@pytest.mark.parametrize("epochs", [1, 8, 80, 99])
@pytest.mark.parametrize("batch", [2, 64, 100, 128])
def test_who_follows_the_advice_has_enough_steps(count: int, epochs: int, batch: int) -> None:
    few = steps_in_words(count, FitSettings(epochs=epochs, batch_size=batch))[1]
    assert bool(few) == (max(1, count // batch) * epochs < ENOUGH_STEPS)
    for name, advised in re.findall(r"--(batch-size|epochs) (\d+)", few):
        settings = {"epochs": epochs, "batch_size": batch} | {name.replace("-", "_"): int(advised)}
        assert steps_in_words(count, FitSettings(**settings))[1] == ""
