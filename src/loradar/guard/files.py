"""A guard's own part of its folder: `guard.json` and `guard.safetensors`. Models and adapters are not here."""

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import safetensors.torch
from pydantic import TypeAdapter, ValidationError
from safetensors import SafetensorError

from loradar.core.errors import BadConfigError, BadFileError
from loradar.core.files import sha256, write_atomically
from loradar.core.names import GUARD_RECORD, GUARD_TENSORS
from loradar.core.old_attacks import upgraded_spec
from loradar.guard.identify import Identifier
from loradar.guard.settings import GuardSettings

SCHEMA = 2


@dataclass(frozen=True, kw_only=True)
class GuardRecord:
    """Everything about a guard that is not a tensor.

    `base` is the base's one-line name and `base_fingerprint` its hash; `attacks` the setting of each threat as it is
    written in a config; `adapters` the fingerprint of each voter's file; `data` says what it was calibrated on, and
    `digests` are hashes of those images, so that nothing is ever reported on them.
    """

    settings: GuardSettings
    base: str
    base_fingerprint: str
    attacks: dict[str, str]
    adapters: dict[str, str]
    costs: dict[str, float]
    data: dict[str, Any] = field(default_factory=dict)
    digests: tuple[str, ...] = ()


_RECORD = TypeAdapter(GuardRecord)


def save_guard(folder: Path, record: GuardRecord, identifier: Identifier, gate: Identifier) -> None:
    """Writes both files into `folder`, which is there. Raises BadFileError."""
    tensors = {
        f"{name}.{key}": value.detach().cpu().contiguous().clone()
        for name, part in (("identifier", identifier), ("gate", gate))
        for key, value in part.state_dict().items()
    }
    data = safetensors.torch.save(tensors)
    content = {"schema": SCHEMA, "sha256": sha256(data), **json.loads(_RECORD.dump_json(record))}
    write_atomically(folder / GUARD_TENSORS, data)
    write_atomically(folder / GUARD_RECORD, json.dumps(content, indent=2).encode())


def read_guard(folder: Path) -> tuple[GuardRecord, Identifier, Identifier]:
    """The record, the identifier and the gate. Raises BadFileError for what is missing, damaged or tampered with."""
    try:
        content, data = json.loads((folder / GUARD_RECORD).read_bytes()), (folder / GUARD_TENSORS).read_bytes()
    except OSError as error:
        raise BadFileError(
            f"cannot read {error.filename}: {error.strerror}; expected a guard's folder, as `loradar guard build` writes it"
        ) from error
    except ValueError as error:
        raise BadFileError(f"{folder / GUARD_RECORD} is not JSON ({error}); build the guard anew") from error
    if not isinstance(content, dict) or content.pop("schema", None) != SCHEMA:
        raise BadFileError(
            f"{folder / GUARD_RECORD} has another schema; this loradar reads {SCHEMA}: build the guard anew"
        )
    if content.pop("sha256", "") != sha256(data):
        raise BadFileError(
            f"{folder / GUARD_TENSORS} is truncated or changed: {GUARD_RECORD} has another sha256; get it anew"
        )
    try:
        if isinstance(attacks := content.get("attacks"), dict):  # of before, in other words
            content["attacks"] = {name: upgraded_spec(str(spec)) for name, spec in attacks.items()}
        record = _RECORD.validate_json(json.dumps(content))
        tensors = safetensors.torch.load(data)
        identifier, gate = (
            Identifier(
                record.settings.labels,
                {k.removeprefix(f"{name}."): v for k, v in tensors.items() if k.startswith(f"{name}.")},
            )
            for name in ("identifier", "gate")
        )
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"])) or "the text"
        raise BadFileError(
            f"{folder / GUARD_RECORD} is damaged: {where}: {first['msg']}; get the folder anew"
        ) from error
    except (SafetensorError, BadConfigError) as error:
        raise BadFileError(f"{folder} holds no whole guard ({error}); get it anew") from error
    return record, identifier, gate
