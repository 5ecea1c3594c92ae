"""A guard's folder: `guard.json`, `guard.safetensors`, and a folder for each adapter. The base stays where it is."""

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import safetensors.torch
from pydantic import TypeAdapter, ValidationError
from safetensors import SafetensorError
from torch import Tensor, nn

from loradar.adapters import Adapter, fingerprint, read_adapter, save
from loradar.core.copying import copy_model
from loradar.core.digests import DIGEST, check_digest, check_key, digest_of, dump_marked, is_marked
from loradar.core.errors import BadConfigError, BadFileError, WrongBaseError
from loradar.core.files import check_place, folder_atomically, parse_object, read_regular, sha256, write_atomically
from loradar.core.names import ADAPTER_WEIGHTS, GUARD_RECORD, GUARD_TENSORS, check_names
from loradar.core.old_attacks import upgraded_spec
from loradar.core.remote import local_folder
from loradar.core.temporaries import put_back
from loradar.guard.identify import Identifier
from loradar.guard.settings import GuardSettings
from loradar.models import Base, open_base, pick_device
from loradar.report.guards import Choice

SCHEMA = 5
_READ = (2, 3, 4, SCHEMA)
_BOUND = 5
"""The first schema with a digest over the whole record; before it only tensors are bound."""


@dataclass(frozen=True, kw_only=True)
class GuardRecord:
    """What `guard.json` says of a guard.

    `base` is the base's one-line name and `base_fingerprint` its hash; `input_size` (channels, height, width) and `classes`
    are its own (None in folders of schema 2). `attacks` are the specs of the threats; `adapters` holds the digest of each
    adapter (before schema 5 the sha256 of its weights); `costs` are shares of a forward pass (see `measure_costs`). `data`
    says what it was calibrated on, and `digests` are hashes of those images, so that nothing is ever reported on them.
    `strangers` are specs of attacks fitted as unknown, `max_fpr` the false alarms asked for (None before schema 4),
    `misses` by attack the held-out images named clean and how many there were, `choice` why it answers as it does, where
    that was measured.
    """

    settings: GuardSettings
    base: str
    base_fingerprint: str
    attacks: dict[str, str]
    adapters: dict[str, str] = field(default_factory=dict)
    costs: dict[str, float]
    data: dict[str, Any] = field(default_factory=dict)
    digests: tuple[str, ...] = ()
    input_size: tuple[int, int, int] | None = None
    classes: tuple[str, ...] | None = None
    strangers: tuple[str, ...] = ()
    max_fpr: float | None = None
    misses: dict[str, tuple[int, int]] = field(default_factory=dict)
    choice: Choice | None = None


@dataclass(frozen=True, kw_only=True, eq=False)
class GuardState:
    """What a guard is made of, in memory: its record, its base and adapters, the identifier and the gate's identifier."""

    record: GuardRecord
    base: Base
    adapters: Mapping[str, Adapter]
    identifier: Identifier
    gate: Identifier


@dataclass(frozen=True, kw_only=True, eq=False)
class GuardParts:
    """What a guard's folder holds, its adapters included; `digest` is of all of it, "" before schema 5."""

    record: GuardRecord
    adapters: Mapping[str, Adapter]
    identifier: Identifier
    gate: Identifier
    digest: str


_RECORD = TypeAdapter(GuardRecord)


def save_guard(state: GuardState, folder: Path | str) -> Path:
    """Writes the folder, which appears whole or not at all, in the place of a guard that was there. Raises BadFileError."""
    check_place(folder := Path(folder), GUARD_RECORD, "a guard")
    check_names(state.adapters, "an adapter")
    tensors = {
        f"{name}.{key}": value.detach().cpu().contiguous().clone()
        for name, part in (("identifier", state.identifier), ("gate", state.gate))
        for key, value in part.state_dict().items()
    }
    data = dump_marked(tensors)
    with folder_atomically(folder) as fresh:
        places = {name: save(adapter, fresh / "adapters" / name) for name, adapter in state.adapters.items()}
        record = dataclasses.replace(state.record, adapters={n: read_adapter(place)[1] for n, place in places.items()})
        content = {"schema": SCHEMA, "sha256": sha256(data), **json.loads(_RECORD.dump_json(record))}
        content[DIGEST] = digest_of(content)
        write_atomically(fresh / GUARD_TENSORS, data)
        write_atomically(fresh / GUARD_RECORD, json.dumps(content, indent=2).encode())
    return folder


def read_guard(
    folder: Path | str,
    *,
    base: str | Base | nn.Module | None = None,
    device: str = "auto",
    key: str | Path | None = None,
) -> GuardState:
    """Reads a guard's folder and opens its base; `base` is needed where that has moved, or was never in a file.

    A base that is an object stays on its device unless `device` names another, which a copy is moved to. With `key`, the
    file of a public key, the guard must be signed by its owner. Raises BadFileError for a folder that is damaged or not
    signed, WrongBaseError where the base or an adapter is not the guard's own.
    """
    put_back(folder := local_folder(folder))
    parts = read_parts(folder, key=key)
    record = parts.record
    opened = _open_base(record, base, device)
    if (found := fingerprint(opened.model)) != record.base_fingerprint:
        raise WrongBaseError(
            f"the guard in {folder} belongs to the base {record.base_fingerprint[:12]}, this one is {found[:12]}; give the "
            "base that it was built with"
        )
    return GuardState(record=record, base=opened, adapters=parts.adapters, identifier=parts.identifier, gate=parts.gate)


def _open_base(record: GuardRecord, base: str | Base | nn.Module | None, device: str) -> Base:
    if base is None and record.base.startswith("memory:"):
        raise BadConfigError("the guard was built on a model in memory; give it: Guard.open(folder, base=model)")
    if base is None or isinstance(base, str):
        return open_base(base or record.base, device)
    if isinstance(base, nn.Module):
        base = Base.of(base, input_size=record.input_size, classes=record.classes)
    if device == "auto":
        return base
    return dataclasses.replace(base, model=copy_model(base.model).to(pick_device(device)))


def read_parts(folder: Path | str, *, key: str | Path | None = None) -> GuardParts:
    """Reads everything but the base, whole, undamaged and, with `key`, signed by its owner. Raises BadFileError."""
    folder = local_folder(folder)
    try:
        data = read_regular(folder / GUARD_TENSORS)
        content = parse_object(read_regular(folder / GUARD_RECORD))
    except OSError as error:
        raise BadFileError(
            f"cannot read {error.filename}: {error.strerror}; expected a guard's folder, as `loradar guard build` writes it"
        ) from error
    except ValueError as error:
        raise BadFileError(f"{folder / GUARD_RECORD} is not JSON of a guard ({error}); build the guard anew") from error
    if (schema := content.get("schema")) not in _READ:
        raise BadFileError(
            f"{folder / GUARD_RECORD} has another schema; this loradar reads {', '.join(map(str, _READ))}: build the "
            "guard anew"
        )
    if content.get("sha256") != sha256(data):
        raise BadFileError(
            f"{folder / GUARD_TENSORS} is truncated or changed: {GUARD_RECORD} has another sha256; get it anew"
        )
    try:
        tensors = safetensors.torch.load(data)
    except (SafetensorError, ValueError, KeyError, AttributeError) as error:
        raise BadFileError(f"{folder} holds no whole guard ({error}); get it anew") from error
    digest = check_digest(folder / GUARD_RECORD, content, required=is_marked(data) or schema >= _BOUND)
    check_key(folder, digest, key)
    record, identifier, gate = _rebuild(folder, content, tensors)
    adapters = {name: _read_adapter(folder, name, known, digest) for name, known in record.adapters.items()}
    return GuardParts(record=record, adapters=adapters, identifier=identifier, gate=gate, digest=digest)


def _read_adapter(folder: Path, name: str, known: str, guard: str) -> Adapter:
    """Reads an adapter of a guard of digest `guard`. Raises BadFileError for another than the guard was built with."""
    place = folder / "adapters" / name
    adapter, digest = read_adapter(place)
    if known != (digest if guard else sha256(read_regular(place / ADAPTER_WEIGHTS))):
        raise BadFileError(f"the adapter {name!r} in {folder} is not the one it was calibrated with; build it anew")
    return adapter


def _rebuild(
    folder: Path, content: dict[str, Any], tensors: dict[str, Tensor]
) -> tuple[GuardRecord, Identifier, Identifier]:
    content = {key: value for key, value in content.items() if key not in ("schema", "sha256", DIGEST)}
    try:
        if isinstance(attacks := content.get("attacks"), dict):  # schema 2 has older names of settings
            content["attacks"] = {name: upgraded_spec(str(spec)) for name, spec in attacks.items()}
        record = _RECORD.validate_json(json.dumps(content))
        check_names(record.adapters, "an adapter")
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
    except BadConfigError as error:
        raise BadFileError(f"{folder} holds no whole guard ({error}); get it anew") from error
    return record, identifier, gate
