"""What runs in a worker: one task, its progress written where `loradar status` and the driver read it."""

import os
import threading
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch
from pydantic import TypeAdapter

from loradar.core.errors import BadFileError, LoradarError
from loradar.core.files import expand_home, make_folder, read_regular, write_atomically
from loradar.core.remote import RemoteFolder
from loradar.core.types import NullProgress, Progress, ProgressBar
from loradar.jobs.tasks import TASKS, CancelledError, Task, perform

_PARENT_SECONDS = 0.5
_WRITE_SECONDS = 1.0


@dataclass(frozen=True, kw_only=True)
class At:
    """What a task is at: `done` of `total` units of the work `name`, since `began` (seconds since 1970)."""

    name: str
    done: int
    total: int
    unit: str
    note: str = ""
    began: float = 0.0


_AT = TypeAdapter(At)


@dataclass(frozen=True, kw_only=True)
class Work:
    """Does a task in a worker: `work(task)` returns "" or, in one line, why it cannot be done.

    `folder` is where relative paths start, `out` the run's. Slurm calls `checkpoint` where it takes the
    machine away: the task then goes on from its own checkpoint, elsewhere.
    """

    folder: Path
    out: Path
    threads: int
    store: str | None = None

    def __call__(self, task: Task) -> str:
        folder = expand_home(self.folder)
        make_folder(folder)
        os.chdir(folder)
        torch.set_num_threads(self.threads)
        try:
            with self._alike():
                perform(task, FileProgress(task, self.out))
        except LoradarError as error:
            return str(error)
        except Exception as error:  # a mistake of ours, or a library's: another try would end as this one
            place = task.folder / "error.txt"
            with suppress(OSError):
                place.write_text(traceback.format_exc(), encoding="utf-8", errors="backslashreplace")
            return f"{type(error).__name__}: {' '.join(str(error).split())} (see {place})"
        return ""

    @contextmanager
    def _alike(self) -> Iterator[None]:
        """With a store: the run's folder as it is there before the block, and what the block made there after it."""
        store = RemoteFolder(self.store) if self.store is not None else None
        if store is not None:
            store.pull(self.out)
        try:
            yield
        finally:
            if store is not None:
                store.push(self.out, last=is_mark)

    def checkpoint(self, task: Task) -> object:
        import submitit

        return submitit.helpers.DelayedSubmission(self, task)


def is_mark(name: str) -> bool:
    """Whether a file of a run's folder says that something is done."""
    return name.startswith("stages/") or name.endswith("/done.json")


def end_with(parent: int) -> None:
    """Ends this process once its parent is gone: a driver that was killed leaves nobody behind."""

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(_PARENT_SECONDS)
        os._exit(1)

    threading.Thread(target=watch, name="parent", daemon=True).start()


@dataclass(eq=False)
class FileProgress:
    """Progress that is written to `progress.json` of a task, once a second at most, and shown by `also`.

    Raises CancelledError in the middle of the work once somebody asked for that.
    """

    of: Task
    out: Path
    also: Progress = field(default_factory=NullProgress)

    def task(self, name: str, total: int, unit: str = "images") -> ProgressBar:
        at = At(name=name, done=0, total=total, unit=unit, began=time.time())
        return _FileBar(self, at, self.also.task(name, total, unit))

    def message(self, text: str) -> None:
        self.also.message(text)
        try:
            with (self.of.folder / "messages.txt").open("a", encoding="utf-8", errors="backslashreplace") as file:
                file.write(f"{text}\n")
        except OSError:  # what is said on the way is not worth the work
            return

    def write(self, at: At) -> None:
        if is_cancelled(self.out):
            raise CancelledError("the run was cancelled")
        try:
            write_atomically(progress_file(self.of), _AT.dump_json(at))
        except BadFileError:
            return


@dataclass(eq=False)
class _FileBar:
    file: FileProgress
    at: At
    also: ProgressBar
    written: float = 0.0

    def advance(self, amount: int = 1, note: str = "") -> None:
        self.also.advance(amount, note)
        self.at = replace(self.at, done=self.at.done + amount, note=note or self.at.note)
        now = time.monotonic()
        if now - self.written >= _WRITE_SECONDS or self.at.done >= self.at.total:
            self.written = now
            self.file.write(self.at)


def progress_file(task: Task) -> Path:
    return task.folder / "progress.json"


def read_progress(task: Task) -> At | None:
    """What `task` said last that it is at; None where it said nothing."""
    try:
        return _AT.validate_json(read_regular(progress_file(task)))
    except (OSError, ValueError):
        return None


def cancel_file(out: Path) -> Path:
    """The file that asks a run to stop."""
    return out / TASKS / "cancel"


def is_cancelled(out: Path) -> bool:
    return cancel_file(out).exists()
