"""The driver on a runner whose processes die as often as it is told: whose tries are counted, and when it gives up."""

from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path

import pytest

from loradar.cluster.driver import TaskFailedError, execute
from loradar.core.processes import this_process
from loradar.core.types import NullProgress
from loradar.jobs import stages, tasks
from loradar.jobs.tasks import Attempt, Task
from tests.cluster.runs import write


@dataclass
class Dying:
    """A process that dies `deaths` times, after it `began` the task or while that waits; then the task is done."""

    deaths: int
    began: Callable[[Task], None]
    retries: int = 2
    handed: int = 0

    def submit(self, task: Task) -> "Future[str]":
        self.handed += 1
        future: Future[str] = Future()
        if self.handed <= self.deaths:
            self.began(task)
            future.set_exception(RuntimeError("a worker was terminated"))
        else:
            Path(task.settings["out"]).mkdir(parents=True, exist_ok=True)
            task.mark.parent.mkdir(parents=True, exist_ok=True)
            task.mark.write_text("{}")
            future.set_result("")
        return future


@pytest.fixture
def task(tmp_path: Path) -> Task:
    return tasks.plan(stages.resolve(write(tmp_path, tmp_path / "run"), only=["base"]))[0]


def begun(task: Task) -> None:
    task.folder.mkdir(parents=True, exist_ok=True)
    number = len(tasks.attempts(task))
    tasks._record(task, Attempt(host="h", process=this_process(), began=float(number)))


def waiting(task: Task) -> None:
    """It had not begun it: another task's process died, and took this one with it."""


def test_a_task_is_begun_again_as_often_as_it_may_be(task: Task, tmp_path: Path) -> None:
    runner = Dying(2, begun)
    execute([task], runner, tmp_path / "run", NullProgress())
    assert runner.handed == 3


def test_a_task_that_dies_too_often_ends_the_run(task: Task, tmp_path: Path) -> None:
    runner = Dying(3, begun)
    with pytest.raises(TaskFailedError, match=r"base: its process died \(RuntimeError: a worker was terminated\)"):
        execute([task], runner, tmp_path / "run", NullProgress())
    assert runner.handed == 3


def test_deaths_of_others_are_not_its_own(task: Task, tmp_path: Path) -> None:
    runner = Dying(10, waiting)
    execute([task], runner, tmp_path / "run", NullProgress())
    assert runner.handed == 11


def test_workers_that_never_start_end_the_run(task: Task, tmp_path: Path) -> None:
    runner = Dying(1000, waiting)
    with pytest.raises(TaskFailedError, match="its process died"):
        execute([task], runner, tmp_path / "run", NullProgress())
    assert runner.handed < 50
