"""How many images `check` takes: from one timed batch, whose gradient it needs."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from loradar.core.errors import BadConfigError
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
    assert affordable_images(of(lambda z: z), 1e-9) == 50
    assert affordable_images(of(lambda z: z), 1e9) == 500


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
        affordable_images(of(output), 1.0)
