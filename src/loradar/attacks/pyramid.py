"""Pyramid attack: perturbations on coarse grids as well as on pixels, the coarse ones stronger."""

from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from loradar.attacks.objectives import Objective, borrowed, check_counts, check_divergence_starts_at_random
from loradar.attacks.pgd import objective_of
from loradar.core.errors import BadConfigError
from loradar.core.randomness import mix, uniform
from loradar.core.types import Images, Labels

GRIDS = ((4, 20.0), (8, 10.0), (0, 1.0))
"""(cells along a side, multiplier) of each level; 0 cells means every pixel."""


@dataclass(frozen=True, kw_only=True)
class Pyramid:
    """Herrmann et al., "Pyramid Adversarial Training Improves ViT Performance", 2022, section 3.2.

    x_adv = x + sum over levels of multiplier * grid, upsampled to its nearest pixels and clamped to [0, 1]. Each grid is
    clamped to +-`radius` before its multiplier, so pixels move by up to 31 * radius. `step` is that of the grids,
    radius / 2 unless given. `loss="kl"` ascends KL(clean || attacked) and must start at random.
    """

    radius: float = 6 / 255
    step: float | None = None
    steps: int = 2
    random_start: bool = True
    loss: Literal["cross_entropy", "kl"] = "kl"
    seed: int = 0

    def __post_init__(self) -> None:
        check_counts(steps=self.steps)
        check_divergence_starts_at_random(self.loss, random_start=self.random_start)
        if not self.radius >= 0:
            raise BadConfigError(f"radius is {self.radius}; expected 0 or more, in units of [0, 1] pixels")

    def __call__(self, model: nn.Module, x: Images, y: Labels) -> Images:
        """(batch, C, H, W) in [0, 1] and within 31 * radius of `x`. Raises BadImagesError."""
        with borrowed(model, x, y) as (x, y):
            objective = objective_of(model, x, y, self.loss)
            grids = [self._start(x, cells, level) for level, (cells, _) in enumerate(GRIDS)]
            step = self.radius / 2 if self.step is None else self.step
            for _ in range(self.steps):
                gradients = _gradients(objective, x, grids)
                grids = [
                    (grid + step * gradient.sign()).clamp(-self.radius, self.radius)
                    for grid, gradient in zip(grids, gradients, strict=True)
                ]
            return _applied(x, grids)

    def _start(self, x: Images, cells: int, level: int) -> Tensor:
        height, width = (min(cells, side) if cells else side for side in x.shape[2:])
        shape = (x.shape[1], height, width)
        if not self.random_start:
            return x.new_zeros(len(x), *shape)
        return (uniform(x, mix(self.seed, level), shape) * 2 - 1) * self.radius


def _applied(x: Images, grids: list[Tensor]) -> Images:
    moved = x
    for grid, (_, multiplier) in zip(grids, GRIDS, strict=True):
        moved = moved + multiplier * F.interpolate(grid, size=x.shape[2:], mode="nearest")
    return moved.clamp(0, 1)


def _gradients(objective: Objective, x: Images, grids: list[Tensor]) -> tuple[Tensor, ...]:
    leaves = [grid.detach().requires_grad_() for grid in grids]
    values = objective(_applied(x, leaves))
    return torch.autograd.grad(values.sum(), leaves)
