"""Places that are not on this machine: URIs (`s3://bucket/images`) through fsspec, and `hub:OWNER/NAME`.

What lies there is copied here once, and folders are kept alike on both sides.
"""

import json
import re
from collections.abc import Callable
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any, TypeVar

from loradar.core.config import default_cache
from loradar.core.errors import BadFileError
from loradar.core.files import expand_home, make_folder, parse_object, read_regular, sha256, write_atomically
from loradar.core.leases import lease

_URI = re.compile(r"[a-zA-Z][a-zA-Z0-9+.-]+://.+", re.DOTALL)
_HUB = re.compile(r"hub:([\w.-]+/[\w.-]+)(?:@([\w./-]+))?")
_READ = ("*.safetensors", "*.json", "*.md")
"""What is fetched of a folder on the hub: nothing in it can run."""
_COMMIT = re.compile(r"[0-9a-f]{40}")
_INDEX = ".copied.json"
"""In a local copy: which version of each file it holds."""
_T = TypeVar("_T")


def is_uri(text: str) -> bool:
    """
    >>> is_uri("s3://bucket/images"), is_uri("path/to/images"), is_uri("hub:owner/name")
    (True, False, False)
    """
    return _URI.fullmatch(text) is not None


def local_folder(place: str | Path) -> Path:
    """Returns the local folder of `place`: a path, a URI, or `hub:OWNER/NAME[@REVISION]` on the Hugging Face hub.

    What lies elsewhere is fetched, or taken from its cache; of the hub only safetensors, JSON and Markdown. A path need not
    exist, and it or a URI may be of a file. Raises BadFileError.

    >>> local_folder("runs/base").as_posix()
    'runs/base'
    """
    text = _as_text(place)
    if is_uri(text):
        return local_copy(text)
    if not text.startswith("hub:"):
        return expand_home(Path(place))
    from huggingface_hub import snapshot_download
    from huggingface_hub.utils import tqdm  # type: ignore[attr-defined]

    class Bar(tqdm):
        def __init__(self, *args: Any, **options: Any) -> None:
            # None: shown on a terminal alone
            super().__init__(*args, **{"disable": None, **options, "leave": False})  # type: ignore[no-untyped-call]

    name, revision = _hub_name(text)
    options: dict[str, Any] = {"revision": revision, "allow_patterns": list(_READ), "tqdm_class": Bar}
    return Path(ask_hub(text, lambda: snapshot_download(name, **options)))


def find_file(place: str | Path, name: str) -> Path | None:
    """Returns the file `name` of the folder `place`, which `local_folder` takes; None where it has none.

    Of a folder on the hub this file alone is fetched. It is None too where the hub cannot be reached and nothing is cached:
    opening the folder then says so. Raises BadFileError.
    """
    text = _as_text(place)
    if not text.startswith("hub:"):
        path = local_folder(place) / name
        return path if path.is_file() else None
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import EntryNotFoundError

    def fetch() -> Path | None:
        try:
            return Path(hf_hub_download(repo, name, revision=revision))
        except EntryNotFoundError:
            return None

    repo, revision = _hub_name(text)
    return ask_hub(text, fetch)


def at_commit(place: str) -> str:
    """Returns `hub:OWNER/NAME[@REVISION]` with the commit that the revision stands for now. Raises BadFileError."""
    from huggingface_hub import HfApi

    name, revision = _hub_name(place)
    if revision is not None and _COMMIT.fullmatch(revision):
        return place
    return f"hub:{name}@{ask_hub(place, lambda: HfApi().repo_info(name, revision=revision)).sha}"


def ask_hub(place: str, ask: Callable[[], _T]) -> _T:
    """Returns the hub's answer about `place`. Raises BadFileError, one line, for whatever its client raises."""
    from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError, RevisionNotFoundError

    try:
        return ask()
    except BadFileError:
        raise
    except Exception as error:  # the client raises many kinds: no such name, no network, no right
        status = getattr(getattr(error, "response", None), "status_code", None)
        reason = (str(error).strip() or type(error).__name__).splitlines()[0][:200]
        if isinstance(error, RevisionNotFoundError):
            reason = "there is no such revision"
        elif status == 403 or isinstance(error, GatedRepoError):
            reason = "your token has no right to this; ask its owner, or log in as another (`hf auth login`)"
        elif status == 401 or isinstance(error, RepositoryNotFoundError):
            # to those who may not see a private one, the hub says 401 or 404 as well
            reason = "there is no such name, or it takes a token; log in with `hf auth login`, or set HF_TOKEN"
        elif status is None and not isinstance(error, ValueError):  # which the client raises for an odd name
            reason = f"{reason} (is there a network? what was fetched once is kept)"
        raise BadFileError(f"{place} on the Hugging Face hub: {reason}") from error


def _as_text(place: str | Path) -> str:
    """A place as it was written: a `Path` of a URI has lost a slash, as in `s3:/bucket/pool`."""
    if isinstance(place, str):
        return place
    found = re.fullmatch(r"([a-zA-Z][a-zA-Z0-9+.-]+):/([^/].*)", place.as_posix(), re.DOTALL)
    if found is None:
        return place.as_posix()
    return f"{found[1]}:{'///' if found[1] in ('file', 'local') else '//'}{found[2]}"


def _hub_name(place: str) -> tuple[str, str | None]:
    found = _HUB.fullmatch(place)
    if found is None:
        raise BadFileError(f"{place}: expected hub:owner/name or hub:owner/name@revision")
    return found[1], found[2]


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
