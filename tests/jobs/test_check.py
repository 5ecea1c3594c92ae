"""How many images `check` takes: from one timed batch, whose gradient it needs."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from loradar.attacks import PGD
from loradar.core.errors import BadConfigError
from loradar.evaluation.battery import members, passes, probe_members
from loradar.jobs.check import affordable_images
from loradar.models import Base, wrap


class Gives(nn.Module):
    def __init__(self, output: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.fc = nn.Linear(12, 3)
        self.output = [output]

    def forward(self, x: Tensor) -> Tensor:
        return self.output[0](self.fc(x.flatten(1)))


def of(output: Callable[[Tensor], Tensor]) -> Base:
    return Base(
        model=wrap(Gives(output), [0.0] * 3, [1.0] * 3).eval(),
        num_classes=3,
        input_size=(3, 2, 2),
        classes=None,
        description={"architecture": "m"},
    )


def test_a_number_of_images_within_bounds() -> None:
    assert affordable_images(of(lambda z: z), 1e-9, [PGD()], "quick") == 50
    assert affordable_images(of(lambda z: z), 1e9, [PGD()], "quick") == 500


def test_the_seconds_cover_the_probes_of_the_next_effort_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("loradar.jobs.check.timed", lambda _: 8e-3)  # a millisecond a pass
    attack = PGD()
    own = 20 + passes(members(attack, "quick", shape=(3, 2, 2), classes=3))
    probe = passes(probe_members(attack, "quick", shape=(3, 2, 2), classes=3))
    assert probe > own
    for count, seconds in ((70, 70 * (own + probe)), (300, 300 * own + 100 * probe)):
        assert affordable_images(of(lambda z: z), 1e-3 * seconds + 1e-6, [attack], "quick") == count


@pytest.mark.parametrize(
    ("output", "says"),
    [
        (torch.Tensor.detach, "no gradient with respect to its images"),
        (torch.Tensor.to_sparse, "expected a dense one"),
        (lambda z: z[:1], "for 8 images; expected a row for each"),
    ],
)
def test_outputs_without_a_gradient_are_one_line(output: Callable[[Tensor], Tensor], says: str) -> None:
    with pytest.raises(BadConfigError, match=says):
        affordable_images(of(output), 1.0, [PGD()], "quick")
