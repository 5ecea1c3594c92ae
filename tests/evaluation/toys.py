"""Small models and attacks whose right answers are known by construction."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from loradar.attacks import BaseAttack
from loradar.core.types import Threat
from loradar.evaluation import AccuracyResult


class FirstPixel(nn.Module):
    """Answers the class that the first pixel's brightness encodes: class = round(value * (classes - 1))."""

    def __init__(self, classes: int = 10) -> None:
        super().__init__()
        self.classes = classes
        self.levels = nn.Parameter(torch.linspace(0, 1, classes))

    def forward(self, x: Tensor) -> Tensor:
        return -((x[:, 0, 0, 0, None] - self.levels) ** 2)


@dataclass(frozen=True, kw_only=True)
class Paint(BaseAttack):
    """Writes the label's code (plus `shift`) into the first pixel: what a leaking perturbation does, made plain."""

    spec_name: ClassVar[str] = "paint"

    classes: int = 10
    shift: int = 0

    def __call__(self, model: nn.Module, x: Tensor, y: Tensor) -> Tensor:  # noqa: ARG002
        x_adv = x.clone()
        x_adv[:, 0, 0, 0] = ((y + self.shift) % self.classes).to(x) / (self.classes - 1)
        return x_adv


@dataclass(frozen=True, kw_only=True)
class Keep(BaseAttack):
    """Leaves the images as they are."""

    spec_name: ClassVar[str] = "keep"

    def __call__(self, model: nn.Module, x: Tensor, y: Tensor) -> Tensor:  # noqa: ARG002
        return x.clone()


def coded_images(labels: Tensor, classes: int = 10) -> Tensor:
    """Random images whose first pixel encodes the label."""
    x = torch.rand(len(labels), 3, 4, 4, generator=torch.Generator().manual_seed(0))
    return Paint(classes=classes)(nn.Identity(), x, labels)


def row(model: str, attack: str, threat: Threat, correct: int, against: str = "") -> AccuracyResult:
    return AccuracyResult.count(
        model=model, attack=attack, threat=threat, correct=correct, total=500, seed=0, trained_against=against
    )
