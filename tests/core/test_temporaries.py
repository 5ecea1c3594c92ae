import dataclasses
import os
import subprocess
import sys
from pathlib import Path

import pytest

from loradar.core import temporaries
from loradar.core.processes import Process, is_running, this_process
from loradar.core.temporaries import put_back, remove_abandoned, temporary_beside


@pytest.fixture(scope="module")
def ended() -> Process:
    """A process that has run on this machine, and has ended."""
    child = subprocess.run([sys.executable, "-c", "import os; print(os.getpid())"], capture_output=True, check=True)
    return dataclasses.replace(this_process(), pid=int(child.stdout), start=1)


def left_by(process: Process, path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The temporary that `process` would have beside `path`."""
    with monkeypatch.context() as patch:
        patch.setattr(temporaries, "this_process", lambda: process)
        return temporary_beside(path)


def test_a_process_is_known_to_run(ended: Process) -> None:
    own = this_process()
    assert is_running(own) is True
    assert is_running(ended) is False
    assert is_running(dataclasses.replace(own, start=own.start + 1)) is False  # its number, given to another one
    assert is_running(dataclasses.replace(own, machine="00000000")) is None


def test_a_zombie_does_not_run() -> None:
    child = os.fork()
    if child == 0:
        os._exit(0)
    os.waitid(os.P_PID, child, os.WEXITED | os.WNOWAIT)
    assert is_running(dataclasses.replace(this_process(), pid=child)) is False
    os.waitpid(child, 0)


def test_names_differ_and_fit(tmp_path: Path) -> None:
    path = tmp_path / ("é" * 127)
    names = {temporary_beside(path).name for _ in range(100)}
    assert len(names) == 100
    assert all(len(os.fsencode(name)) <= 255 for name in names)


def test_what_killed_runs_left_is_removed_and_all_else_stays(
    tmp_path: Path, ended: Process, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    (out / "work").mkdir(parents=True)
    dead = [left_by(ended, path, monkeypatch) for path in (out, out / "work" / "000", out / "run.json")]
    for path in dead[:2]:
        path.mkdir()
        (path / "half").touch()
    dead[2].touch()
    elsewhere = dataclasses.replace(ended, machine="00000000")
    old = left_by(elsewhere, out / "a", monkeypatch)
    stays = [temporary_beside(out), left_by(elsewhere, out / "b", monkeypatch), out / ".hidden.part", out / "x.part"]
    for path in (old, *stays):
        path.touch()
    os.utime(old, (0, 0))
    remove_abandoned(out)
    assert not any(path.exists() for path in (*dead, old))
    assert all(path.exists() for path in stays)


@pytest.mark.parametrize("with_new", [True, False])
def test_a_folder_that_a_killed_save_moved_away_is_put_back(
    tmp_path: Path, ended: Process, monkeypatch: pytest.MonkeyPatch, with_new: bool
) -> None:
    out = tmp_path / "base"
    part = left_by(ended, out, monkeypatch)
    for path, text in ((part.with_suffix(".old"), "old"), *([(part, "new")] if with_new else [])):
        path.mkdir()
        (path / "x").write_text(text)
    put_back(out)
    assert (out / "x").read_text() == ("new" if with_new else "old")
    remove_abandoned(tmp_path)
    assert list(tmp_path.iterdir()) == [out]


def test_a_folder_that_is_being_replaced_is_left_to_who_does_it(tmp_path: Path) -> None:
    out = tmp_path / "base"
    temporary_beside(out).with_suffix(".old").mkdir()
    put_back(out)
    assert not out.exists()
