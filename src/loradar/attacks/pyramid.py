"""Pyramid attack: perturbations on coarse grids as well as on pixels, the coarse ones stronger."""

from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from loradar.attacks.base import BaseAttack
from loradar.attacks.objectives import (
    Objective,
    borrowed,
    check_divergence_starts_at_random,
    detour,
    objective_of,
    without_gaps,
)
from loradar.attacks.registry import register
from loradar.attacks.settings import EPS, STEP, count, pixels, seed_setting, setting
from loradar.core.randomness import mix, uniform
from loradar.core.types import Images, Labels

GRIDS = ((4, 20.0), (8, 10.0), (0, 1.0))
"""(cells along a side, multiplier) of each level; 0 cells means every pixel."""


@register("pyramid")
@dataclass(frozen=True, kw_only=True)
class Pyramid(BaseAttack):
    """Herrmann et al., "Pyramid Adversarial Training Improves ViT Performance", 2022, section 3.2.

    x_adv = x + sum over levels of multiplier * grid, upsampled to its nearest pixels and clamped to [0, 1]. Each grid is
    clamped to +-`eps` before its multiplier, so pixels move by up to 31 * eps. `step_size` is that of the grids,
    eps / 2 unless given. `loss="kl"` ascends KL(clean || attacked) and must start at random.
    """

    eps: float = pixels(6 / 255, "Bound of each grid, in units of [0, 1] pixels.", limits=EPS["linf"])
    steps: int = count(2, "Gradient steps.")
    step_size: float | None = pixels(None, "Size of a step of the grids; none means eps / 2.", limits=STEP["linf"])
    random_start: bool = setting(True, "Start at random grids, not at the image.")
    loss: Literal["cross_entropy", "kl"] = setting(
        "kl", "What is ascended; kl is the divergence from the clean answers."
    )
    seed: int = seed_setting()

    def __post_init__(self) -> None:
        super().__post_init__()
        check_divergence_starts_at_random(self.loss, random_start=self.random_start)

    def __call__(self, model: nn.Module, x: Images, y: Labels) -> Images:
        """(batch, C, H, W) in [0, 1] and within 31 * eps of `x`. Raises BadImagesError."""
        with borrowed(model, x, y) as (x, y):
            objective = objective_of(model, x, y, self.loss)
            grids = [self._start(x, cells, level) for level, (cells, _) in enumerate(GRIDS)]
            step_size = self.eps / 2 if self.step_size is None else self.step_size
            for _ in range(self.steps):
                gradients = _gradients(objective, x, grids)
                grids = [
                    (grid + step_size * gradient.sign()).clamp(-self.eps, self.eps)
                    for grid, gradient in zip(grids, gradients, strict=True)
                ]
            return _applied(x, grids)

    def _start(self, x: Images, cells: int, level: int) -> Tensor:
        height, width = (min(cells, side) if cells else side for side in x.shape[2:])
        shape = (x.shape[1], height, width)
        if not self.random_start:
            return x.new_zeros(len(x), *shape)
        return (uniform(x, mix(self.seed, level), shape) * 2 - 1) * self.eps


def _applied(x: Images, grids: list[Tensor]) -> Images:
    moved = x
    for grid, (_, multiplier) in zip(grids, GRIDS, strict=True):
        moved = moved + multiplier * F.interpolate(grid, size=x.shape[2:], mode="nearest")
    return moved.clamp(0, 1)


def _gradients(objective: Objective, x: Images, grids: list[Tensor]) -> tuple[Tensor, ...]:
    leaves = [grid.detach().requires_grad_() for grid in grids]
    values = objective(_applied(x, leaves))
    return tuple(map(_followed, torch.autograd.grad(values.sum(), leaves)))


def _followed(gradient: Tensor) -> Tensor:
    """The gradient of a grid, with a detour for an image whose own is not finite and leaves nothing."""
    grad, gaps = without_gaps(gradient)
    lost = gaps & ~grad.flatten(1).any(1)
    return torch.where(lost[:, None, None, None], detour(grad), grad)
