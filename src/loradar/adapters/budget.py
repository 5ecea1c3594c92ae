"""Ranks out of a size: the largest that an adapter's file of so many bytes has room for."""

import json
from collections.abc import Mapping
from math import prod
from typing import TypeAlias

import torch
from torch import Tensor, nn

from loradar.adapters.init import Init
from loradar.adapters.layers import weight_of
from loradar.adapters.peft_format import PREFIX, names_of
from loradar.adapters.ranks import largest_rank
from loradar.core.errors import BadConfigError

# in the order in which safetensors puts tensors into a file
_TYPES = {
    torch.bool: "BOOL",
    torch.uint8: "U8",
    torch.int8: "I8",
    torch.int16: "I16",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.int32: "I32",
    torch.float32: "F32",
    torch.float64: "F64",
    torch.int64: "I64",
}
Shapes: TypeAlias = Mapping[str, tuple[torch.dtype, tuple[int, ...]]]
"""What tensors are to be saved: dtype and shape by name."""


def ranks_within(
    backbone: nn.Module, groups: Mapping[str, int], whole: Mapping[str, Tensor], max_bytes: int, init: Init = "random"
) -> dict[str, int]:
    """Returns a rank for each layer of `groups`, so that the adapter's weights take at most `max_bytes` in their file.

    What is owned besides (`whole`: head and normalisation) and the file's header come off first. All layers get the same
    rank, or their smaller side where that is less, as large as fits; what is then left raises one layer after the
    other, in the model's order, while one fits. With the SVD start each layer has two pairs of factors in the file.
    Raises BadConfigError, with the least size, where rank 1 does not fit.
    """
    most = {name: largest_rank(backbone, name, own) for name, own in groups.items()}
    shapes = {name: tuple(weight_of(backbone, name).shape) for name in groups}
    owned = {PREFIX + name: (tensor.dtype, tuple(tensor.shape)) for name, tensor in whole.items()}
    pairs, dtype = (2, torch.float32) if init == "svd" else (1, torch.get_default_dtype())

    def factors(name: str, rank: int) -> dict[str, tuple[torch.dtype, tuple[int, ...]]]:
        (out, *inner), rows = shapes[name], pairs * groups[name] * rank
        second = (out, rows, 1, 1) if len(inner) == 3 else (out, rows)
        return dict(zip(names_of(name), ((dtype, (rows, *inner)), (dtype, second)), strict=True))

    def size(ranks: Mapping[str, int]) -> int:
        tensors = dict(owned)
        for name, rank in ranks.items():
            tensors |= factors(name, rank)
        return file_size(tensors)

    def capped(rank: int) -> dict[str, int]:
        return {name: min(rank, own) for name, own in most.items()}

    if (least := size(capped(1))) > max_bytes:
        layers = f"rank 1 in {len(groups)} layers, with what is trained whole," if groups else "what is trained whole"
        raise BadConfigError(
            f"max_bytes is {max_bytes}; {layers} takes {least} bytes: expected {least} or more, or fewer layers"
        )
    low, high = 1, max(most.values(), default=1)
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if size(capped(middle)) <= max_bytes else (low, middle - 1)
    ranks = capped(low)
    left, growing = max_bytes - size(ranks), list(ranks)
    while growing:
        fitting = []
        for name in growing:
            more = {**ranks, name: ranks[name] + 1}
            # the header is left for last: it takes long to write, for hundreds of layers
            is_small = ranks[name] < most[name] and sum(map(_bytes, factors(name, 1).values())) <= left
            if is_small and (now := size(more)) <= max_bytes:
                ranks, left = more, max_bytes - now
                fitting.append(name)
        growing = fitting  # what does not fit now never will
    return ranks


def file_size(tensors: Shapes) -> int:
    """Returns the bytes of the safetensors file that `save` writes of such tensors, its header included.

    >>> file_size({"weight": (torch.float32, (2, 3))})
    144
    """
    known = list(_TYPES)
    header: dict[str, object] = {"__metadata__": {"format": "pt", "loradar": "bound"}}  # as `dump_marked` writes it
    end = 0
    for name in sorted(tensors, key=lambda name: (-known.index(tensors[name][0]), name)):
        (dtype, shape), start = tensors[name], end
        end += _bytes(tensors[name])
        header[name] = {"dtype": _TYPES[dtype], "shape": shape, "data_offsets": (start, end)}
    text = json.dumps(header, separators=(",", ":")).encode()
    return 8 + -(-len(text) // 8) * 8 + end


def _bytes(tensor: tuple[torch.dtype, tuple[int, ...]]) -> int:
    dtype, shape = tensor
    return prod(shape) * dtype.itemsize
