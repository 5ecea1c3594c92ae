"""What a folder of loradar's is, which of its files are loradar's own, and the base that its record names."""

import json
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PurePath
from typing import Any, Literal, TypeAlias

from huggingface_hub import EvalResult

from loradar.adapters import Adapter, read_adapter
from loradar.adapters.saving import bound_settings
from loradar.core.digests import DIGEST, digest_of
from loradar.core.errors import BadFileError
from loradar.core.files import parse_object, read_regular, write_atomically
from loradar.core.names import (
    ADAPTER_CONFIG,
    ADAPTER_RECORD,
    ADAPTER_WEIGHTS,
    BASE_CONFIG,
    BASE_WEIGHTS,
    GUARD_RECORD,
    GUARD_TENSORS,
    RUN,
    SIGNATURE,
)
from loradar.core.remote import is_uri
from loradar.core.specs import split_spec
from loradar.fewshot.fit import FEW_SHOT
from loradar.fewshot.pools import BASELINES, POOL, base_of, open_baselines, open_pool
from loradar.guard.files import read_parts
from loradar.hub.cards import results_of_adapter, results_of_guard
from loradar.models.folders import load_folder
from loradar.models.specs import parse_spec

Kind: TypeAlias = Literal["adapter", "task", "guard", "pool", "base"]
README = "README.md"
_ADAPTER = (ADAPTER_WEIGHTS, ADAPTER_CONFIG, ADAPTER_RECORD)


@dataclass(frozen=True, kw_only=True)
class Found:
    """A folder that is whole. `files` are loradar's own, relative to it; `base` is the one-line name of the base that its
    record names, "" for none, and `base_fingerprint` that base's hash. `results` reads its figures for a model card.
    """

    kind: Kind
    files: tuple[str, ...]
    base: str = ""
    base_fingerprint: str = ""
    results: Callable[[], Sequence[EvalResult]] = tuple


def inspect(folder: Path) -> Found:
    """Reads the folder whole, as opening it does, its digests among it. Raises BadFileError for what loradar did not write."""
    if (folder / GUARD_RECORD).exists():
        found = _guard(folder)
    elif (folder / ADAPTER_CONFIG).exists():
        found = _adapter(folder)
    elif (folder / POOL).is_dir():
        found = _pool(folder)
    elif (folder / BASE_CONFIG).exists():
        load_folder(folder)
        found = Found(kind="base", files=(BASE_CONFIG, BASE_WEIGHTS))
    else:
        raise BadFileError(
            f"{folder} is nothing that loradar wrote; expected the folder of an adapter, a task, a guard, a pool or a base"
        )
    further = [name for name in (README, SIGNATURE) if (folder / name).is_file()]
    return Found(**{**vars(found), "files": (*found.files, *further)})


def name_base(folder: Path, kind: Kind, base: str) -> None:
    """Writes the base's name into the record of `folder`, and the digest of what it then says."""
    if kind == "pool":
        path = folder / RUN
        content = parse_object(read_regular(path)) if path.exists() else {}
        _write(path, content | {"base": base})
    elif kind == "guard":
        content = parse_object(read_regular(folder / GUARD_RECORD)) | {"base": base}
        _write(folder / GUARD_RECORD, content | {DIGEST: digest_of(content)})
    else:
        content = parse_object(read_regular(folder / ADAPTER_RECORD))
        content["card"]["data"]["base"] = base
        settings = bound_settings(parse_object(read_regular(folder / ADAPTER_CONFIG)))
        _write(folder / ADAPTER_RECORD, content | {DIGEST: digest_of(content, settings)})


def hide_places(folder: Path, found: Found, base: str) -> list[str]:
    """Takes this machine's folders out of the records in `folder` and the README.md beside them; returns what was taken out.

    Its adapters are of `base`, "" for unknown. Of a path to images the last part stays, as the name of the source.
    """
    digests: dict[str, str] = {}
    instead = {} if is_public(found.base) or base == found.base else {found.base: base}
    for path in (folder / name for name in found.files if PurePath(name).name == ADAPTER_RECORD):
        content = parse_object(read_regular(path))
        if hidden := _hide_in(content["card"]["data"], base):
            instead |= hidden
            settings = bound_settings(parse_object(read_regular(path.with_name(ADAPTER_CONFIG))))
            content |= {DIGEST: digest_of(content, settings)}
            _write(path, content)
        digests[path.parent.name] = content[DIGEST]
    if found.kind == "guard":
        content = parse_object(read_regular(folder / GUARD_RECORD))
        if content["adapters"] != digests:
            content |= {"adapters": digests}
            _write(folder / GUARD_RECORD, content | {DIGEST: digest_of(content)})
    if RUN in found.files:
        content = parse_object(read_regular(folder / RUN))
        if images := {key: at.name for key in ("data", "validation_data") if (at := _path_of(content.get(key)))}:
            instead |= {str(content[key]): name for key, name in images.items()}
            _write(folder / RUN, content | images)
    for readme in (folder / name for name in found.files if PurePath(name).name == README):
        words = read_regular(readme).decode("utf-8", "replace")
        # the longer first, which may begin with a shorter one; and without the settings behind a path
        for place in sorted(instead, key=len, reverse=True):
            name = instead[place].replace("\\", r"\\")
            for said in (place, split_spec(place)[0]):
                words = re.sub(rf"(?<![\w/]){re.escape(said)}(?![\w-])", name, words)
        write_atomically(readme, words.encode())
    return list(instead)


def _hide_in(data: dict[str, Any], base: str) -> dict[str, str]:
    """Takes folders out of a card's data; returns what stands in the place of each."""
    instead = {}
    own = str(data.get("base", ""))
    if own != base and not is_public(own):
        instead[own] = data["base"] = base
    # of a task and of a pool's member, what it says is what was asked for; of a training that divided a source, its name
    for key in () if "splits" in data else ("support", "source"):
        if at := _path_of(data.get(key)):
            instead[str(data.pop(key))] = at.name
            data["source"] = data.get("source") or at.name  # that folder is not where the reader is
    return instead


def is_public(spec: str) -> bool:
    """Whether others can open a base by this name: it is no path, and no model in memory."""
    if not spec:
        return True
    parsed = parse_spec(spec.removeprefix("stages:"))
    if is_uri(parsed.what):
        return not _is_local(parsed.what)
    return parsed.what.startswith(("hub:", "timm:", "torchvision:")) or parsed.options.get("pretrained") is False


def _is_local(uri: str) -> bool:
    return uri.partition("://")[0].lower() in ("file", "local", "memory")


def _path_of(spec: object) -> PurePath | None:
    """The path that images are at, where it leads through folders; None for a name, and for what lies elsewhere."""
    if not isinstance(spec, str) or not spec or spec.startswith("hub:") or (is_uri(spec) and not _is_local(spec)):
        return None
    path = PurePath(split_spec(spec)[0])
    return path if len(path.parts) > 1 else None


def _write(path: Path, content: dict[str, Any]) -> None:
    write_atomically(path, json.dumps(content, indent=2, ensure_ascii=False).encode())


def _adapter(folder: Path) -> Found:
    adapter, digest = read_adapter(folder)
    _check_bound(folder, digest)
    card = adapter.card
    return Found(
        kind="task" if FEW_SHOT in card.data else "adapter",
        files=_ADAPTER,
        base=str(card.data.get("base", "")),
        base_fingerprint=card.base_fingerprint,
        results=partial(results_of_adapter, card),
    )


def _guard(folder: Path) -> Found:
    parts = read_parts(folder)
    _check_bound(folder, parts.digest)
    return Found(
        kind="guard",
        files=(GUARD_TENSORS, GUARD_RECORD, *_members(folder, "adapters", parts.adapters)),
        base=parts.record.base,
        base_fingerprint=parts.record.base_fingerprint,
        results=partial(results_of_guard, parts.record),
    )


def _pool(folder: Path) -> Found:
    pool, baselines = open_pool(folder), open_baselines(folder)
    members: list[tuple[str, Adapter]] = [*pool.items(), *baselines.items()]
    return Found(
        kind="pool",
        files=(
            *((RUN,) if (folder / RUN).exists() else ()),
            *_members(folder, POOL, pool),
            *_members(folder, BASELINES, baselines),
        ),
        base=base_of(folder) if (folder / RUN).exists() else "",
        base_fingerprint=members[0][1].card.base_fingerprint,
    )


def _members(folder: Path, within: str, names: Iterable[str]) -> list[str]:
    found = []
    for name in names:
        _check_bound(folder / within / name, read_adapter(folder / within / name)[1])
        found += [f"{within}/{name}/{file}" for file in _ADAPTER]
        found += [f"{within}/{name}/{README}"] if (folder / within / name / README).is_file() else []
    return found


def _check_bound(folder: Path, digest: str) -> None:
    if not digest:
        raise BadFileError(
            f"{folder} has no digest: an earlier version or PEFT saved it; open it and save it anew, then push that"
        )
