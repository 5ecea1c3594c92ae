"""A guard's models out of a base and adapter folders, and a saved guard back into a working one."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from loradar.adapters import Adapter, AdapterPool, fingerprint, load, merge_weights
from loradar.core.errors import BadConfigError, BadFileError, WrongBaseError
from loradar.core.files import sha256
from loradar.core.names import ADAPTER_WEIGHTS
from loradar.core.types import Images, Labels
from loradar.evaluation import predict
from loradar.guard.files import GuardRecord, read_guard
from loradar.guard.guard import Guard, Parts
from loradar.guard.identify import Identifier
from loradar.guard.settings import BASE
from loradar.guard.trunk import share
from loradar.models import (
    Base,
    Precision,
    cast_weights,
    foldable_conv_bn,
    open_base,
    optimize_for_inference,
    resolve_precision,
)


@dataclass(frozen=True, kw_only=True, eq=False)
class OpenGuard:
    """A guard as it was saved, its base, and its voters one by one as plain models on merged weights."""

    guard: Guard
    base: Base
    record: GuardRecord
    voters: Mapping[str, nn.Module]
    folder: Path


def open_guard(
    folder: Path | str, *, base: str | None = None, device: str = "auto", precision: Precision = "auto"
) -> OpenGuard:
    """The guard in `folder`: `open_guard(folder).guard(images)` gives logits.

    `base` is needed only where the base has moved. Raises BadFileError for a folder that is not whole, WrongBaseError
    where the base or an adapter is not the one that the guard was built of.
    """
    folder = Path(folder)
    record, identifier, gate = read_guard(folder)
    opened = open_base(base or record.base, device)
    if (found := fingerprint(opened.model)) != record.base_fingerprint:
        raise WrongBaseError(
            f"the guard in {folder} belongs to the base {record.base_fingerprint[:12]}, this one is {found[:12]}; give the "
            "base that it was built with"
        )
    adapters = {name: load(folder / "adapters" / name) for name in record.adapters}
    for name, digest in record.adapters.items():
        if sha256((folder / "adapters" / name / ADAPTER_WEIGHTS).read_bytes()) != digest:
            raise BadFileError(f"the adapter {name!r} in {folder} is not the one it was calibrated with; build it anew")
    voters = folded(opened, adapters)
    parts = parts_of(opened, voters, identifier, gate, costs=record.costs, precision=precision)
    return OpenGuard(guard=Guard(parts, record.settings), base=opened, record=record, voters=voters, folder=folder)


def named_adapters(folders: Sequence[Path]) -> dict[str, Adapter]:
    """Adapters by the name on their card. Raises BadConfigError for none, and for two of one name or of the base's."""
    if not folders:
        raise BadConfigError("a guard needs an adapter at least; give --adapter FOLDER")
    found: dict[str, Adapter] = {}
    for folder in folders:
        adapter = load(folder)
        name = adapter.card.name
        if name in (*found, BASE):
            raise BadConfigError(f"two voters are called {name!r}, one of them in {folder}; expected a name for each")
        found[name] = adapter
    AdapterPool(found)  # refuses adapters of several bases
    return found


def folded(base: Base, adapters: Mapping[str, Adapter]) -> dict[str, nn.Module]:
    """The base and every adapter on merged weights, by name. Raises WrongBaseError for an adapter of another base."""
    device = next(base.model.parameters()).device
    return {
        BASE: base.model,
        **{name: merge_weights(base.model, adapter.to(device)) for name, adapter in adapters.items()},
    }


def parts_of(
    base: Base,
    voters: Mapping[str, nn.Module],
    identifier: Identifier,
    gate: Identifier,
    *,
    costs: Mapping[str, float],
    precision: Precision,
) -> Parts:
    """What a guard is made of: frozen copies on the base's device, their weights in the type that they compute in."""
    device = next(base.model.parameters()).device
    merge = foldable_conv_bn(base.model)
    trunk, tails = share([optimize_for_inference(model, "fp32", merge=merge) for model in voters.values()])
    dtype = resolve_precision(precision, device)
    if dtype != torch.float32:
        for part in (trunk, *tails):
            cast_weights(part, dtype)
    return Parts(
        trunk=trunk.eval(),
        tails=[tail.eval() for tail in tails],
        identifier=identifier.to(device),
        gate=gate.to(device),
        costs=torch.tensor([costs[name] for name in ("trunk", *voters)], device=device),
        dtype=None if dtype == torch.float32 else dtype,
    )


def work_of(base: Base, voters: Mapping[str, nn.Module]) -> dict[str, float]:
    """The multiplications of the trunk and of each voter behind it, as shares of one forward pass of the base."""
    x = torch.zeros(1, *base.input_size, device=next(base.model.parameters()).device)
    trunk, tails = share(list(voters.values()))
    with torch.no_grad():
        shared = trunk(x)
        whole = _work(base.model, x)
        found = {"trunk": _work(trunk, x)} | {
            name: _work(tail, *shared) for name, tail in zip(voters, tails, strict=True)
        }
    return {name: work / whole for name, work in found.items()}


def _work(model: nn.Module, *inputs: Tensor) -> float:
    with FlopCounterMode(display=False) as counter:
        model(*inputs)
    return float(counter.get_total_flops())


def logits_on(model: nn.Module, x: Images, *, batch_size: int) -> Tensor:
    """(n, classes) logits on the CPU, the model being on whatever device it is."""
    device = next(model.parameters()).device
    with torch.inference_mode():
        return torch.cat([model(batch.to(device)).float().cpu() for batch in torch.split(x, batch_size)])


def right_on(model: nn.Module, x: Images, y: Labels, *, batch_size: int) -> Tensor:
    """(n,) bool."""
    return predict(model, x, batch_size=batch_size) == y
