"""A low-rank change of one weight: scale * B A, for a Linear or a Conv2d.

Hu et al., "LoRA: Low-Rank Adaptation of Large Language Models", 2021, section 4.1; a convolution's weight is taken as
the matrix (out, in * height * width).
"""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from math import isfinite, prod

import torch
from torch import Tensor

from loradar.core.errors import BadTargetError


@dataclass(frozen=True, kw_only=True, eq=False)
class Delta:
    """The change scale * (b @ a - b0 @ a0) of a weight of `shape`.

    a (rank, in), b (out, rank), where `in` is all of the weight's dimensions but the first, multiplied. `init_factors` is
    (a0, b0), the frozen part that the SVD start subtracts (Meng et al., "PiSSA", 2024, section 3), or None.
    With `groups`, the weight is that many matrices one above the other (query, key and value of a fused attention
    layer), each with factors of its own: a (groups * rank, in) holds theirs in turn, b (out, rank) has their rows.
    `branch_equivalent` says whether the weight belongs to a layer where B(A x) beside the layer's own output equals the
    changed layer (see `layers.is_branch_equivalent`); PEFT computes that and nothing else.
    Folders of PEFT may have two things more: `bias` (out,), which times the scale is added to the layer's output
    (`lora_bias`), and `magnitude` (out,), the lengths that the rows of the changed weight get (Liu et al., "DoRA", 2024,
    section 4). Raises BadTargetError where shapes or dtypes do not fit, and for a scale that is not finite.
    """

    a: Tensor
    b: Tensor
    shape: tuple[int, ...]
    scale: float = 1.0
    init_factors: tuple[Tensor, Tensor] | None = None
    branch_equivalent: bool = True
    groups: int = 1
    bias: Tensor | None = None
    magnitude: Tensor | None = None

    def __post_init__(self) -> None:
        if self.groups < 1 or not isfinite(self.scale):
            raise BadTargetError(
                f"a delta of {self.groups} groups and scale {self.scale}; expected 1 or more, and finite"
            )
        for a, b in (self.a, self.b), *([self.init_factors] if self.init_factors else []):
            out, inner = self.shape[0], prod(self.shape[1:])
            fit = a.ndim == b.ndim == 2 and out % self.groups == 0
            if not fit or b.shape[0] != out or len(a) != self.groups * b.shape[1] or a.shape[1] != inner:
                rows = "rank" if self.groups == 1 else f"{self.groups} * rank"
                raise BadTargetError(
                    f"factors of shapes {tuple(a.shape)} and {tuple(b.shape)} do not fit a weight of {self.shape}; "
                    f"expected ({rows}, {inner}) and ({out}, rank)"
                )
            if a.dtype != b.dtype or a.dtype != self.a.dtype:
                raise BadTargetError(f"factors of {a.dtype} and {b.dtype}; expected one dtype")
        for vector in (self.bias, self.magnitude):
            if vector is not None and tuple(vector.shape) != self.shape[:1]:
                raise BadTargetError(f"a bias or magnitude of {tuple(vector.shape)}; expected {self.shape[:1]}")

    @property
    def tensors(self) -> dict[str, Tensor]:
        """What is trained, by PEFT's names."""
        own = {"lora_A": self.a, "lora_B": self.b, "lora_bias": self.bias, "lora_magnitude_vector": self.magnitude}
        return {name: tensor for name, tensor in own.items() if tensor is not None}

    @property
    def rank(self) -> int:
        """The rank of what is trained; the frozen part comes on top of it (see `factors`)."""
        return len(self.a)

    def matrix(self) -> Tensor:
        """(out, in), differentiable in `a` and `b`, exactly 0 for a fresh delta."""
        product = self._product(self.a, self.b)
        if self.init_factors is not None:
            # two products rather than one of concatenated factors: equal factors then cancel to the last bit
            product = product - self._product(*self.init_factors)
        return product if self.scale == 1 else product * self.scale

    def _product(self, a: Tensor, b: Tensor) -> Tensor:
        if self.groups == 1:
            return b @ a
        return (split_rows(b, self.groups) @ split_rows(a, self.groups)).flatten(0, 1)

    def weight(self) -> Tensor:
        """The same in the shape of the weight."""
        return self.matrix().reshape(self.shape)

    def changed(self, weight: Tensor) -> Tensor:
        """Returns `weight` with the change, in its dtype; differentiable."""
        changed = weight + self.weight().to(weight.dtype)
        if self.magnitude is None:
            return changed
        return (changed.flatten(1) * self.gain(weight, changed)[:, None]).view_as(changed)

    def gain(self, weight: Tensor, changed: Tensor | None = None) -> Tensor:
        """(out,): what the rows of the changed weight are multiplied by, the magnitude over their length.

        Of a grouped convolution `weight` is the layer's own, and the lengths are those that PEFT takes there
        (peft/tuners/lora/dora.py): of the weight plus the product of the factors as if they had no groups, its numbers
        filled into the weight's shape in their order.
        """
        assert self.magnitude is not None
        if tuple(weight.shape) != self.shape:
            product = self.b.reshape(-1, self.rank) @ self.a * self.scale
            changed = weight + product.view_as(weight).to(weight.dtype)
        elif changed is None:
            changed = weight + self.weight().to(weight.dtype)
        # the lengths are constants to the gradient, as in the paper's section 4.3 and in PEFT
        lengths = torch.linalg.vector_norm(changed.detach().flatten(1), dim=1)
        gain: Tensor = self.magnitude.to(weight.dtype) / lengths
        return gain

    def is_sane(self, weight: Tensor | None = None) -> bool:
        """Whether what the change is computed of is finite, and its values, in the dtype of `weight`, have finite squares.

        Larger ones overflow a layer or two later: the logits would be NaN.
        """
        dtype = self.a.dtype if weight is None else weight.dtype
        most = min(torch.finfo(self.a.dtype).max, torch.finfo(dtype).max)
        pairs = [(self.a, self.b), *([self.init_factors] if self.init_factors else [])]
        inner = [a.shape[1] * _largest(a) for a, _ in pairs]
        outer = [abs(self.scale) * _largest(b) for _, b in pairs]
        bias = 0.0 if self.bias is None else abs(self.scale) * _largest(self.bias)
        if max(abs(self.scale), bias, *inner, *outer) > most:
            return False
        # a bound of the product, which then need not be made
        if self.magnitude is None and self.rank * sum(a * b for a, b in zip(inner, outer, strict=True)) < most**0.5:
            return True
        with torch.no_grad():
            change = self.weight().to(dtype)
            if weight is not None and change.shape == weight.shape:
                change = self.changed(weight)
            elif weight is not None and self.magnitude is not None:
                change = (change.abs() + _largest(weight)) * _largest(self.gain(weight))
            return bool(_largest(change) < most**0.5)

    def factors(self) -> tuple[Tensor, Tensor]:
        """A (all ranks, in) and B (out, all ranks) of the same change, the frozen part included: scale * B @ A."""
        pairs = [(self.a, self.b)]
        if self.init_factors is not None:
            a0, b0 = self.init_factors
            pairs.append((a0, -b0))
        a = torch.cat([a for a, _ in pairs])
        return a.detach(), torch.cat([self.wide(b) for _, b in pairs], dim=1).detach()

    def wide(self, b: Tensor) -> Tensor:
        """`b` with a column for every row of its `a`: block-diagonal where there are groups."""
        return b if self.groups == 1 else torch.block_diag(*b.chunk(self.groups))  # type: ignore[no-untyped-call]

    def to(self, device: torch.device | str) -> "Delta":
        """A copy on `device`, trainable as this one."""
        init_factors = (
            None
            if self.init_factors is None
            else (_copy(self.init_factors[0], device), _copy(self.init_factors[1], device))
        )
        bias, magnitude = (None if t is None else _copy(t, device) for t in (self.bias, self.magnitude))
        return dataclasses.replace(
            self,
            a=_copy(self.a, device),
            b=_copy(self.b, device),
            init_factors=init_factors,
            bias=bias,
            magnitude=magnitude,
        )


def check_low_rank(delta: Delta, layer: str) -> None:
    """Raises BadTargetError for a delta that is more than its factors, and can be neither blended nor shortened."""
    if delta.bias is not None or delta.magnitude is not None:
        kind = "a bias (lora_bias)" if delta.magnitude is None else "lengths (DoRA)"
        raise BadTargetError(
            f"the delta of {layer} has {kind} beside its factors, which cannot be blended or brought to another rank; plug "
            "it or merge its weights as it is"
        )


def _largest(tensor: Tensor) -> float:
    return float(tensor.detach().abs().amax()) if tensor.numel() else 0.0


def split_rows(matrix: Tensor, groups: int) -> Tensor:
    """(rows, columns) as (groups, rows / groups, columns)."""
    return matrix.reshape(groups, -1, matrix.shape[1])


def stacked(
    factors: Sequence[tuple[Tensor, Tensor]], *, shape: tuple[int, ...], branch_equivalent: bool = True, groups: int = 1
) -> Delta:
    """The delta of scale 1 that is the sum of all b @ a: the ranks add up. Each `a` (groups * rank, in), b (out, rank)."""
    a = torch.cat([split_rows(a.detach(), groups) for a, _ in factors], dim=1).flatten(0, 1)
    b = torch.cat([b.detach() for _, b in factors], dim=1)
    return Delta(
        a=a.requires_grad_(), b=b.requires_grad_(), shape=shape, branch_equivalent=branch_equivalent, groups=groups
    )


def narrowed(b: Tensor, groups: int) -> Tensor:
    """The blocks of a block-diagonal (out, groups * rank), one above the other: (out, rank). Undoes `Delta.wide`."""
    rows, columns = split_rows(b, groups), b.shape[1] // groups
    return torch.cat([rows[i, :, i * columns : (i + 1) * columns] for i in range(groups)]).contiguous()


def _copy(tensor: Tensor, device: torch.device | str) -> Tensor:
    return tensor.detach().to(device, copy=True).requires_grad_(tensor.requires_grad)
