"""A process that has everything imported and forks for each piece of work, so that hundreds can be killed in minutes.

`python -m tests.faults.server` reads one JSON object per line: `work` (a name of WORKS), `folder`, and what kills it, either
`before_call` (the number of a file-system call) or `after_seconds`; it answers with one line (see `Ended`). It never computes
itself: torch cannot differentiate in the fork of a process that has.
"""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
_CALLS = ("rename", "replace", "fsync", "link", "unlink", "rmdir", "mkdir")


@dataclass(frozen=True, kw_only=True)
class Ended:
    """How a piece of work ended: killed or not, the file-system calls that it made, seconds, and its error ("" for none)."""

    killed: bool
    calls: int
    seconds: float
    error: str


class Server:
    """The parent's side: does pieces of work in forks of the process that it has started.

    With `everything` it has imported what any of them needs; else what the saves and `pretrain` do.
    """

    def __init__(self, *, everything: bool = False) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.faults.server", *(["everything"] if everything else [])],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=ROOT,
            env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": f"{ROOT / 'src'}:{ROOT}"},
        )

    def do(self, work: str, folder: Path, **kill: Any) -> Ended:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps({"work": work, "folder": str(folder), **kill}) + "\n")
        self._process.stdin.flush()
        return Ended(**json.loads(self._process.stdout.readline()))

    def close(self) -> None:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        self._process.wait()
        self._process.stdout.close()


def _serve() -> None:
    from tests.faults.works import ALL, FEW, WORKS, warm_up

    warm_up(ALL if sys.argv[1:] == ["everything"] else FEW)
    for line in sys.stdin:
        asked = json.loads(line)
        began = time.monotonic()
        reader, writer = os.pipe()
        child = os.fork()
        if child == 0:
            os.close(reader)
            _work(partial(WORKS[asked["work"]], Path(asked["folder"])), asked, writer)
        os.close(writer)
        if asked.get("after_seconds") is not None:
            time.sleep(asked["after_seconds"])
            os.kill(child, signal.SIGKILL)
        with os.fdopen(reader) as said:
            words = said.read()
        _, status = os.waitpid(child, 0)
        known = json.loads(words) if words else {"calls": 0, "error": ""}
        killed = os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL and not words
        print(json.dumps({**known, "killed": killed, "seconds": time.monotonic() - began}), flush=True)  # noqa: T201


def _work(work: Callable[[], object], asked: dict[str, Any], writer: int) -> None:
    """Does the work and says how it went; never returns."""
    nothing = os.open(os.devnull, os.O_RDWR)
    for number in range(3):
        os.dup2(nothing, number)
    calls, error = [0], ""
    with _counted(calls, asked.get("before_call"), can_exchange=asked.get("can_exchange", True)):
        try:
            work()
        except BaseException as raised:
            error = f"{type(raised).__name__}: {raised}"
    os.write(writer, json.dumps({"calls": calls[0], "error": error}).encode())
    os._exit(0)


@contextlib.contextmanager
def _counted(calls: list[int], last: int | None, *, can_exchange: bool) -> Iterator[None]:
    """Counts calls of the file system that change names; this process is killed before the call number `last`."""
    from loradar.core import files

    def counted(call: Callable[..., Any]) -> Callable[..., Any]:
        def counting(*args: Any, **kwargs: Any) -> Any:
            calls[0] += 1
            if calls[0] == last:
                os.kill(os.getpid(), signal.SIGKILL)
            # a file is whole for the next process without fsync: no power is cut here
            return None if call is fsync else call(*args, **kwargs)

        return counting

    fsync = os.fsync

    for name in _CALLS:
        setattr(os, name, counted(getattr(os, name)))
    files.exchange = counted(files.exchange) if can_exchange else lambda *_: False
    yield


if __name__ == "__main__":
    _serve()
