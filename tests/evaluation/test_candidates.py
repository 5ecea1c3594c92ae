"""Pictures of attacked images: what the candidate answers, and the base beside it."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from loradar.core.types import Threat
from loradar.evaluation.candidates import Candidate, ReportedImages, pictures
from tests.evaluation.toys import FirstPixel, Paint, coded_images

CLASSES = [f"class {i}" for i in range(10)]
Y = torch.arange(10)


class Elsewhere(FirstPixel):
    """Reads its class where the attack does not paint."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.flip(2))


class Broken(FirstPixel):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) * float("nan")


def drawn(model: nn.Module, threat: Threat) -> list[tuple[str, ...]]:
    x = coded_images(Y)
    x[:, 0, -1, 0] = x[:, 0, 0, 0]
    bench: Any = SimpleNamespace(
        base=SimpleNamespace(model=FirstPixel()),
        batch_size=4,
        optimized=lambda model, _attack: model,
        attacked=lambda attack, model, x, y, name: attack(model, x, y),  # noqa: ARG005
    )
    shown = pictures(
        bench,
        Candidate(name="m", model=model),
        Paint(shift=1),
        threat,
        ReportedImages(x=x, y=Y, seed=0),
        CLASSES,
    )
    return [(one.threat, one.label, one.before, one.after, one.base_answer) for one in shown]


@pytest.mark.parametrize("threat", ["transfer", "adaptive"])
def test_what_the_candidate_holds_and_what_it_loses(threat: Threat) -> None:
    assert drawn(Elsewhere(), threat) == [(threat, "class 0", "class 0", "class 0", "class 1")]
    assert drawn(FirstPixel(), threat) == [(threat, "class 0", "class 0", "class 1", "class 1")]


def test_a_model_that_breaks_has_no_picture() -> None:
    assert drawn(Broken(), "transfer") == []
