"""One digest over everything that gives an adapter, a guard or a task its meaning."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import safetensors.torch
from torch import Tensor

from loradar.core.errors import BadFileError
from loradar.core.files import sha256

DIGEST = "digest"
"""The key of a record that holds the digest of the rest."""
_MARK = "loradar"
"""In the metadata of a safetensors file that a record beside it binds: without that record it means nothing."""
_SIZE = 8


def digest_of(record: Mapping[str, Any], *others: Mapping[str, Any]) -> str:
    """Hashes a record and other JSON that belongs to it: sha256, 64 hex digits.

    The record holds the sha256 of its tensors' file, so that a change of any of them is another digest. The order of
    keys, white space, and whether a whole number is written `1` or `1.0` do not count, as in RFC 8785.

    >>> digest_of({"a": 1, "b": [2.0]}) == digest_of({"b": [2], "a": 1.0, "digest": "any"})
    True
    >>> digest_of({"a": 1}) == digest_of({"a": True})
    False
    """
    own = {key: value for key, value in record.items() if key != DIGEST}
    return sha256(json.dumps(_plain([own, *others]), sort_keys=True, separators=(",", ":")).encode())


def dump_marked(tensors: dict[str, Tensor]) -> bytes:
    """Returns a safetensors file of `tensors` which says that a record binds it. Equal tensors give equal bytes."""
    data = safetensors.torch.save(tensors, metadata={"format": "pt"})
    size = int.from_bytes(data[:_SIZE], "little")
    header = json.loads(data[_SIZE : _SIZE + size])
    header["__metadata__"][_MARK] = "bound"  # not by `save`, which writes several keys in any order
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % _SIZE)
    return len(text).to_bytes(_SIZE, "little") + text + data[_SIZE + size :]


def is_marked(data: bytes) -> bool:
    """Whether a readable safetensors file says that a record binds it."""
    return _MARK in metadata_of(data)


def metadata_of(data: bytes) -> dict[str, str]:
    """Returns the metadata of a readable safetensors file."""
    size = int.from_bytes(data[:_SIZE], "little")
    found: dict[str, str] = json.loads(data[_SIZE : _SIZE + size]).get("__metadata__") or {}
    return found


def check_digest(path: Path, record: Mapping[str, Any], *others: Mapping[str, Any], required: bool) -> str:
    """Returns the digest of the record in `path`; "" where an earlier version wrote none.

    Raises BadFileError where the record says another than it has, or none although one is `required`.
    """
    if DIGEST not in record and not required:
        return ""
    digest = digest_of(record, *others)
    if record.get(DIGEST) != digest:
        raise BadFileError(
            f"{path}, or a file that it speaks for, was changed since it was saved: its digest is another; get the folder anew"
        )
    return digest


def check_key(folder: Path, digest: str, key: str | Path | None) -> None:
    """Raises BadFileError unless the owner of the public key in the file `key` signed `digest`; without a key, nothing."""
    if key is not None:
        from loradar.core.signing import check_signed  # needs the extra `sign`

        check_signed(folder, digest, key)


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _plain(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(each) for each in value]
    # below 2 ** 53 a float that is a whole number is exactly that number
    if isinstance(value, float) and value.is_integer() and abs(value) < 2**53:
        return int(value)
    return value
