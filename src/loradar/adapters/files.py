"""Adapters on disk, checked when read: folders of ours and of PEFT's, never a pickle."""

import json
import os
from pathlib import Path
from typing import Any

import safetensors.torch
from pydantic import ValidationError
from safetensors import SafetensorError
from torch import Tensor, nn

from loradar.adapters.adapter import Adapter, keep
from loradar.adapters.delta import Delta, narrowed
from loradar.adapters.fits import check_fits
from loradar.adapters.peft_format import PREFIX, further_names_of, names_of
from loradar.adapters.peft_reading import from_peft
from loradar.adapters.saving import (
    BOUND,
    RECORD,
    SCHEMA,
    DeltaRecord,
    Record,
    bound_settings,
    check_dtypes,
    check_finite,
)
from loradar.core.digests import check_digest, check_key, is_marked
from loradar.core.errors import BadFileError, LoradarError
from loradar.core.files import parse_object, read_regular, sha256
from loradar.core.names import ADAPTER_CONFIG, ADAPTER_RECORD, ADAPTER_WEIGHTS
from loradar.core.old_attacks import with_specs
from loradar.core.remote import local_folder
from loradar.core.temporaries import put_back


def load(folder: str | Path, *, key: str | Path | None = None) -> Adapter:
    """Reads the adapter in `folder`, onto the CPU, ready to be trained on; ours, or one that PEFT wrote.

    `folder` is a path, a URI, or `hub:OWNER/NAME[@REVISION]` on the Hugging Face hub.
    A folder of PEFT's does not say which base it is for: its card has the base_fingerprint "". With `key`, the file of a
    public key, the folder must be signed by its owner. Raises BadFileError for what is missing, truncated, changed since it
    was saved, not finite or of a dtype that weights cannot have, and for pickles (.bin, .pt), which are never read.
    """
    return read_adapter(folder, key=key)[0]


def read_adapter(folder: str | Path, *, key: str | Path | None = None) -> tuple[Adapter, str]:
    """Returns the adapter in `folder` and the digest of all that it means; "" where an earlier version or PEFT saved it.

    Raises as `load` does.
    """
    put_back(folder := local_folder(folder))
    config, weights = _json(folder / ADAPTER_CONFIG), _read(folder / ADAPTER_WEIGHTS)
    record = _json(folder / ADAPTER_RECORD) if os.path.lexists(folder / ADAPTER_RECORD) else None
    if record is not None:
        _check_schema(folder / ADAPTER_RECORD, record)
        if sha256(weights) != record.get("sha256"):
            raise BadFileError(
                f"{folder / ADAPTER_WEIGHTS} is truncated or changed: {ADAPTER_RECORD} has another sha256; get it anew"
            )
    try:
        tensors = safetensors.torch.load(weights)
    except (SafetensorError, ValueError, KeyError, AttributeError) as error:
        raise BadFileError(f"{folder / ADAPTER_WEIGHTS} is not a safetensors file ({error}); get it anew") from error
    digest = _check_bound(folder, config, weights, record)
    check_key(folder, digest, key)
    check_dtypes(tensors, str(folder / ADAPTER_WEIGHTS))
    check_finite(tensors, str(folder / ADAPTER_WEIGHTS))
    adapter = from_peft(config, tensors) if record is None else _rebuild(_record(folder, record), tensors)
    for name, delta in adapter.deltas.items():
        if not delta.is_sane():
            raise BadFileError(
                f"{folder} changes {name} by values too large for {str(delta.a.dtype).removeprefix('torch.')} (its scale is "
                f"{delta.scale:.4g}); get the folder anew, or one with a smaller lora_alpha"
            )
    return adapter, digest


def verify(folder: str | Path, base: nn.Module | None = None) -> list[str]:
    """What is wrong with `folder`, or with using it on `base`, a line each; empty when all is well.

    It is what `load` and `plug` raise, and nothing else.
    """
    try:
        adapter = load(folder)
        if base is not None:
            check_fits(base, adapter.to(next(base.parameters()).device))
    except LoradarError as error:
        return [str(error)]
    return []


def _check_bound(folder: Path, config: dict[str, Any], weights: bytes, record: dict[str, Any] | None) -> str:
    """Returns the digest, "" for a folder without one. Raises BadFileError where the record was changed or taken away."""
    if record is None:
        if is_marked(weights):
            raise BadFileError(
                f"{folder / ADAPTER_RECORD} is missing: loradar saved this adapter, and that file says which base it is for; "
                "get the folder anew"
            )
        return ""
    required = is_marked(weights) or record["schema"] >= BOUND
    return check_digest(folder / ADAPTER_RECORD, record, bound_settings(config), required=required)


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
    if key_a not in tensors or key_b not in tensors:
        raise BadFileError(f"{ADAPTER_RECORD} describes {name}, whose factors are missing; get the folder anew")
    a, b, groups = tensors[key_a], tensors[key_b], record.groups
    fit = a.ndim > 1 and b.ndim > 1 and a.numel() and b.numel()
    a, b = (a.flatten(1), b.flatten(1)) if fit else (a, b)
    rank = len(a) - record.init_factors if fit else 0
    if rank < 1 or b.shape[1] != len(a) or any(count % groups for count in (len(b), rank, len(a))):
        raise BadFileError(f"{ADAPTER_RECORD} describes {name}, whose factors have other shapes; get the folder anew")
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


def _check_schema(path: Path, content: dict[str, Any]) -> None:
    schema = content.get("schema")
    if isinstance(schema, bool) or not isinstance(schema, int) or not 1 <= schema <= SCHEMA:
        raise BadFileError(f"{path} has schema {schema!r:.40}; this loradar reads 1 to {SCHEMA}: install a later one")


def _record(folder: Path, content: dict[str, Any]) -> Record:
    if content["schema"] == 1:
        content = _upgraded(content)
    try:
        return RECORD.validate_json(json.dumps(content))
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"])) or "the text"
        raise BadFileError(
            f"{folder / ADAPTER_RECORD} is damaged: {where}: {first['msg']}; get the folder anew"
        ) from error


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
    try:
        return parse_object(_read(path))
    except ValueError as error:
        if isinstance(error, BadFileError):
            raise
        raise BadFileError(f"{path} is not JSON of an adapter ({error}); get the folder anew") from error


def _read(path: Path) -> bytes:
    folder = path.parent
    try:
        pickles = [p for p in (folder, folder / "adapter_model.bin", folder / "adapter_model.pt") if p.is_file()]
        if pickles and not path.exists():
            raise BadFileError(
                f"{pickles[0]} is not an adapter's folder with a {ADAPTER_WEIGHTS}; pickles (.bin, .pt) can run code and are "
                "never read: save it anew with safetensors (PEFT: save_pretrained(..., safe_serialization=True))"
            )
        return read_regular(path)
    except OSError as error:
        raise BadFileError(
            f"cannot read {path}: {error.strerror or error}; expected an adapter's folder ({ADAPTER_CONFIG}, {ADAPTER_WEIGHTS})"
        ) from error
