"""Adapters on disk, checked when read: folders of ours and of PEFT's, never a pickle."""

import json
import math
from pathlib import Path
from typing import Any

import safetensors.torch
from pydantic import ValidationError
from safetensors import SafetensorError
from torch import Tensor, nn

from loradar.adapters.adapter import Adapter, keep
from loradar.adapters.delta import Delta, narrowed
from loradar.adapters.fits import check_fits
from loradar.adapters.peft_format import PREFIX, config_of, further_names_of, names_of
from loradar.adapters.peft_reading import from_peft
from loradar.adapters.saving import RECORD, SCHEMA, DeltaRecord, Record, check_finite
from loradar.core.errors import BadFileError, LoradarError
from loradar.core.files import sha256
from loradar.core.names import ADAPTER_CONFIG, ADAPTER_RECORD, ADAPTER_WEIGHTS
from loradar.core.old_attacks import with_specs
from loradar.core.temporaries import put_back


def load(folder: str | Path) -> Adapter:
    """The adapter of `folder`, on the CPU, ready to be trained on; ours, or one that PEFT wrote.

    A folder of PEFT's does not say which base it is for: its card has the base_fingerprint "". Raises BadFileError for
    what is missing, truncated, tampered with or not finite, and for pickles (.bin, .pt), which are never read.
    """
    put_back(folder := Path(folder))
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
    check_finite(tensors, str(folder / ADAPTER_WEIGHTS))
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


def _rebuild(record: Record, tensors: dict[str, Tensor]) -> Adapter:
    found = {name: (str(t.dtype).removeprefix("torch."), tuple(t.shape)) for name, t in tensors.items()}
    if found != record.tensors:
        odd = min(name for name, _ in found.items() ^ record.tensors.items())
        raise BadFileError(
            f"{ADAPTER_WEIGHTS} has {odd} as {found.get(odd)}; {ADAPTER_RECORD} expects {record.tensors.get(odd)}"
        )
    deltas = {name: _rebuild_delta(name, delta, tensors) for name, delta in record.deltas.items()}
    factors = {key for name in deltas for key in (*names_of(name), *further_names_of(name))}
    # in the record's order, which is that of the adapter saved: an optimiser's state goes by it
    modules_to_save = {key.removeprefix(PREFIX): tensors[key] for key in record.tensors if key not in factors}
    whole = record.card.modules_to_save
    # what is no head is a normalisation layer
    is_affine = record.card.norm in ("affine", "owned")
    modules_to_save = {
        n: keep(n, t, trainable=is_affine or n.rpartition(".")[0] in whole) for n, t in modules_to_save.items()
    }
    return Adapter(deltas=deltas, modules_to_save=modules_to_save, card=record.card)


def _rebuild_delta(name: str, record: DeltaRecord, tensors: dict[str, Tensor]) -> Delta:
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
    key_bias, key_magnitude = further_names_of(name)
    if (record.bias and key_bias not in tensors) or (record.magnitude and key_magnitude not in tensors):
        raise BadFileError(f"{ADAPTER_RECORD} describes more of {name} than is there; get the folder anew")
    return Delta(
        a=a,
        b=b,
        shape=record.shape,
        scale=record.scale,
        init_factors=init_factors,
        branch_equivalent=record.branch_equivalent,
        groups=groups,
        bias=tensors[key_bias].clone().requires_grad_() if record.bias else None,
        magnitude=tensors[key_magnitude].clone().requires_grad_() if record.magnitude else None,
    )


def _read_record(path: Path) -> Record:
    content = _json(path)
    if content.get("schema") == 1:
        content = _upgraded(content)
    try:
        record = RECORD.validate_json(json.dumps(content))
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
    if isinstance(card, dict):
        card.setdefault("modules_to_save", [card["head"]] if card.get("head") else [])
    return content | {"schema": SCHEMA, "card": with_specs(card), "deltas": deltas}


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
