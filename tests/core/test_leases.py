import dataclasses
import json
import os
import signal
import threading
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from loradar.core import leases
from loradar.core.errors import BadFileError
from loradar.core.leases import lease
from loradar.core.processes import this_process
from loradar.core.types import NullProgress


class Messages(NullProgress):
    def __init__(self) -> None:
        self.lines: list[str] = []

    def message(self, text: str) -> None:
        self.lines.append(text)


@contextmanager
def another_run(out: Path) -> Iterator[int]:
    """A process that holds `out`, forked, since torch takes seconds to import."""
    reader, writer = os.pipe()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of threads, which this child has no use for
        child = os.fork()
    if child == 0:
        with lease(out):
            os.write(writer, b"held")
            time.sleep(60)
        os._exit(0)
    assert os.read(reader, 4) == b"held"
    yield child
    assert os.waitpid(child, 0)[1] == signal.SIGKILL


def written(out: Path, **changes: object) -> Path:
    """The lease of some other process."""
    out.mkdir(exist_ok=True)
    process = dataclasses.asdict(this_process()) | {"pid": 7, "start": 7} | changes
    path = out / ".lease.json"
    path.write_text(json.dumps({"host": "far", "process": process, "since": "2026-01-02 03:04:05+00:00"}))
    return path


@pytest.mark.parametrize("beside", [True, False])
def test_a_lease_leaves_nothing_behind(tmp_path: Path, beside: bool) -> None:
    out = tmp_path / "a" / "out"
    threads = threading.active_count()
    with lease(out, beside=beside):
        assert out.exists() != beside
        with (
            pytest.raises(BadFileError, match=f"in use by another run .process {os.getpid()} on "),
            lease(out, beside=beside),
        ):
            pass
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []
    assert threading.active_count() == threads
    with lease(out, beside=beside):
        pass


def test_a_second_run_is_told_who_holds_the_folder_and_goes_on_once_that_is_killed(tmp_path: Path) -> None:
    out, progress = tmp_path / "out", Messages()
    with another_run(out) as child:
        with (
            pytest.raises(BadFileError, match=f"process {child} on .*, since 20.*; wait for it with --wait"),
            lease(out),
        ):
            pass
        threading.Timer(0.3, os.kill, (child, signal.SIGKILL)).start()
        # it has ended, although nobody has asked for its exit status yet
        with lease(out, wait=True, progress=progress):
            pass
    assert progress.lines[0].startswith(f"waiting for {out}, which is in use (process {child} on ")
    assert "a run was killed there" in progress.lines[1]


def test_a_lease_of_another_machine_ends_with_its_heartbeat(tmp_path: Path) -> None:
    path, progress = written(tmp_path / "out", machine="00000000"), Messages()
    with (
        pytest.raises(
            BadFileError, match=r"process 7 on far, since 2026.*heard of 0 s ago; after 3 min it counts as ended"
        ),
        lease(path.parent),
    ):
        pass
    ago = time.time() - leases.STALE_SECONDS - 1
    os.utime(path, (ago, ago))
    with lease(path.parent, progress=progress):
        assert json.loads(path.read_text())["process"]["pid"] == os.getpid()
    assert progress.lines == [
        f"{path.parent}: a run was killed there (process 7 on far, since 2026-01-02 03:04:05+00:00); this one takes the "
        "folder over"
    ]


def test_an_unreadable_lease_is_named(tmp_path: Path) -> None:
    path = written(tmp_path / "out")
    path.write_text("{")
    with (
        pytest.raises(BadFileError, match=r"\.lease\.json cannot be read; delete that file if no run"),
        lease(path.parent),
    ):
        pass


def test_a_folder_that_was_taken_away_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "out"
    with pytest.raises(BadFileError, match="was removed, or another run took it"), lease(out):
        (out / ".lease.json").unlink()
    monkeypatch.setattr(leases, "HEARTBEAT_SECONDS", 0.02)
    with pytest.raises(BadFileError, match="was removed, or another run took it"), lease(out):
        _sleep_while_it_is_taken(out)
    assert json.loads((out / ".lease.json").read_text())["process"]["pid"] == 7  # whose lease it is now


def _sleep_while_it_is_taken(out: Path) -> None:
    written(out)
    for _ in range(100):  # the main thread is interrupted
        time.sleep(0.1)


def test_the_heart_beats(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(leases, "HEARTBEAT_SECONDS", 0.02)
    with lease(tmp_path):
        path = tmp_path / ".lease.json"
        os.utime(path, (0, 0))
        deadline = time.monotonic() + 5
        while path.stat().st_mtime == 0 and time.monotonic() < deadline:
            time.sleep(0.01)
        assert path.stat().st_mtime > 0


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs a fork")
@pytest.mark.parametrize("beside", [False, True])
def test_a_run_killed_while_it_takes_a_lease_leaves_nothing(beside: bool, tmp_path: Path) -> None:
    child = os.fork()
    if child == 0:
        os.link = lambda *_: os._exit(9)
        with lease(tmp_path / "out", beside=beside):
            os._exit(0)
    os.waitpid(child, 0)
    assert [path.suffix for path in tmp_path.rglob(".*")] == [".part"]
    with lease(tmp_path / "out", beside=beside):
        pass
    assert not list(tmp_path.rglob(".*"))
