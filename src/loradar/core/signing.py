"""Ed25519 signatures of folders: who saved an adapter, a guard or a task.

Needs the extra `sign`: without it the import of this module raises BadConfigError, so it is imported where it is used.
"""

import json
import os
from contextlib import suppress
from pathlib import Path

from loradar.core.errors import BadConfigError, BadFileError
from loradar.core.files import parse_object, read_regular, write_atomically
from loradar.core.names import SIGNATURE

try:
    from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
except ImportError as error:
    raise BadConfigError('signatures need the package cryptography: pip install "loradar[sign]"') from error


def make_keys(place: Path) -> tuple[Path, Path]:
    """Writes a new private key to `place`, for its owner alone to read, and its public key to `place` with ".pub".

    Raises BadFileError where one of the files is there already or cannot be written.
    """
    key = Ed25519PrivateKey.generate()
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    public = key.public_key().public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    beside = place.with_name(f"{place.name}.pub")
    if os.path.lexists(beside):
        raise BadFileError(f"{beside} exists; choose another name, so that no key is lost")
    _write_new(place, private, 0o600)
    try:
        _write_new(beside, public, 0o644)
    except BadFileError:
        place.unlink()
        raise
    return place, beside


def sign(folder: Path, digest: str, key: Path) -> Path:
    """Signs the digest of `folder` with the private key in the file `key`. Returns the signature's file.

    Raises BadFileError for a folder without a digest, and for a file that holds no private key.
    """
    if not digest:
        raise BadFileError(
            f"{folder} has no digest: an earlier version or PEFT saved it; open it and save it anew, then sign that"
        )
    private = _private_key(key)
    content = {"digest": digest, "signature": private.sign(_message(digest)).hex()}
    write_atomically(folder / SIGNATURE, json.dumps(content, indent=2).encode())
    return folder / SIGNATURE


def check_signed(folder: Path, digest: str, key: str | Path) -> None:
    """Raises BadFileError unless the owner of the public key in the file `key` signed the `digest` of `folder`."""
    public = _public_key(Path(key))
    try:
        content = parse_object(read_regular(folder / SIGNATURE))
        signature = bytes.fromhex(content["signature"])
    except OSError as error:
        raise BadFileError(
            f"{folder} is not signed: cannot read {SIGNATURE} ({error.strerror}); get it from who owns the key {key}"
        ) from error
    except (ValueError, KeyError, TypeError) as error:
        raise BadFileError(f"{folder / SIGNATURE} is damaged ({error!r:.80}); get the folder anew") from error
    if not digest:
        raise BadFileError(f"{folder} has no digest that could be signed; get it from who owns the key {key}")
    if content.get("digest") != digest:
        raise BadFileError(
            f"{folder} was signed as another than it is now: {SIGNATURE} has another digest; get it anew"
        )
    try:
        public.verify(signature, _message(digest))
    except InvalidSignature as error:
        raise BadFileError(
            f"{folder} is not signed by the owner of {key}; get it from them, or trust another key"
        ) from error


def _message(digest: str) -> bytes:
    # the prefix keeps the signature from meaning anything elsewhere
    return f"loradar folder {digest}".encode()


def _private_key(path: Path) -> Ed25519PrivateKey:
    data = _read_key(path)
    with suppress(ValueError, TypeError, UnsupportedAlgorithm):
        key = serialization.load_pem_private_key(data, password=None)
        if isinstance(key, Ed25519PrivateKey):
            return key
    raise BadFileError(f"{path} holds no Ed25519 private key; expected one of `loradar adapters keygen`")


def _public_key(path: Path) -> Ed25519PublicKey:
    data = _read_key(path)
    with suppress(ValueError, TypeError, UnsupportedAlgorithm):
        key = serialization.load_pem_public_key(data)
        if isinstance(key, Ed25519PublicKey):
            return key
    raise BadFileError(f"{path} holds no Ed25519 public key; expected the .pub file of `loradar adapters keygen`")


def _read_key(path: Path) -> bytes:
    try:
        return read_regular(path)
    except OSError as error:
        raise BadFileError(f"cannot read the key {path}: {error.strerror}; see `loradar adapters keygen`") from error


def _write_new(path: Path, data: bytes, mode: int) -> None:
    """Writes a file that was not there, of that mode from the first byte on."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
    except FileExistsError as error:
        raise BadFileError(f"{path} exists; choose another name, so that no key is lost") from error
    except OSError as error:
        raise BadFileError(f"could not write {path}: {error.strerror or error}; choose another place") from error
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
    except OSError as error:
        with suppress(OSError):
            path.unlink()
        raise BadFileError(f"could not write {path}: {error.strerror or error}; free some space") from error
