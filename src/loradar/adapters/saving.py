"""Writing an adapter's folder, which PEFT reads too: whole or not at all."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import torch
from pydantic import Field, TypeAdapter
from pydantic_core import PydanticSerializationError
from torch import Tensor, nn

from loradar.adapters.card import Card
from loradar.adapters.fits import check_fits
from loradar.adapters.layers import STATISTICS
from loradar.adapters.model_card import model_card
from loradar.adapters.peft_format import config_of, is_plain_lora, tensors_of
from loradar.core.digests import DIGEST, digest_of, dump_marked
from loradar.core.errors import BadConfigError, BadFileError
from loradar.core.files import check_place, folder_atomically, sha256, write_atomically
from loradar.core.modules import unwrap
from loradar.core.names import ADAPTER_CONFIG, ADAPTER_RECORD, ADAPTER_WEIGHTS

if TYPE_CHECKING:
    from loradar.adapters.adapter import Adapter

SCHEMA = 3
BOUND = 3
"""The first schema with a digest over the whole record; before it the weights alone are bound."""

_Side = Annotated[int, Field(ge=1)]


@dataclass(frozen=True, kw_only=True)
class DeltaRecord:
    shape: Annotated[tuple[_Side, ...], Field(min_length=2, max_length=4)]
    scale: Annotated[float, Field(allow_inf_nan=False)]
    init_factors: Annotated[int, Field(ge=0)]
    branch_equivalent: bool
    groups: _Side = 1
    bias: bool = False
    magnitude: bool = False


@dataclass(frozen=True, kw_only=True)
class Record:
    """What loradar.json holds. `tensors` gives dtype and shape of each tensor of the weights' file.

    `digest` is that of the whole record and of adapter_config.json, "" in folders of schema 1 and 2.
    """

    schema: int
    sha256: str
    card: Card
    deltas: dict[str, DeltaRecord]
    tensors: dict[str, tuple[str, tuple[int, ...]]]
    digest: str = ""


RECORD = TypeAdapter(Record)
_FLOATS = (torch.float32, torch.float64, torch.bfloat16, torch.float16)


def save(adapter: Adapter, folder: str | Path, base: nn.Module | None = None) -> Path:
    """Writes `adapter` as `folder`, in the place of an adapter that may be there. Returns the folder.

    With `base` it is checked first that the adapter fits it. Raises BadFileError where the disk is full, where
    `folder` holds something else than an adapter, or where a value is not finite (training diverged).
    """
    folder = Path(folder)
    if base is not None:
        check_fits(base, adapter.to(next(base.parameters()).device))  # a file lies on no device
    check_place(folder, ADAPTER_CONFIG, "an adapter")
    tensors = tensors_of(adapter)
    check_finite(tensors, "the adapter")
    readable = is_plain_lora(adapter) and not _misread(adapter, base)
    weights = dump_marked(tensors)
    config = config_of(adapter, readable=readable)
    try:
        record = json.loads(RECORD.dump_json(_record(adapter, tensors, weights)))
    except PydanticSerializationError as error:
        raise BadConfigError(
            f"the card of adapter {adapter.card.name!r:.80} holds what JSON cannot say; expected Unicode text, numbers, lists "
            "and tables"
        ) from error
    record[DIGEST] = digest_of(record, bound_settings(config))
    files = {
        ADAPTER_WEIGHTS: weights,
        ADAPTER_CONFIG: json.dumps(config, indent=2).encode(),
        ADAPTER_RECORD: json.dumps(record, indent=2, ensure_ascii=False).encode(),
        "README.md": model_card(adapter.card, adapter.ranks, readable=readable, size=len(weights)).encode(),
    }
    with folder_atomically(folder) as fresh:
        for name, data in files.items():
            write_atomically(fresh / name, data)
    return folder


def bound_settings(config: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the settings in adapter_config.json that a digest covers: the base's place is the user's to fill in."""
    return {key: value for key, value in config.items() if key != "base_model_name_or_path"}


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


def check_dtypes(tensors: dict[str, Tensor], where: str) -> None:
    """Raises BadFileError for tensors that are no floats of 16 bits or more; counters of batches may be integers."""
    for name, tensor in tensors.items():
        is_counter = name.rpartition(".")[2] in STATISTICS and tensor.dtype == torch.int64
        if tensor.dtype not in _FLOATS and not is_counter:
            raise BadFileError(
                f"{where} has {name!r} in {str(tensor.dtype).removeprefix('torch.')}; expected float32, float64, bfloat16 or "
                "float16"
            )
