"""The sets that perturbations live in: project, sample, steepest direction. Radii are in units of [0, 1] pixels."""

import math
from dataclasses import dataclass
from typing import Literal, TypeAlias

import torch
from torch import Tensor

from loradar.core.errors import BadConfigError
from loradar.core.randomness import normal, uniform
from loradar.core.types import Images

Norm: TypeAlias = Literal["linf", "l2"]


def _check_radius(radius: float) -> None:
    if not 0 <= radius < math.inf:
        raise BadConfigError(f"radius is {radius}; expected 0 or more and finite, in units of [0, 1] pixels")


@dataclass(frozen=True, kw_only=True)
class Linf:
    """Every pixel value within `radius` of the original."""

    radius: float

    def __post_init__(self) -> None:
        _check_radius(self.radius)

    def project(self, x_adv: Images, x: Images) -> Images:
        return x + (x_adv - x).clamp(-self.radius, self.radius)

    def sample(self, x: Images, seed: int) -> Images:
        return x + (uniform(x, seed, tuple(x.shape[1:])) * 2 - 1) * self.radius

    def steepest(self, grad: Tensor) -> Tensor:
        return grad.sign()


@dataclass(frozen=True, kw_only=True)
class L2:
    """The Euclidean distance of the whole image from the original at most `radius`."""

    radius: float

    def __post_init__(self) -> None:
        _check_radius(self.radius)

    def project(self, x_adv: Images, x: Images) -> Images:
        delta = x_adv - x
        return x + delta * (self.radius / _length(delta).clamp_min(1e-12)).clamp_max(1)

    def sample(self, x: Images, seed: int) -> Images:
        direction = normal(x, seed, tuple(x.shape[1:]))
        # the radius of a uniform point of a d-dimensional ball is the d-th root of a uniform draw
        share = uniform(x, seed + 1, (1, 1, 1)) ** (1 / x[0].numel())
        return x + direction / _length(direction) * share * self.radius

    def steepest(self, grad: Tensor) -> Tensor:
        return grad / _length(grad).clamp_min(1e-12)


def norm_ball(norm: Norm, eps: float) -> Linf | L2:
    """The ball of radius `eps` in the norm of that name."""
    return Linf(radius=eps) if norm == "linf" else L2(radius=eps)


@dataclass(frozen=True, kw_only=True, eq=False)
class Rectangle:
    """Anything inside a mask, nothing outside it. `mask` is bool, (batch, 1, height, width)."""

    mask: Tensor

    def project(self, x_adv: Images, x: Images) -> Images:
        return torch.where(self.mask, x_adv, x)

    def sample(self, x: Images, seed: int) -> Images:
        return torch.where(self.mask, uniform(x, seed, tuple(x.shape[1:])), x)

    def steepest(self, grad: Tensor) -> Tensor:
        return grad.sign() * self.mask


def _length(delta: Tensor) -> Tensor:
    length: Tensor = delta.flatten(1).norm(dim=1)
    return length[:, None, None, None]
