"""Which process something belongs to, and whether that still runs: for locks and unfinished files on shared disks."""

import hashlib
import os
import platform
import uuid
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path


@dataclass(frozen=True)
class Process:
    """A process, told from every other one: `machine` is a hash of its host, that host's boot and its process numbers'
    namespace, and `start` the time that it started, in clock ticks after the boot (0 where that is not known)."""

    machine: str
    pid: int
    start: int


def this_process() -> Process:
    """Returns the process that calls, also behind a fork."""
    return Process(machine=_machine(), pid=os.getpid(), start=_started(os.getpid()) or 0)


def is_running(process: Process) -> bool | None:
    """Whether `process` runs; None where it is of another machine, which cannot be asked."""
    if process.machine != _machine() or os.name == "nt":  # there, signal 0 ends the process
        return None
    try:
        os.kill(process.pid, 0)
    except ProcessLookupError:
        return False
    except (OSError, OverflowError):  # another user's
        pass
    # the number may have been given to another process since
    return _started(process.pid) == (process.start or None)


@lru_cache(maxsize=1)
def _machine() -> str:
    parts = [platform.node(), str(uuid.getnode())]
    with suppress(OSError):  # containers may share a host's name and boot, but not its process numbers
        parts = [
            platform.node(),
            Path("/proc/sys/kernel/random/boot_id").read_text(),
            str(Path("/proc/self/ns/pid").readlink()),
        ]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:8]


def _started(pid: int) -> int | None:
    """When the process of this number started; None where that is not known, or it has ended and waits for its parent."""
    try:
        # its name, in brackets, may hold anything
        fields = Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()
    except OSError:
        return None
    return None if fields[0] in (b"Z", b"X") else int(fields[19])
