"""Singular values of what an adapter makes of a base: fewer of them, at a lower rank, or none of the start's."""

import dataclasses
from collections.abc import Mapping
from math import floor, sqrt

import scipy.linalg
import torch
from torch import Tensor, nn

from loradar.adapters.adapter import Adapter
from loradar.adapters.delta import Delta, check_low_rank, split_rows, stacked
from loradar.adapters.layers import weight_of
from loradar.adapters.plug import merge_weights
from loradar.core.errors import BadConfigError
from loradar.core.modules import unwrap


def truncate_spectrum(base: nn.Module, adapter: Adapter, keep: float) -> Adapter:
    """The adapter after which every changed weight keeps its largest singular values alone.

    Of min(out, in) singular values of the merged weight, floor(keep * min(out, in)) stay, the others become 0; a fused
    attention weight is taken as its three matrices. Exact, by the eigenvectors of the smaller Gram matrix, in float64;
    the result is an adapter again, whose rank grows by the number of values taken away. `keep` = 1 changes nothing.
    Yang et al., "Mixture of Adversarial LoRAs", 2024, section 3.4. Raises BadConfigError unless 0 < keep <= 1.
    """
    if not 0 < keep <= 1:
        raise BadConfigError(f"keep is {keep}; expected a share of the singular values above 0, at most 1")
    if keep == 1:
        return adapter
    backbone = unwrap(base)
    for name, delta in adapter.deltas.items():
        check_low_rank(delta, name)
    deltas = {name: _trimmed(weight_of(backbone, name), delta, keep) for name, delta in adapter.deltas.items()}
    card = dataclasses.replace(adapter.card, data={**adapter.card.data, "kept_singular_values": keep})
    return dataclasses.replace(adapter, deltas=deltas, card=card)


def _trimmed(weight: Tensor, delta: Delta, keep: float) -> Delta:
    merged = weight.detach().reshape(len(weight), -1) + delta.matrix().detach()
    tails = [_tail(matrix, keep) for matrix in split_rows(merged, delta.groups)]
    if not len(tails[0][0]):
        return delta
    tail = torch.cat([a for a, _ in tails]), torch.cat([-b for _, b in tails])
    own = [(delta.a, delta.b * delta.scale)]
    if delta.init_factors is not None:
        own.append((delta.init_factors[0], delta.init_factors[1] * -delta.scale))
    return stacked([*own, tail], shape=delta.shape, branch_equivalent=delta.branch_equivalent, groups=delta.groups)


def _tail(matrix: Tensor, keep: float) -> tuple[Tensor, Tensor]:
    """(a, b) whose product is the part of `matrix` that belongs to its smallest singular values."""
    tall = matrix.shape[0] > matrix.shape[1]
    exact = (matrix.T if tall else matrix).double()
    # a float product that misses a whole number by its rounding alone is that number
    kept = floor(keep * len(exact) + 1e-9)
    left = _smallest(exact @ exact.T, len(exact) - kept)
    right = left.T @ exact
    a, b = (left.T, right.T) if tall else (right, left)
    return a.to(matrix), b.to(matrix)


def _smallest(gram: Tensor, count: int) -> Tensor:
    """(n, count) the eigenvectors of the smallest eigenvalues of a symmetric matrix."""
    if gram.device.type != "cpu" or not count:
        every: Tensor = torch.linalg.eigh(gram).eigenvectors
        return every[:, :count]
    # these alone, in place of all: and torch's way takes several times longer on two threads than on one
    _, vectors = scipy.linalg.eigh(gram.numpy(), subset_by_index=[0, count - 1], driver="evr")
    return torch.from_numpy(vectors)


def truncated(adapter: Adapter, rank: int) -> Adapter:
    """The best adapter of at most `rank` per delta (Eckart and Young, 1936), with what it lost on its card.

    `card.data["truncated"]` holds the rank and the relative error: the Frobenius norm of all that was dropped over that
    of all changes. Raises BadConfigError for a rank below 1.
    """
    if rank < 1:
        raise BadConfigError(f"rank is {rank}; expected 1 or more")
    for name, delta in adapter.deltas.items():
        check_low_rank(delta, name)
    found = {name: _truncated(delta, rank) for name, delta in adapter.deltas.items()}
    lost, whole = (sum(values[i] for _, *values in found.values()) for i in (0, 1))
    error = sqrt(lost / whole) if whole else 0.0
    data = {**adapter.card.data, "truncated": {"rank": rank, "relative_error": error}}
    card = dataclasses.replace(adapter.card, data=data)
    return dataclasses.replace(adapter, deltas={name: delta for name, (delta, *_) in found.items()}, card=card)


def _truncated(delta: Delta, rank: int) -> tuple[Delta, float, float]:
    """The delta, the squared norm that it lost, and the squared norm that there was."""
    parts, lost, whole = [], 0.0, 0.0
    for matrix in split_rows(delta.matrix().detach(), delta.groups):
        u, s, vh = torch.linalg.svd(matrix.double(), full_matrices=False)
        root = s[:rank].sqrt()
        parts.append(((root[:, None] * vh[:rank]).to(matrix), (u[:, :rank] * root).to(matrix)))
        lost, whole = lost + float(s[rank:].square().sum()), whole + float(s.square().sum())
    a, b = torch.cat([a for a, _ in parts]), torch.cat([b for _, b in parts])
    return (
        stacked([(a, b)], shape=delta.shape, branch_equivalent=delta.branch_equivalent, groups=delta.groups),
        lost,
        whole,
    )


def residual(base: nn.Module, adapter: Adapter) -> nn.Module:
    """`base` with W_res = W - B0 A0 in the place of every weight whose delta has an SVD start: frozen, for a whole pool.

    Plug `on_residual(adapter)` into it: one branch then does the work of two, and the output is that of `adapter` on
    `base` up to rounding.
    """
    return merge_weights(base, _only_start(adapter), check=False)


def on_residual(adapter: Adapter) -> Adapter:
    """The same trainable tensors without the frozen part of the start, to be plugged into `residual(base, adapter)`."""
    deltas = {name: dataclasses.replace(delta, init_factors=None) for name, delta in adapter.deltas.items()}
    return dataclasses.replace(adapter, deltas=deltas)


def _only_start(adapter: Adapter) -> Adapter:
    deltas: Mapping[str, Delta] = {
        name: dataclasses.replace(delta, a=delta.init_factors[0], b=-delta.init_factors[1], init_factors=None)
        for name, delta in adapter.deltas.items()
        if delta.init_factors is not None
    }
    return Adapter(deltas=deltas, card=adapter.card)
