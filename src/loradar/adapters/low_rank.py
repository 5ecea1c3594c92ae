"""A low-rank change of one weight: scale * B A, for a Linear or a Conv2d.

Hu et al., "LoRA: Low-Rank Adaptation of Large Language Models", 2021, section 4.1; a convolution's weight is taken as
the matrix (out, in * height * width).
"""

import dataclasses
from dataclasses import dataclass
from math import prod

import torch
from torch import Tensor

from loradar.core.errors import BadTargetError


@dataclass(frozen=True, kw_only=True, eq=False)
class Delta:
    """The change scale * (b @ a - b0 @ a0) of a weight of `shape`.

    a (rank, in), b (out, rank), where `in` is all of the weight's dimensions but the first, multiplied. `minus` is
    (a0, b0), the frozen part that the SVD start subtracts (Meng et al., "PiSSA", 2024, section 3), or None.
    `plain` says whether the weight belongs to a layer where B(A x) beside the layer's own output equals the changed
    layer (see `layers.is_plain`); PEFT computes that and nothing else. Raises BadTargetError where shapes do not fit.
    """

    a: Tensor
    b: Tensor
    shape: tuple[int, ...]
    scale: float = 1.0
    minus: tuple[Tensor, Tensor] | None = None
    plain: bool = True

    def __post_init__(self) -> None:
        for a, b in (self.a, self.b), *([self.minus] if self.minus else []):
            out, inner = self.shape[0], prod(self.shape[1:])
            if a.ndim != 2 or b.ndim != 2 or b.shape != (out, len(a)) or a.shape[1] != inner:
                raise BadTargetError(
                    f"factors of shapes {tuple(a.shape)} and {tuple(b.shape)} do not fit a weight of {self.shape}; "
                    f"expected (rank, {inner}) and ({out}, rank)"
                )

    @property
    def rank(self) -> int:
        """The rank of what is trained; the frozen part comes on top of it (see `factors`)."""
        return len(self.a)

    def matrix(self) -> Tensor:
        """(out, in), differentiable in `a` and `b`, exactly 0 for a fresh delta."""
        product = self.b @ self.a
        if self.minus is not None:
            a0, b0 = self.minus
            # two products rather than one of concatenated factors: equal factors then cancel to the last bit
            product = product - b0 @ a0
        return product * self.scale

    def weight(self) -> Tensor:
        """The same in the shape of the weight."""
        return self.matrix().reshape(self.shape)

    def factors(self) -> tuple[Tensor, Tensor]:
        """A (all ranks, in) and B (out, all ranks) of the same change, the frozen part included: scale * B @ A."""
        if self.minus is None:
            return self.a.detach(), self.b.detach()
        a0, b0 = self.minus
        return torch.cat([self.a, a0]).detach(), torch.cat([self.b, -b0], dim=1).detach()

    def to(self, device: torch.device | str) -> "Delta":
        """A copy on `device`, trainable as this one."""
        minus = None if self.minus is None else (_copy(self.minus[0], device), _copy(self.minus[1], device))
        return dataclasses.replace(self, a=_copy(self.a, device), b=_copy(self.b, device), minus=minus)


def _copy(tensor: Tensor, device: torch.device | str) -> Tensor:
    return tensor.detach().to(device, copy=True).requires_grad_(tensor.requires_grad)
