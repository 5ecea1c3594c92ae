"""Runs of files: what is refused before anything starts, cancelling, and runs of machines without a common disk."""

import json
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from loradar.cluster import runs
from loradar.cluster.config import FileConfig, RunFileConfig
from loradar.cluster.runners import runner
from loradar.cluster.work import FileProgress, Work, is_cancelled
from loradar.core.errors import BadConfigError, BadFileError, LoradarError
from loradar.core.leases import lease
from loradar.core.remote import RemoteFolder
from loradar.core.types import NullProgress
from loradar.jobs import pretrain, tasks
from loradar.jobs.tasks import CancelledError
from tests.cluster.runs import results, write


def config(file: Path, **settings: Any) -> RunFileConfig:
    return RunFileConfig(file=file, **settings)


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"ray": "auto"}, "ray is for ray, not local; say --on ray"),
        ({"slurm": ["a=1"], "on": "processes"}, "slurm is for slurm, not processes; say --on slurm"),
        ({"store": "file:///x"}, "store is for processes, ray, slurm, not local"),
        ({"store": "file:///x", "on": "processes"}, "with a store, out is to be a relative path"),
        (
            {"store": "nothing://x", "on": "processes"},
            "nothing://x cannot be read or written: Protocol not known: nothing",
        ),
        ({"slurm": ["timeout"], "on": "slurm"}, "slurm is 'timeout'; expected NAME=VALUE, for example timeout_min=240"),
        ({"slurm": ["timeot_min=3"], "on": "slurm"}, "Slurm refuses these settings: "),
        ({"set": ["seed"]}, "--set 'seed' cannot be read; expected NAME=VALUE"),
    ],
)
def test_what_does_not_fit_is_one_line_and_nothing_is_begun(
    tmp_path: Path, settings: dict[str, Any], says: str
) -> None:
    file = write(tmp_path, tmp_path / "run")
    with pytest.raises(LoradarError) as error:
        runs.run(config(file, **settings), NullProgress())
    assert says in str(error.value)
    assert "\n" not in str(error.value)
    assert not list((tmp_path / "run").glob("base*"))


def test_an_engine_that_is_not_installed_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, package in (("ray", "ray"), ("slurm", "submitit")):
        monkeypatch.setitem(sys.modules, package, None)
        says = rf'needs the package {package}: pip install "loradar\[{name}\]"'
        with pytest.raises(BadConfigError, match=says), runner(config(tmp_path / "x.yaml", on=name), tmp_path):
            pass


def test_a_run_that_is_asked_to_stop_stops_and_goes_on(tmp_path: Path) -> None:
    file, out = write(tmp_path, tmp_path / "run", episodes=40), tmp_path / "run"
    with pytest.raises(BadFileError, match="holds no run of a file of stages"):
        runs.cancel(out)
    begun, stopped = threading.Event(), []

    class Watching(NullProgress):
        def task(self, name: str, total: int, unit: str = "images") -> Any:
            if name.startswith("meta-tune"):
                begun.set()
            return super().task(name, total, unit)

    def stop() -> None:
        begun.wait(60)
        stopped.extend(runs.cancel(out))

    asking = threading.Thread(target=stop)
    asking.start()
    with pytest.raises(CancelledError, match="the same command goes on with it"):
        runs.run(config(file), Watching())
    asking.join()
    assert stopped == ["pool"]
    assert runs.cancel(out) == []
    # what is left can be told in seconds, for what it waits for is there
    _, planned, seconds = runs.plan(FileConfig(file=file))
    undone = {task.id: task.name for task in planned if not task.is_done}
    assert {undone[name] for name in seconds} == {"pool eps-2", "pool eps-4"}
    assert min(seconds.values()) > 0
    _, left = runs.run(config(file), NullProgress())
    assert left == ("pool",)
    assert len(results(out)) == 4
    pool = next(task for task in tasks.read_plan(out) if task.name == "pool")
    assert [one.outcome for one in tasks.attempts(pool)] == ["stopped", "done"]


def test_machines_without_a_common_disk_hand_on_through_a_store(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = f"file://{tmp_path}/store"
    file = write(tmp_path, Path("run"))
    monkeypatch.chdir(tmp_path)
    planned = tasks.plan(runs.plan(FileConfig(file=file, only=["base", "craft"]))[0])
    # every task on a machine of its own
    for number, task in enumerate(planned):
        work = Work(folder=tmp_path / f"machine-{number}", out=Path("run"), threads=1, store=store)
        assert work(task) == ""
        monkeypatch.chdir(tmp_path)
        # what the driver sees, without the work on the way
        runs._fetch(RemoteFolder(store), planned, Path("run"))
        assert [one.is_done for one in planned] == [True] * (number + 1) + [False] * (len(planned) - number - 1)
    last = tmp_path / f"machine-{len(planned) - 1}" / "run"
    monkeypatch.chdir(last.parent)
    assert all(task.is_done for task in planned)
    monkeypatch.chdir(tmp_path)
    names = {"base/model.safetensors", "craft/pgd-steps2.safetensors"}
    assert set(results(last)) == names
    runs.run(config(file, only=["base", "craft"], set=["out=alone", "craft.cache=alone/cache"]), NullProgress())
    alone = results(tmp_path / "alone")
    assert alone["base/model.safetensors"] == results(last)["base/model.safetensors"]
    # nobody crafted a shard twice: all of them were handed on
    crafted = list((last / "cache").rglob("*.safetensors"))
    assert len(crafted) == len(list((tmp_path / "alone" / "cache").rglob("*.safetensors")))


@pytest.mark.slow
def test_a_run_is_seen_and_stopped_from_another_folder_also_before_its_first_task(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path)
    file = config(write(tmp_path, Path("run")), only=["base"])
    runs.run(file, NullProgress())
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert [task.is_done for task in tasks.read_plan(tmp_path / "run")] == [True]
    assert runs.cancel(Path("../run")) == []
    (tmp_path / "run" / "stages" / "base.json").unlink()
    held = threading.Event()

    def hold() -> None:
        with lease(tmp_path / "run" / "tasks"):
            held.set()
            while not is_cancelled(tmp_path / "run"):
                time.sleep(0.01)

    driver = threading.Thread(target=hold)
    driver.start()
    held.wait(60)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(
        BadFileError, match=r"stop it with `loradar cancel run`, or choose another folder with --set out"
    ):
        runs.run(file, NullProgress())
    assert runs.cancel(Path("run")) == ["base"]
    driver.join()


def test_a_mistake_of_a_library_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    task = tasks.plan(runs.plan(FileConfig(file=write(tmp_path, tmp_path / "run"), only=["base"]))[0])[0]

    def fail(*_: object, **__: object) -> None:
        raise RuntimeError("two\nlines")

    monkeypatch.setattr(pretrain, "run", fail)
    monkeypatch.chdir(tmp_path)
    said = Work(folder=tmp_path, out=tmp_path / "run", threads=1)(task)
    assert said == f"RuntimeError: two lines (see {task.folder / 'error.txt'})"
    assert "Traceback" in (task.folder / "error.txt").read_text()
    assert tasks.attempts(task)[-1].outcome == "failed: RuntimeError: two lines"


def test_what_a_task_is_at_can_be_read(tmp_path: Path) -> None:
    file = write(tmp_path, tmp_path / "run")
    task = tasks.plan(runs.plan(FileConfig(file=file, only=["base"]))[0])[0]
    bar = FileProgress(task, tmp_path / "run").task("train", 10, "steps")
    bar.advance(3, "loss 1")
    told = json.loads((task.folder / "progress.json").read_text())
    assert (told["name"], told["done"], told["total"], told["note"]) == ("train", 3, 10, "loss 1")
