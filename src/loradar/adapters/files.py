"""Adapters on disk: a folder that PEFT reads too. Written whole or not at all, checked when read, never a pickle."""

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from pydantic import TypeAdapter, ValidationError
from safetensors import SafetensorError
from torch import Tensor, nn

from loradar.adapters.adapter import Adapter, keep
from loradar.adapters.card import Card
from loradar.adapters.delta import Delta, narrowed
from loradar.adapters.model_card import model_card
from loradar.adapters.peft_format import PREFIX, config_of, from_peft, names_of, tensors_of
from loradar.adapters.plug import check_fits
from loradar.core.errors import BadFileError, LoradarError
from loradar.core.files import check_place, folder_atomically, sha256, write_atomically
from loradar.core.modules import unwrap
from loradar.core.names import ADAPTER_CONFIG, ADAPTER_RECORD, ADAPTER_WEIGHTS
from loradar.core.old_attacks import with_specs

SCHEMA = 2


@dataclass(frozen=True, kw_only=True)
class _DeltaRecord:
    shape: tuple[int, ...]
    scale: float
    init_factors: int
    branch_equivalent: bool
    groups: int = 1


@dataclass(frozen=True, kw_only=True)
class _Record:
    """What loradar.json holds. `tensors` gives dtype and shape of each tensor of the weights' file."""

    schema: int
    sha256: str
    card: Card
    deltas: dict[str, _DeltaRecord]
    tensors: dict[str, tuple[str, tuple[int, ...]]]


_RECORD = TypeAdapter(_Record)


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
    _check_finite(tensors, "the adapter")
    readable = all(delta.branch_equivalent for delta in adapter.deltas.values()) and not _misread(adapter, base)
    weights = safetensors.torch.save(tensors, metadata={"format": "pt"})
    files = {
        ADAPTER_WEIGHTS: weights,
        ADAPTER_CONFIG: json.dumps(config_of(adapter, readable=readable), indent=2).encode(),
        ADAPTER_RECORD: _RECORD.dump_json(_record(adapter, tensors, weights), indent=2),
        "README.md": model_card(adapter.card, readable=readable, size=len(weights)).encode(),
    }
    with folder_atomically(folder) as fresh:
        for name, data in files.items():
            write_atomically(fresh / name, data)
    return folder


def load(folder: str | Path) -> Adapter:
    """The adapter of `folder`, on the CPU, ready to be trained on; ours, or one that PEFT wrote.

    A folder of PEFT's does not say which base it is for: its card has the base_fingerprint "". Raises BadFileError for
    what is missing, truncated, tampered with or not finite, and for pickles (.bin, .pt), which are never read.
    """
    folder = Path(folder)
    config, weights = _json(folder / ADAPTER_CONFIG), _read(folder / ADAPTER_WEIGHTS)
    record = _read_record(folder / ADAPTER_RECORD) if (folder / ADAPTER_RECORD).exists() else None
    if record is not None and sha256(weights) != record.sha256:
        raise BadFileError(
            f"{folder / ADAPTER_WEIGHTS} is truncated or changed: {ADAPTER_RECORD} has another sha256; get it anew"
        )
    try:
        tensors = safetensors.torch.load(weights)
    except (SafetensorError, ValueError, KeyError) as error:
        raise BadFileError(f"{folder / ADAPTER_WEIGHTS} is not a safetensors file ({error}); get it anew") from error
    _check_finite(tensors, str(folder / ADAPTER_WEIGHTS))
    return from_peft(config, tensors) if record is None else _rebuild(record, tensors)


def verify(folder: str | Path, base: nn.Module | None = None) -> list[str]:
    """What is wrong with `folder`, or with using it on `base`, a line each; empty when all is well."""
    folder = Path(folder)
    try:
        adapter = load(folder)
    except LoradarError as error:
        return [str(error)]
    problems = []
    if (folder / ADAPTER_RECORD).exists():
        config = _json(folder / ADAPTER_CONFIG)
        # whether PEFT may read it hung on the base as well, which need not be given here
        expected = config_of(adapter, readable=config.get("peft_type") == "LORA")
        odd = [key for key, value in expected.items() if key != "base_model_name_or_path" and config.get(key) != value]
        problems += [
            f"{ADAPTER_CONFIG} has {key} {config.get(key)!r}; the weights are for {expected[key]!r}" for key in odd
        ]
    if base is not None:
        try:
            check_fits(base, adapter.to(next(base.parameters()).device))
        except LoradarError as error:
            problems.append(str(error))
    return problems


def _misread(adapter: Adapter, base: nn.Module | None) -> bool:
    if base is None:
        return False
    # PEFT takes a module to save as the end of a name, and then misses the tensors of all that it was not meant for
    whole = {name.rpartition(".")[0] for name in adapter.modules_to_save}
    swallows = any(name not in whole and name.endswith(tuple(whole)) for name, _ in unwrap(base).named_modules())
    # nor does it know a head for other classes than the base's
    own = unwrap(base).state_dict()
    return swallows or any(tensor.shape != own[name].shape for name, tensor in adapter.modules_to_save.items())


def _record(adapter: Adapter, tensors: dict[str, Tensor], weights: bytes) -> _Record:
    deltas = {
        name: _DeltaRecord(
            shape=delta.shape,
            scale=delta.scale,
            init_factors=len(delta.init_factors[0]) if delta.init_factors else 0,
            branch_equivalent=delta.branch_equivalent,
            groups=delta.groups,
        )
        for name, delta in adapter.deltas.items()
    }
    manifest = {name: (str(t.dtype).removeprefix("torch."), tuple(t.shape)) for name, t in tensors.items()}
    return _Record(schema=SCHEMA, sha256=sha256(weights), card=adapter.card, deltas=deltas, tensors=manifest)


def _rebuild(record: _Record, tensors: dict[str, Tensor]) -> Adapter:
    found = {name: (str(t.dtype).removeprefix("torch."), tuple(t.shape)) for name, t in tensors.items()}
    if found != record.tensors:
        odd = min(name for name, _ in found.items() ^ record.tensors.items())
        raise BadFileError(
            f"{ADAPTER_WEIGHTS} has {odd} as {found.get(odd)}; {ADAPTER_RECORD} expects {record.tensors.get(odd)}"
        )
    deltas = {name: _rebuild_delta(name, delta, tensors) for name, delta in record.deltas.items()}
    factors = {key for name in deltas for key in names_of(name)}
    # in the record's order, which is that of the adapter saved: an optimiser's state goes by it
    modules_to_save = {key.removeprefix(PREFIX): tensors[key] for key in record.tensors if key not in factors}
    whole = record.card.modules_to_save
    modules_to_save = {n: keep(n, t, trainable=n.rpartition(".")[0] in whole) for n, t in modules_to_save.items()}
    return Adapter(deltas=deltas, modules_to_save=modules_to_save, card=record.card)


def _rebuild_delta(name: str, record: _DeltaRecord, tensors: dict[str, Tensor]) -> Delta:
    key_a, key_b = names_of(name)
    if key_a not in tensors or key_b not in tensors or not math.isfinite(record.scale):
        raise BadFileError(
            f"{ADAPTER_RECORD} describes {name}, whose factors or scale are missing; get the folder anew"
        )
    a, b = tensors[key_a].flatten(1), tensors[key_b].flatten(1)
    rank, groups = len(a) - record.init_factors, record.groups
    # the frozen part comes apart again, so that an SVD start goes on, and computes, to the bit as before
    init_factors = (a[rank:].clone(), -narrowed(b[:, rank:], groups)) if record.init_factors else None
    a, b = a[:rank].clone().requires_grad_(), narrowed(b[:, :rank], groups).clone().requires_grad_()
    return Delta(
        a=a,
        b=b,
        shape=record.shape,
        scale=record.scale,
        init_factors=init_factors,
        branch_equivalent=record.branch_equivalent,
        groups=groups,
    )


def _check_finite(tensors: dict[str, Tensor], where: str) -> None:
    for name, tensor in tensors.items():
        if not bool(torch.isfinite(tensor).all()):
            raise BadFileError(f"{where} has NaN or infinite values in {name}; expected finite ones")


def _read_record(path: Path) -> _Record:
    content = _json(path)
    if content.get("schema") == 1:
        content = _upgraded(content)
    try:
        record = _RECORD.validate_json(json.dumps(content))
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"])) or "the text"
        raise BadFileError(f"{path} is damaged: {where}: {first['msg']}; get the folder anew") from error
    if record.schema != SCHEMA:
        raise BadFileError(f"{path} has schema {record.schema}; this loradar reads {SCHEMA}: install a later one")
    return record


def _upgraded(content: dict[str, Any]) -> dict[str, Any]:
    """A record of schema 1 under the names of schema 2."""

    def renamed(values: Any, names: dict[str, str]) -> Any:
        return {names.get(k, k): v for k, v in values.items()} if isinstance(values, dict) else values

    deltas = content.get("deltas")
    if isinstance(deltas, dict):
        deltas = {
            name: renamed(delta, {"minus": "init_factors", "plain": "branch_equivalent"})
            for name, delta in deltas.items()
        }
    card = renamed(content.get("card"), {"targets": "target_modules", "alpha": "lora_alpha", "start": "init"})
    card = with_specs(card)
    return content | {"schema": SCHEMA, "card": card, "deltas": deltas}


def _json(path: Path) -> dict[str, Any]:
    data = _read(path)
    try:
        content = json.loads(data)
    except ValueError as error:
        raise BadFileError(f"{path} is not JSON ({error}); get the folder anew") from error
    if not isinstance(content, dict):
        raise BadFileError(f"{path} holds a {type(content).__name__}; expected a JSON object")
    return content


def _read(path: Path) -> bytes:
    folder = path.parent
    pickles = [p for p in (folder, folder / "adapter_model.bin", folder / "adapter_model.pt") if p.is_file()]
    if pickles and not path.exists():
        raise BadFileError(
            f"{pickles[0]} is not an adapter's folder with a {ADAPTER_WEIGHTS}; pickles (.bin, .pt) can run code and are never "
            "read: save it anew with safetensors (PEFT: save_pretrained(..., safe_serialization=True))"
        )
    try:
        return path.read_bytes()
    except OSError as error:
        raise BadFileError(
            f"cannot read {path}: {error.strerror or error}; expected an adapter's folder ({ADAPTER_CONFIG}, {ADAPTER_WEIGHTS})"
        ) from error
