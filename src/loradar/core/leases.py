"""A lease on an out folder: one run at a time fills it, and the next one goes on where a killed run stopped."""

import _thread
import json
import os
import platform
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from pydantic import TypeAdapter

from loradar.core.errors import BadFileError
from loradar.core.files import make_folder, read_regular
from loradar.core.processes import Process, is_running, this_process
from loradar.core.temporaries import put_back, remove_abandoned, temporary_beside
from loradar.core.timing import duration
from loradar.core.types import NullProgress, Progress

HEARTBEAT_SECONDS = 20.0
STALE_SECONDS = 180.0
"""A lease held on another machine, which cannot be asked, has ended once it has had no heartbeat for so long."""
_POLL_SECONDS = 1.0
_ADVICE = "wait for it with --wait, stop it, or choose another --out"


@dataclass(frozen=True, kw_only=True)
class Holder:
    """What a lease's file holds: a process, its host's name, and since when (ISO 8601, UTC).

    The heartbeat is the file's time of change, which the disk's own clock gives.
    """

    host: str
    process: Process
    since: str

    def __str__(self) -> str:
        return f"process {self.process.pid} on {self.host}, since {self.since}"


_HOLDER = TypeAdapter(Holder)


@contextmanager
def lease(
    folder: Path, *, wait: bool = False, progress: Progress | None = None, beside: bool = False, advice: str = _ADVICE
) -> Iterator[None]:
    """Holds `folder`, which is made, for the block; what killed runs left unfinished there is removed first.

    With `beside` the lease's file is not in the folder but next to it: for folders that are replaced as a whole. A folder that
    another run holds is waited for with `wait`. Raises BadFileError where it is held (`advice` ends that line), where it was
    taken away or removed in the meantime, and where the disk refuses.
    """
    progress = progress or NullProgress()
    folder = Path(os.path.realpath(folder))
    place = folder.with_name(f".{folder.name}.lease.json") if beside else folder / ".lease.json"
    put_back(folder)
    make_folder(place.parent)
    own = Holder(
        host=platform.node(), process=this_process(), since=datetime.now(UTC).isoformat(sep=" ", timespec="seconds")
    )
    _take(place, own, folder, wait, progress, advice)
    heart = _Heart(place, own)
    try:
        for path in (folder, place):  # a lease beside its folder leaves its unfinished file there too
            remove_abandoned(path)
        heart.start()
        yield
    except KeyboardInterrupt:
        if heart.lost:
            raise _lost(folder) from None
        raise
    finally:
        heart.stop()
        held = _holder(place) == own
        if held:
            with suppress(OSError):
                place.unlink()
    if not held:
        raise _lost(folder)


def held_lately(folder: Path) -> bool:
    """Whether the lease on `folder` had a heartbeat so lately that its holder counts as running."""
    place = folder / ".lease.json"
    return place.exists() and _silent_seconds(place) <= STALE_SECONDS


def is_held(folder: Path) -> bool:
    """Whether a run that is alive holds `folder`: one on another machine, by its heartbeat."""
    holder = _holder(folder / ".lease.json")
    running = is_running(holder.process) if holder else None
    return held_lately(folder) if running is None else running


def _take(place: Path, own: Holder, folder: Path, wait: bool, progress: Progress, advice: str) -> None:
    said = False
    while not _make(place, own):
        before = _holder(place)
        running = is_running(before.process) if before else None
        silent = _silent_seconds(place) if running is None else 0.0
        if running is False or (running is None and silent > STALE_SECONDS):
            if _clear(place, before):
                who = before or "an unknown process"
                progress.message(f"{folder}: a run was killed there ({who}); this one takes the folder over")
            continue
        if not wait:
            raise BadFileError(_in_use(place, folder, before, running, silent, advice))
        if not said:
            progress.message(f"waiting for {folder}, which is in use ({before or 'by an unknown process'})")
            said = True
        time.sleep(_POLL_SECONDS)


def _make(place: Path, own: Holder) -> bool:
    """Writes the lease's file, whole from the start; False where there is one."""
    temporary = temporary_beside(place)
    try:
        temporary.write_bytes(json.dumps(_HOLDER.dump_python(own), indent=1).encode())
        try:
            os.link(temporary, place)
        except FileExistsError:
            return False
        except OSError:  # a disk without links
            with place.open("xb") as file:
                file.write(temporary.read_bytes())
    except FileExistsError:
        return False
    except OSError as error:
        raise BadFileError(f"could not write {place}: {error.strerror or error}; choose another folder") from error
    finally:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)
    return True


def _holder(place: Path) -> Holder | None:
    try:
        return _HOLDER.validate_json(read_regular(place))
    except (OSError, ValueError):
        return None


def _silent_seconds(place: Path) -> float:
    """Seconds since the last heartbeat, by the clock of the disk: hosts' own clocks differ."""
    probe = temporary_beside(place)
    try:
        probe.touch()
        return max(0.0, probe.stat().st_mtime - place.stat().st_mtime)
    except OSError:  # released in this moment
        return 0.0
    finally:
        with suppress(OSError):
            probe.unlink(missing_ok=True)


def _clear(place: Path, dead: Holder | None) -> bool:
    """Takes a dead run's lease away; False where another run was faster, whose lease stays."""
    aside = temporary_beside(place)
    try:
        place.rename(aside)
    except OSError:
        return False
    was_dead = _holder(aside) == dead
    if not was_dead:
        with suppress(OSError):
            os.link(aside, place)
    aside.unlink(missing_ok=True)
    return was_dead


def _in_use(place: Path, folder: Path, holder: Holder | None, running: bool | None, silent: float, advice: str) -> str:
    if holder is None:
        return f"{folder} is in use, but {place} cannot be read; delete that file if no run is going on there"
    text = f"{folder} is in use by another run ({holder}); {advice}"
    if running is None:
        text += f" (it was heard of {duration(silent)} ago; after {duration(STALE_SECONDS)} it counts as ended)"
    return text


def _lost(folder: Path) -> BadFileError:
    return BadFileError(
        f"{folder} was removed, or another run took it, while this one filled it; run the same command again to complete it"
    )


class _Heart:
    """Touches a lease's file now and then. Where it is no longer ours, the main thread is interrupted if it is what runs."""

    def __init__(self, place: Path, own: Holder) -> None:
        self._place, self._own = place, own
        self._ended = threading.Event()
        self._in_main = threading.current_thread() is threading.main_thread()
        self._thread = threading.Thread(target=self._beat, name="lease", daemon=True)
        self.lost = False

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._ended.set()
        if self._thread.is_alive() and self._own.process.pid == os.getpid():
            self._thread.join()

    def _beat(self) -> None:
        while not self._ended.wait(HEARTBEAT_SECONDS):
            try:
                if _HOLDER.validate_json(read_regular(self._place)) == self._own:
                    os.utime(self._place)
                    continue
            except FileNotFoundError:
                pass
            except (OSError, ValueError):  # a disk that does not answer for a while
                continue
            self.lost = True
            if self._in_main:
                _thread.interrupt_main()
            return
