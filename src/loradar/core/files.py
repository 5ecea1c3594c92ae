"""Writing so that a reader never sees half a file, and hashing what was written."""

import ctypes
import errno
import hashlib
import json
import os
import shutil
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO

from loradar.core.errors import BadFileError
from loradar.core.temporaries import OLD, put_back, temporary_beside

_AT_FDCWD, _RENAME_EXCHANGE = -100, 2
_CANNOT_EXCHANGE = (errno.EINVAL, errno.ENOSYS, errno.ENOTSUP, errno.EPERM)

_DEEPEST = 64
"""Levels of JSON that are read: more than any file of ours has, and less than Python's own limit."""


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def open_regular(path: Path) -> BinaryIO:
    """Opens a regular file to read. Raises OSError for anything else, such as a pipe, on which reading would wait forever."""
    handle = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
    if not stat.S_ISREG(os.fstat(handle).st_mode):
        os.close(handle)
        raise OSError(errno.EINVAL, "it is no regular file", str(path))
    return os.fdopen(handle, "rb")


def read_regular(path: Path) -> bytes:
    """Reads a regular file whole. Raises OSError as `open_regular` does."""
    with open_regular(path) as file:
        return file.read()


def parse_object(data: str | bytes) -> dict[str, Any]:
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
    temporary = temporary_beside(path)
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
    """`path` with a leading `~` replaced. Raises BadFileError for an unknown home folder, and for what no file is called."""
    try:
        expanded = path.expanduser()
        os.lstat(expanded)
    except RuntimeError as error:
        raise BadFileError(f"the home folder of {path} is not known; write the whole path") from error
    except ValueError as error:
        raise BadFileError(f"{str(path)!r:.80} is no path: {error}") from error
    except OSError as error:
        if error.errno == errno.ENAMETOOLONG:
            raise BadFileError(f"{str(path)!r:.80} is no path: {error.strerror}") from error
    return expanded


def make_folder(path: Path) -> None:
    """Makes `path`, so that long work does not find at its end that it cannot. Raises BadFileError."""
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise BadFileError(f"could not make the folder {path}: {error.strerror or error}; choose another") from error


def check_place(folder: Path, marker: str, what: str) -> None:
    """Raises BadFileError where `folder` holds something else than `what`, which has a file `marker`: it is not ours."""
    put_back(folder)
    if folder.exists() and not (folder / marker).exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise BadFileError(f"{folder} exists and is not {what}; choose another folder, or remove it")


@contextmanager
def folder_atomically(path: Path) -> Iterator[Path]:
    """A fresh folder to fill; once the block ends well it stands at `path`, in the place of what was there.

    A process that is killed at any moment leaves the old folder or the new one. Raises BadFileError where the disk is
    full or refuses; what stood at `path` then still stands.
    """
    path = Path(os.path.realpath(path))  # a link stays, and what it leads to is replaced
    temporary = temporary_beside(path)
    try:
        put_back(path)
        temporary.mkdir(parents=True)
    except OSError as error:
        raise BadFileError(f"could not write {path}: {error.strerror or error}; choose another folder") from error
    try:
        yield temporary
        _sync_folder(temporary)
        _swap(temporary, path)
        _sync_folder(path.parent)
    except OSError as error:
        raise BadFileError(
            f"could not write {path}: {error.strerror or error}; nothing was changed there (free some space, or choose "
            "another folder)"
        ) from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _swap(temporary: Path, path: Path) -> None:
    if not os.path.lexists(path):
        temporary.rename(path)
        return
    if exchange(temporary, path):
        return
    # here no folder may stand at `path` for a moment: put_back sees to it where the process is killed in it
    old = temporary.with_suffix(OLD)
    path.rename(old)
    try:
        temporary.rename(path)
    except OSError:
        old.rename(path)
        raise
    shutil.rmtree(old, ignore_errors=True)


def exchange(one: Path, other: Path) -> bool:
    """Exchanges two folders in one step; False where the system or the disk cannot. Raises OSError."""
    try:
        renameat2 = ctypes.CDLL(None, use_errno=True).renameat2
    except (AttributeError, OSError, TypeError):
        return False
    if renameat2(_AT_FDCWD, os.fsencode(one), _AT_FDCWD, os.fsencode(other), _RENAME_EXCHANGE) == 0:
        return True
    number = ctypes.get_errno()
    if number in _CANNOT_EXCHANGE:
        return False
    raise OSError(number, os.strerror(number), str(other))


def _sync_folder(path: Path) -> None:
    """Sees that the names in `path` are on the disk, where the system can."""
    with suppress(OSError):
        place = os.open(path, os.O_RDONLY)
        try:
            os.fsync(place)
        finally:
            os.close(place)
