"""Every engine ends with the bits of a run in one process, also where workers and the driver are killed."""

import json
import os
import signal
import time
from pathlib import Path

import pytest

from tests.cluster.runs import command, processes, results, worker_at, write

ENGINES = {
    "slurm": ["--slurm", "timeout_min=30"],  # where there is no Slurm, submitit starts processes
    "ray": ["--workers", "2", "--cpus", "0.5"],
}
TIMEOUT = 240


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run in one process."""
    folder = tmp_path_factory.mktemp("alone")
    said, code = _run(write(folder, folder / "run"), "--threads", "1")
    assert code == 0, said
    assert len(results(folder / "run")) == 4
    return folder / "run"


def _run(*args: object) -> tuple[str, int]:
    process = command("run", *args)
    said, _ = process.communicate(timeout=TIMEOUT)
    return said, process.returncode


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.slow
def test_the_bits_are_those_of_one_process(engine: str, alone: Path, tmp_path: Path) -> None:
    if engine == "ray":
        pytest.importorskip("ray", reason="Ray is not installed; with it: pip install 'loradar[ray]'")
    stages = ("--only", "base", "--only", "pool")
    said, code = _run(write(tmp_path, tmp_path / "run"), *stages, "--on", engine, *ENGINES[engine])
    assert code == 0, said
    expected = {name: data for name, data in results(alone).items() if not name.startswith("craft/")}
    assert results(tmp_path / "run") == expected
    assert "pool eps-4" in said


def _expect_nobody(mark: Path) -> None:
    """Nobody is left behind."""
    until = time.monotonic() + 20
    while processes(mark) and time.monotonic() < until:
        time.sleep(0.1)
    assert processes(mark) == []


def test_killed_workers_and_drivers_leave_the_bits_of_a_whole_run(alone: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    args = ("run", write(tmp_path, out), "--on", "processes", "--workers", "2")
    driver = command(*args, mark=out)
    worker_at(out, "base")  # the other worker waits for something to do
    driver.kill()
    driver.communicate()
    _expect_nobody(out)
    driver = command(*args, mark=out)
    killed = worker_at(out, "pool eps-2")
    os.kill(killed, signal.SIGKILL)
    worker_at(out, "pool eps-2", other_than=killed)
    driver.kill()
    driver.communicate()
    _expect_nobody(out)
    again = command(*args)
    said, _ = again.communicate(timeout=TIMEOUT)
    assert again.returncode == 0, said
    assert results(out) == results(alone)
    # what is finished is not done again
    before = {path: path.stat().st_mtime_ns for path in out.rglob("*.safetensors")}
    said, code = _run(*args[1:])
    assert (code, "pool: was done" in said) == (0, True), said
    assert {path: path.stat().st_mtime_ns for path in out.rglob("*.safetensors")} == before
    told = json.loads(command("status", out, "--json").communicate(timeout=TIMEOUT)[0])
    assert {one["state"] for one in told} == {"done"}
    tries = next(one["attempts"] for one in told if one["name"] == "pool eps-2")
    assert len(tries) == 3
    assert [one["outcome"] for one in tries] == ["", "", "done"]
