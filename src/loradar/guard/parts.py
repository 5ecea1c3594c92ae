"""What a guard runs: its voters on merged weights, split into what they share and what each adds, with their costs."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from loradar.adapters import Adapter, merge_weights
from loradar.evaluation import device_of
from loradar.guard.settings import BASE
from loradar.guard.trunk import Trunk, share
from loradar.models import (
    Base,
    Precision,
    cast_weights,
    foldable_conv_bn,
    optimize_for_inference,
    resolve_precision,
)


@dataclass(frozen=True, kw_only=True, eq=False)
class Parts:
    """The models of a guard; guards that differ in their settings alone share them.

    `tails` are the voters behind the `trunk`, the base first; `costs` (1 + voters,) the trunk's and each tail's share of a
    forward pass of the base. `dtype` is what they compute in (None: their own); all else is float32.
    """

    trunk: Trunk
    tails: Sequence[nn.Module]
    costs: Tensor
    dtype: torch.dtype | None = None


def merged_voters(base: Base, adapters: Mapping[str, Adapter]) -> dict[str, nn.Module]:
    """Merges every adapter into a copy of the base; the base comes first. Raises WrongBaseError."""
    device = device_of(base.model)
    merged = {name: merge_weights(base.model, adapter.to(device)) for name, adapter in adapters.items()}
    return {BASE: base.model, **merged}


def assemble(
    base: Base, adapters: Mapping[str, Adapter], *, costs: Mapping[str, float], precision: Precision = "auto"
) -> Parts:
    """Makes copies of the voters that only infer, on the base's device. Raises WrongBaseError."""
    voters, device = merged_voters(base, adapters), device_of(base.model)
    merge = foldable_conv_bn(base.model)
    trunk, tails = share([optimize_for_inference(model, "fp32", merge=merge) for model in voters.values()])
    dtype = resolve_precision(precision, device)
    if dtype != torch.float32:
        for part in (trunk, *tails):
            cast_weights(part, dtype)
    return Parts(
        trunk=trunk.eval(),
        tails=[tail.eval() for tail in tails],
        costs=torch.tensor([costs[name] for name in ("trunk", *voters)], device=device),
        dtype=None if dtype == torch.float32 else dtype,
    )


def measure_costs(base: Base, voters: Mapping[str, nn.Module]) -> dict[str, float]:
    """Counts the multiplications of the trunk and of each voter behind it, as shares of one forward pass of the base."""
    x = torch.zeros(1, *base.input_size, device=device_of(base.model))
    trunk, tails = share(list(voters.values()))
    with torch.no_grad():
        shared = trunk(x)
        whole = _flops(base.model, x)
        flops = {"trunk": _flops(trunk, x)}
        flops |= {name: _flops(tail, *shared) for name, tail in zip(voters, tails, strict=True)}
    return {name: count / whole for name, count in flops.items()}


def _flops(model: nn.Module, *inputs: Tensor) -> float:
    with FlopCounterMode(display=False) as counter:
        model(*inputs)
    return float(counter.get_total_flops())
