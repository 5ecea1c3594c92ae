"""Writing an adapter's folder, which PEFT reads too: whole or not at all."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import safetensors.torch
import torch
from pydantic import TypeAdapter
from torch import Tensor, nn

from loradar.adapters.card import Card
from loradar.adapters.fits import check_fits
from loradar.adapters.model_card import model_card
from loradar.adapters.peft_format import config_of, is_plain_lora, tensors_of
from loradar.core.errors import BadFileError
from loradar.core.files import check_place, folder_atomically, sha256, write_atomically
from loradar.core.modules import unwrap
from loradar.core.names import ADAPTER_CONFIG, ADAPTER_RECORD, ADAPTER_WEIGHTS

if TYPE_CHECKING:
    from loradar.adapters.adapter import Adapter

SCHEMA = 2


@dataclass(frozen=True, kw_only=True)
class DeltaRecord:
    shape: tuple[int, ...]
    scale: float
    init_factors: int
    branch_equivalent: bool
    groups: int = 1
    bias: bool = False
    magnitude: bool = False


@dataclass(frozen=True, kw_only=True)
class Record:
    """What loradar.json holds. `tensors` gives dtype and shape of each tensor of the weights' file."""

    schema: int
    sha256: str
    card: Card
    deltas: dict[str, DeltaRecord]
    tensors: dict[str, tuple[str, tuple[int, ...]]]


RECORD = TypeAdapter(Record)


def save(adapter: Adapter, folder: str | Path, base: nn.Module | None = None) -> Path:
    """Writes `adapter` as `folder`, in the place of an adapter that may be there. Returns the folder.

    With `base` it is checked first that the adapter fits it. Raises BadFileError where the disk is full, where
    `folder` holds something else than an adapter, or where a value is not finite (training diverged).
    """
    folder = Path(folder)
    if base is not None:
        check_fits(base, adapter)
    check_place(folder, ADAPTER_CONFIG, "an adapter")
    tensors = tensors_of(adapter)
    check_finite(tensors, "the adapter")
    readable = is_plain_lora(adapter) and not _misread(adapter, base)
    weights = safetensors.torch.save(tensors, metadata={"format": "pt"})
    files = {
        ADAPTER_WEIGHTS: weights,
        ADAPTER_CONFIG: json.dumps(config_of(adapter, readable=readable), indent=2).encode(),
        ADAPTER_RECORD: RECORD.dump_json(_record(adapter, tensors, weights), indent=2),
        "README.md": model_card(adapter.card, adapter.ranks, readable=readable, size=len(weights)).encode(),
    }
    with folder_atomically(folder) as fresh:
        for name, data in files.items():
            write_atomically(fresh / name, data)
    return folder


def _misread(adapter: Adapter, base: nn.Module | None) -> bool:
    if base is None:
        return False
    # PEFT takes a module to save as the end of a name, and then misses the tensors of all that it was not meant for
    whole = {name.rpartition(".")[0] for name in adapter.modules_to_save}
    swallows = any(
        name not in whole and name.endswith(tuple(whole)) and module.state_dict()
        for name, module in unwrap(base).named_modules()
    )
    # nor does it know a head for other classes than the base's
    own = unwrap(base).state_dict()
    return swallows or any(tensor.shape != own[name].shape for name, tensor in adapter.modules_to_save.items())


def _record(adapter: Adapter, tensors: dict[str, Tensor], weights: bytes) -> Record:
    deltas = {
        name: DeltaRecord(
            shape=delta.shape,
            scale=delta.scale,
            init_factors=len(delta.init_factors[0]) if delta.init_factors else 0,
            branch_equivalent=delta.branch_equivalent,
            groups=delta.groups,
            bias=delta.bias is not None,
            magnitude=delta.magnitude is not None,
        )
        for name, delta in adapter.deltas.items()
    }
    manifest = {name: (str(t.dtype).removeprefix("torch."), tuple(t.shape)) for name, t in tensors.items()}
    return Record(schema=SCHEMA, sha256=sha256(weights), card=adapter.card, deltas=deltas, tensors=manifest)


def check_finite(tensors: dict[str, Tensor], where: str) -> None:
    for name, tensor in tensors.items():
        if not bool(torch.isfinite(tensor).all()):
            raise BadFileError(f"{where} has NaN or infinite values in {name}; expected finite ones")
