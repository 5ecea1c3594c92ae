"""How a delta starts: at random, at zero (never learns), or from the weight's largest singular vectors."""

import zlib
from math import prod
from typing import Literal, TypeAlias, get_args

import torch
from torch import Tensor

from loradar.adapters.delta import Delta
from loradar.core.errors import BadConfigError, BadTargetError, did_you_mean
from loradar.core.randomness import generator

Init: TypeAlias = Literal["random", "zeros", "svd"]


def init_delta(
    weight: Tensor,
    rank: int,
    kind: Init = "random",
    seed: int = 0,
    *,
    name: str = "weight",
    scale: float = 1.0,
    branch_equivalent: bool = True,
    groups: int = 1,
) -> Delta:
    """A trainable delta of `weight` that changes nothing yet. `name` is the weight's, for its stream and for errors.

    random: A uniform in +-1/sqrt(in) (Kaiming uniform, a = sqrt 5), B zero, as in LoRA.
    zeros: both zero. The gradients of A and B are B^T G and G A^T, so both stay zero for ever: only for comparison.
    svd: A and B from the top `rank` singular triples of the weight, and the same pair subtracted, frozen (PiSSA).
    Each of `groups` matrices has its own start. Raises BadTargetError for a rank that exceeds the smaller side.
    """
    shape = tuple(weight.shape)
    out, inner = shape[0], prod(shape[1:])
    check_rank(rank, min(out // groups, inner), name)
    init_factors = None
    if kind == "svd":
        pairs = [principal_factors(matrix, rank, scale) for matrix in weight.chunk(groups)]
        a, b = torch.cat([a for a, _ in pairs]), torch.cat([b for _, b in pairs])
        init_factors = (a.clone(), b.clone())
    elif kind in ("random", "zeros"):
        a, b = torch.zeros(groups * rank, inner), torch.zeros(out, rank)
        if kind == "random":
            a.uniform_(-(inner**-0.5), inner**-0.5, generator=generator(seed, zlib.crc32(name.encode())))
        a, b = a.to(weight.device), b.to(weight.device)
    else:
        raise BadConfigError(f"there is no start {kind!r}; {did_you_mean(kind, get_args(Init))}")
    return Delta(
        a=a.requires_grad_(),
        b=b.requires_grad_(),
        shape=shape,
        scale=scale,
        init_factors=init_factors,
        branch_equivalent=branch_equivalent,
        groups=groups,
    )


def check_rank(rank: int, most: int, name: str) -> None:
    """Raises BadTargetError for a rank that is not 1 to `most`, the smaller side of the weight `name`."""
    if not 1 <= rank <= most:
        wrong = f"exceeds {most}, the smaller side of {name}" if rank > 0 else "is below 1"
        raise BadTargetError(f"rank {rank} {wrong}; expected 1 to {most}")


def principal_factors(weight: Tensor, rank: int, scale: float = 1.0) -> tuple[Tensor, Tensor]:
    """Returns a (rank, in) and b (out, rank), whose product times `scale` is nearest to `weight`, a matrix or a kernel."""
    # in float64 on the CPU: the same factors on every machine, to the precision of the file
    matrix = weight.detach().to("cpu", torch.float64).reshape(len(weight), -1)
    u, s, vh = torch.linalg.svd(matrix, full_matrices=False)
    root = (s[:rank] / scale).sqrt()
    a, b = root[:, None] * vh[:rank], u[:, :rank] * root
    return a.to(weight.device, torch.float32), b.to(weight.device, torch.float32)
