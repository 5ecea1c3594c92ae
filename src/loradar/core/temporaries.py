"""Unfinished files and folders: their names say whose they are, and what killed runs left is put right or removed."""

import os
import re
import secrets
import shutil
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from loradar.core.processes import Process, is_running, this_process

PART, OLD = ".part", ".old"
"""What is being written, and what it takes the place of on file systems that cannot exchange two folders."""
ELSEWHERE_SECONDS = 3600.0
"""A temporary of another machine, which cannot be asked, is a killed run's once it was not written to for so long."""
_LONGEST = 200
"""Bytes of a name that a temporary's begins with: with the rest it stays within the 255 that most disks take."""
_NAME = re.compile(
    r"\.(?P<of>.+)\.(?P<machine>[0-9a-f]{8})-(?P<pid>\d{1,10})-(?P<start>\d{1,18})-[0-9a-f]{6}\.(part|old)"
)


def temporary_beside(path: Path) -> Path:
    """Names a temporary beside `path` as no other process does, on this machine or on another."""
    own = this_process()
    return path.with_name(f".{_short(path)}.{own.machine}-{own.pid}-{own.start}-{secrets.token_hex(3)}{PART}")


def put_back(path: Path) -> None:
    """Puts a folder at `path` where a save was killed while none was there: the new one, which is whole by then."""
    if os.path.lexists(path):
        return
    for old in _temporaries_of(path):
        if old.suffix == OLD and _is_abandoned(old):
            new = old.with_suffix(PART)
            with suppress(OSError):  # another reader was faster
                (new if new.exists() else old).rename(path)


def remove_abandoned(folder: Path) -> None:
    """Removes what killed runs left unfinished in `folder`, or beside it while they wrote it; others' stays."""
    found = [*_temporaries_of(folder)]
    for place, folders, files in os.walk(folder):
        found += [Path(place) / name for name in (*folders, *files) if _NAME.fullmatch(name)]
        folders[:] = [name for name in folders if not _NAME.fullmatch(name)]
    for path in found:
        match = _NAME.fullmatch(path.name)
        # a longer name was cut: whose it is can then be told from the whole name alone
        if path.suffix == OLD and match and len(os.fsencode(match["of"])) < _LONGEST - 3:
            put_back(path.with_name(match["of"]))
    for path in found:
        if _is_abandoned(path):
            shutil.rmtree(path, ignore_errors=True)
            with suppress(OSError):
                path.unlink(missing_ok=True)


def _short(path: Path) -> str:
    return path.name.encode("utf-8", "surrogateescape")[:_LONGEST].decode("utf-8", "ignore")


def _temporaries_of(path: Path) -> Iterator[Path]:
    start = f".{_short(path)}."
    try:
        # as text: beside a task's folder lie those of ten thousand others
        beside = [name for name in os.listdir(path.parent) if name.startswith(start)]  # noqa: PTH208
    except (OSError, ValueError):  # no folder, or no path at all
        return
    for name in beside:
        if _NAME.fullmatch(name):
            yield path.with_name(name)


def _is_abandoned(path: Path) -> bool:
    match = _NAME.fullmatch(path.name)
    if match is None:
        return False
    running = is_running(Process(match["machine"], int(match["pid"]), int(match["start"])))
    if running is not None:
        return not running
    try:
        written: float = max(one.stat().st_mtime for one in (path, *(path.iterdir() if path.is_dir() else ())))
    except OSError:  # its process has just finished with it
        return False
    return time.time() - written > ELSEWHERE_SECONDS
