"""Files by a URI (`s3://bucket/images`), through fsspec: copied once to this machine, and folders kept alike on both sides."""

import json
import re
from collections.abc import Callable
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any

from loradar.core.config import default_cache
from loradar.core.errors import BadFileError
from loradar.core.files import expand_home, make_folder, parse_object, read_regular, sha256, write_atomically
from loradar.core.leases import lease

_URI = re.compile(r"[a-zA-Z][a-zA-Z0-9+.-]+://.+", re.DOTALL)
_INDEX = ".copied.json"
"""In a local copy: which version of each file it holds."""


def is_uri(text: str) -> bool:
    """
    >>> is_uri("s3://bucket/images"), is_uri("path/to/images"), is_uri("hub:owner/name")
    (True, False, False)
    """
    return _URI.fullmatch(text) is not None


def local_copy(uri: str) -> Path:
    """Copies what is new under `uri`, a folder or a file, below `~/.cache/loradar/remote`; returns the local path.

    Raises BadFileError where there is nothing, and where it cannot be read.
    """
    place = RemoteFolder(uri)
    folder = expand_home(default_cache()) / "remote" / sha256(uri.encode())[:16]
    with lease(folder, wait=True, beside=True):
        copied = place.pull(folder)
    if not copied:
        raise BadFileError(f"there is nothing at {uri}; expected a folder or a file that this machine may read")
    name = PurePosixPath(uri.rstrip("/")).name
    return folder / name if copied == [name] else folder


class RemoteFolder:
    """A folder by its URI. Files whose names begin with a dot are nobody else's business."""

    def __init__(self, uri: str) -> None:
        self.uri = uri
        self._fs, self._root = self._try(partial(_open, uri))

    def pull(self, folder: Path, *, wanted: Callable[[str], bool] = lambda _: True) -> list[str]:
        """Brings `folder` what it lacks of the remote files that are `wanted`; returns the names of all of these."""
        found: dict[str, Any] = self._try(partial(self._fs.find, self._root, detail=True))
        names = {self._name(path): path for path, what in found.items() if what.get("type") == "file"}
        names = {name: path for name, path in names.items() if not _is_hidden(name) and wanted(name)}
        make_folder(folder)
        with _Index(folder) as index:
            for name, path in names.items():
                version = self._version(path)
                if index.get(name, ["", ""])[0] != version or not (folder / name).exists():
                    data = self._try(partial(self._fs.cat_file, path))
                    write_atomically(folder / name, data)
                    index[name] = [version, sha256(data)]
        return list(names)

    def push(self, folder: Path, *, last: Callable[[str], bool] = lambda _: False) -> None:
        """Brings the remote folder what was made or changed in `folder`; what is `last` comes after the rest."""
        names = [path.relative_to(folder).as_posix() for path in sorted(folder.rglob("*")) if path.is_file()]
        with _Index(folder) as index:
            for name in sorted((name for name in names if not _is_hidden(name)), key=last):
                data = read_regular(folder / name)
                if index.get(name, ["", ""])[1] != sha256(data):
                    target = f"{self._root}/{name}"
                    self._try(partial(self._fs.makedirs, target.rpartition("/")[0], exist_ok=True))
                    self._try(partial(self._fs.pipe_file, target, data))
                    index[name] = [self._version(target), sha256(data)]

    def _version(self, path: str) -> str:
        return str(self._try(partial(self._fs.ukey, path)))

    def _name(self, path: str) -> str:
        return path[len(self._root) :].lstrip("/") or PurePosixPath(path).name

    def _try(self, call: Callable[[], Any]) -> Any:
        try:
            return call()
        except BadFileError:
            raise
        except Exception as error:  # every file system has its own
            reason = (str(error).strip() or type(error).__name__).splitlines()[0]
            raise BadFileError(f"{self.uri} cannot be read or written: {reason}") from error


def _open(uri: str) -> tuple[Any, str]:
    from fsspec.core import url_to_fs

    fs, root = url_to_fs(uri, use_listings_cache=False)
    return fs, str(root).rstrip("/")


def _is_hidden(name: str) -> bool:
    return any(part.startswith(".") for part in name.split("/"))


class _Index(dict[str, list[str]]):
    """Of each file that is alike on both sides: its version there, and the hash of its bytes. Written at the block's end."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / _INDEX
        try:
            super().__init__(parse_object(read_regular(self._path)))
        except (OSError, ValueError):  # then everything is compared anew
            super().__init__()
        self._before = dict(self)

    def __enter__(self) -> "_Index":
        return self

    def __exit__(self, *_: object) -> None:
        if self != self._before:
            write_atomically(self._path, json.dumps(self).encode())
