"""Hands tasks to a runner as those that they wait for end, and follows them."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from graphlib import TopologicalSorter
from pathlib import Path

from loradar.cluster.runners import Handle, Runner
from loradar.cluster.work import At, FileProgress, is_cancelled, progress_file, read_progress
from loradar.core.errors import LoradarError
from loradar.core.types import Progress, ProgressBar
from loradar.jobs.tasks import CancelledError, Task, attempts, perform

_POLL_SECONDS = 0.2
_LOOK_SECONDS = 1.0
_MOST_WAITS = 20
"""How often a task may be handed over in vain before its process has begun it: something keeps workers from starting."""
_CANCELLED = "the run was cancelled; the same command goes on with it"


class TaskFailedError(LoradarError):
    """A task that cannot be done, or whose process died too often."""


def execute(
    tasks: Sequence[Task],
    runner: Runner,
    out: Path,
    progress: Progress,
    *,
    refresh: Callable[[], object] = lambda: None,
) -> None:
    """Does every task that is not done, each once those that it needs are. `refresh` brings marks here from elsewhere.

    Once a task fails, nothing new is begun, and what runs is waited for. Raises TaskFailedError, and CancelledError where
    somebody asked the run to stop.
    """
    known = {task.id: task for task in tasks}
    order = TopologicalSorter({task.id: task.needs for task in tasks})
    order.prepare()
    bar = progress.task("tasks", len(tasks), "tasks")
    running: list[_Followed] = []
    failed: list[str] = []
    looked = time.monotonic()
    try:
        while running or (order.is_active() and not failed):
            for ready in () if failed else order.get_ready():
                task = known[ready]
                if task.is_done:
                    order.done(ready)
                    bar.advance()
                else:
                    one = _Followed(task, progress)
                    one.handle = runner.submit(task)
                    running.append(one)
            for one in [each for each in running if each.handle.done()]:
                running.remove(one)
                refresh()
                error = one.ending()
                if error is None and one.tries <= runner.retries and one.waits <= _MOST_WAITS:
                    progress.message(f"{one.task.name}: its process died; it is begun again")
                    one.handle = runner.submit(one.task)
                    running.append(one)
                elif error is None:
                    failed.append(f"{one.task.name}: its process died ({one.died}); see {one.task.folder}")
                elif error:
                    failed.append(f"{one.task.name}: {error}")
                else:
                    order.done(one.task.id)
                    bar.advance(note=one.task.name)
            if is_cancelled(out):
                raise CancelledError(_CANCELLED)
            if time.monotonic() - looked > _LOOK_SECONDS:
                for one in running:
                    if one.file.exists():
                        one.look()
                looked = time.monotonic()
            if running:
                time.sleep(_POLL_SECONDS)
    except BaseException:
        for one in running:
            one.handle.cancel()
        raise
    if failed:
        raise TaskFailedError(failed[0])


def execute_here(tasks: Sequence[Task], out: Path, progress: Progress) -> None:
    """Does the tasks in this process, one after the other. Raises what they raise."""
    for task in [one for one in tasks if not one.is_done]:
        if is_cancelled(out):
            raise CancelledError(_CANCELLED)
        try:
            perform(task, FileProgress(task, out, progress))
        except CancelledError:
            raise CancelledError(_CANCELLED) from None


@dataclass(eq=False)
class _Followed:
    """A task that runs elsewhere, with a bar here for what it is at."""

    task: Task
    progress: Progress
    handle: Handle = field(init=False)
    tries: int = 0
    waits: int = 0
    begun: int = 0
    died: str = ""
    at: At | None = None
    bar: ProgressBar | None = None
    file: Path = field(init=False)

    def __post_init__(self) -> None:
        self.file = progress_file(self.task)
        self.begun = len(attempts(self.task))  # before it is handed over: a worker may begin it at once

    def ending(self) -> str | None:
        """An empty text for a task that is done, why it cannot be, or None where its process died."""
        self.look()
        try:
            error = self.handle.result()
        except Exception as died:  # every engine has its own
            before, self.begun = self.begun, len(attempts(self.task))
            if self.begun > before:
                self.tries, self.waits = self.tries + 1, 0
            else:  # it had not begun: processes end together, and one that died ends those who wait, too
                self.waits += 1
            self.died = f"{type(died).__name__}: {died}".partition("\n")[0]
            return None
        if not error and not self.task.is_done:
            return f"it ended, but {self.task.mark} is not there; expected a disk that every machine sees, or --store"
        return error

    def look(self) -> None:
        """Brings the bar up to date."""
        at = read_progress(self.task)
        if at is None or at == self.at:
            return
        if self.bar is None or self.at is None or at.began != self.at.began:
            name = at.name if self.task.part and self.task.part in at.name else f"{self.task.name}: {at.name}"
            self.bar, self.at = self.progress.task(name, at.total, at.unit), None
        self.bar.advance(at.done - (self.at.done if self.at else 0), at.note)
        self.at = at
