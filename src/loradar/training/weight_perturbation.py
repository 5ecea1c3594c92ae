"""Training at the worst nearby weights: the gradient is taken where the loss is higher, and applied to where we are."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor


class WeightPerturbation(Protocol):
    """How far, and which of the factors at a time."""

    def deltas(self, parameters: Sequence[Tensor], gradients: Sequence[Tensor]) -> list[Tensor]: ...

    def together(self, groups: Sequence[Sequence[Tensor]]) -> list[list[Tensor]]:
        """What of `groups` (all A's, all B's) is moved at a time."""
        ...


@dataclass(frozen=True, kw_only=True)
class RawPerturbation:
    """delta = step * gradient, each group of factors moved alone (Yang et al. 2024, section 3.2)."""

    step: float = 1e-4

    def deltas(self, parameters: Sequence[Tensor], gradients: Sequence[Tensor]) -> list[Tensor]:  # noqa: ARG002
        return [self.step * gradient for gradient in gradients]

    def together(self, groups: Sequence[Sequence[Tensor]]) -> list[list[Tensor]]:
        return [list(group) for group in groups]


@dataclass(frozen=True, kw_only=True)
class AWP:
    """delta = gamma * |T| * g / |g| for each factor T, all moved together (Wu et al., "AWP", 2020, equation 11)."""

    gamma: float = 5e-3

    def deltas(self, parameters: Sequence[Tensor], gradients: Sequence[Tensor]) -> list[Tensor]:
        tiny = torch.finfo(torch.float32).tiny
        return [
            self.gamma * p.detach().norm() * g / g.norm().clamp_min(tiny)
            for p, g in zip(parameters, gradients, strict=True)
        ]

    def together(self, groups: Sequence[Sequence[Tensor]]) -> list[list[Tensor]]:
        return [[tensor for group in groups for tensor in group]]


@contextmanager
def moved(parameters: Sequence[Tensor], deltas: Sequence[Tensor]) -> Iterator[None]:
    """`parameters` plus `deltas` for the time of the block; then the very bits that were there before."""
    kept = [p.detach().clone() for p in parameters]
    try:
        with torch.no_grad():
            for p, delta in zip(parameters, deltas, strict=True):
                p += delta
        yield
    finally:
        with torch.no_grad():
            for p, before in zip(parameters, kept, strict=True):
                p.copy_(before)


def perturbed_loss(
    loss: Callable[[], Tensor],
    groups: Sequence[Sequence[Tensor]],
    perturbation: WeightPerturbation | None,
    *,
    average: Callable[[Sequence[Tensor]], None] | None = None,
) -> Tensor:
    """A scalar with the value of `loss()` here and the gradient that it has at the perturbed weights.

    `loss` is computed anew after every move: everything that depends on the weights has to be computed within it. Without
    a perturbation it is `loss()` itself. `average` puts the means over several processes in the place of the gradients that
    say where to move, so that all move alike. Keep the weights in float32: at gamma = 1e-4 a move is lost in bfloat16.
    """
    if perturbation is None:
        return loss()
    every = [tensor for group in groups for tensor in group]
    here = loss()
    directions = torch.autograd.grad(here, every)
    if average is not None:
        directions = tuple(each.clone() for each in directions)  # one may be a view of a single number
        average(directions)
    uphill = dict(zip(map(id, every), directions, strict=True))
    value = here.detach()
    total = torch.zeros_like(value)
    for group in perturbation.together(groups):
        with moved(group, perturbation.deltas(group, [uphill[id(p)] for p in group])):
            gradients = torch.autograd.grad(loss(), group)
        # a product with constants: its gradient is those constants
        total = total + sum((p * g).sum() for p, g in zip(group, gradients, strict=True))
    return value + total - total.detach()
