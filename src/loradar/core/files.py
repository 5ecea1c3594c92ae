"""Writing so that a reader never sees half a file, and hashing what was written."""

import errno
import hashlib
import json
import os
import shutil
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from loradar.core.errors import BadFileError

_DEEPEST = 64
"""Levels of JSON that are read: more than any file of ours has, and less than Python's own limit."""


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def read_regular(path: Path) -> bytes:
    """Reads a regular file. Raises OSError for anything else, such as a pipe, on which a plain read would wait forever."""
    handle = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
    if not stat.S_ISREG(os.fstat(handle).st_mode):
        os.close(handle)
        raise OSError(errno.EINVAL, "it is no regular file", str(path))
    with os.fdopen(handle, "rb") as file:
        return file.read()


def parse_object(data: bytes) -> dict[str, Any]:
    """Parses a JSON object. Raises ValueError for other JSON, for none, and for one nested more than 64 levels deep."""
    try:
        content = json.loads(data)
    except RecursionError as error:
        raise ValueError(f"it is nested more than {_DEEPEST} levels deep") from error
    if not isinstance(content, dict):
        raise ValueError(f"it holds a {type(content).__name__}; expected a JSON object")
    level: list[Any] = [content]
    for _ in range(_DEEPEST):
        level = [value for each in level for value in (each.values() if isinstance(each, dict) else each)]
        level = [value for value in level if isinstance(value, dict | list)]
        if not level:
            return content
    raise ValueError(f"it is nested more than {_DEEPEST} levels deep")


def write_atomically(path: Path, data: bytes) -> None:
    """Writes `data` under `path`, or nothing at all. Raises BadFileError where the disk is full or refuses."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with temporary.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError as error:
        with suppress(OSError):  # where the folder itself is the trouble, there is nothing to take away
            temporary.unlink(missing_ok=True)
        raise BadFileError(
            f"could not write {path}: {error.strerror or error}; nothing was changed there (free some space, or choose "
            "another folder)"
        ) from error


def expand_home(path: Path) -> Path:
    """`path` with a leading `~` replaced. Raises BadFileError where that home folder is not known."""
    try:
        return path.expanduser()
    except RuntimeError as error:
        raise BadFileError(f"the home folder of {path} is not known; write the whole path") from error


def make_folder(path: Path) -> None:
    """Makes `path`, so that long work does not find at its end that it cannot. Raises BadFileError."""
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise BadFileError(f"could not make the folder {path}: {error.strerror or error}; choose another") from error


def check_place(folder: Path, marker: str, what: str) -> None:
    """Raises BadFileError where `folder` holds something else than `what`, which has a file `marker`: it is not ours."""
    if folder.exists() and not (folder / marker).exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise BadFileError(f"{folder} exists and is not {what}; choose another folder, or remove it")


@contextmanager
def folder_atomically(path: Path) -> Iterator[Path]:
    """A fresh folder to fill; once the block ends well it stands at `path`, in the place of what was there.

    Raises BadFileError where the disk is full or refuses; what stood at `path` then still stands.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(prefix=f".{path.name}.", suffix=".part", dir=path.parent))
        temporary.chmod(0o755)
    except OSError as error:
        raise BadFileError(f"could not write {path}: {error.strerror or error}; choose another folder") from error
    try:
        yield temporary
        _swap(temporary, path)
    except OSError as error:
        raise BadFileError(
            f"could not write {path}: {error.strerror or error}; nothing was changed there (free some space, or choose "
            "another folder)"
        ) from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _swap(temporary: Path, path: Path) -> None:
    if not path.exists():
        temporary.rename(path)
        return
    old = temporary.with_suffix(".old")
    path.rename(old)
    try:
        temporary.rename(path)
    except OSError:
        old.rename(path)
        raise
    shutil.rmtree(old, ignore_errors=True)
