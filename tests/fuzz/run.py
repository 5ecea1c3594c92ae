"""Sends changed and odd inputs through every door and counts what went wrong.

`python -m tests.fuzz.run --inputs 10000` prints a table, and ends with 1 where anything but a refusal or a right answer came.
Inputs run in a process of their own: one that ends or hangs it is counted, and kept below `runs/fuzz` with the others.
"""

import argparse
import contextlib
import importlib
import json
import os
import pickle
import resource
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import hypothesis
from hypothesis import HealthCheck, Phase, given, settings

ROOT = Path(__file__).parents[2]
OUTCOMES = ("refused", "accepted", "traceback", "hang", "over memory", "wrong")
SECONDS, BYTES = 10, 2 * 2**30
_WAITS = 0.1
"""Seconds of computing in ten, below which an input waits for something."""
LIMIT = BYTES * 2
"""Of the address space, beyond what the process has at its start: torch reserves more than it touches."""


LAZY = (
    "jinja2",
    "loradar.report.page",
    "scipy.optimize",
    "scipy.stats",
    "sklearn.linear_model",
    "torch._dynamo",
    "yaml",
)
"""What doors import when they first need it; an import that is interrupted leaves a broken module."""


class _Hang(BaseException):
    pass


def outcome(door: Any, one: object, place: Path) -> tuple[str, str]:
    """Enters a door with one input, in a folder of its own below `place`: the outcome, and what was raised."""
    from loradar.core.errors import LoradarError
    from tests.fuzz.doors import Wrong

    place = Path(tempfile.mkdtemp(dir=place))
    try:
        with _bounded(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            door.enter(one, place)
    except LoradarError as error:
        return "refused", str(error)
    except Wrong as error:
        return "wrong", str(error)
    except _Hang:
        return "hang", traceback.format_exc()
    except MemoryError:
        return "over memory", traceback.format_exc()
    except Exception:
        return "traceback", traceback.format_exc()
    finally:
        shutil.rmtree(place, ignore_errors=True)
    return "accepted", ""


@contextlib.contextmanager
def _bounded() -> Iterator[None]:
    used = [time.process_time()]

    def ring(*_: object) -> None:
        used.append(time.process_time())
        # on a machine that is busy with others, what has computed a little goes on
        if used[-1] - used[0] > SECONDS or used[-1] - used[-2] < _WAITS:
            raise _Hang

    before = signal.signal(signal.SIGALRM, ring)
    signal.setitimer(signal.ITIMER_REAL, SECONDS, SECONDS)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def draw(door: Any, count: int, seed: int, use: Callable[[object], object]) -> None:
    """Calls `use` with `count` inputs of a door; the same seed draws the same."""
    left = [count]

    @settings(
        max_examples=count,
        database=None,
        deadline=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(door.inputs)
    def each(one: object) -> None:
        if left[0]:
            left[0] -= 1
            use(one)

    hypothesis.seed(seed)(each)()


def _serve() -> None:
    """The child: reads `[door, count, seed]` a line, and says the outcome of each input in a line; doors' shares for `[]`."""
    from tests.fuzz import table
    from tests.fuzz.table import DOORS

    for module in LAZY:
        importlib.import_module(module)
    table.warm_up()
    said = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    keep = Path(sys.argv[2])
    size = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (size + LIMIT, resource.RLIM_INFINITY))
    for line in sys.stdin:
        if not (asked := json.loads(line)):
            print(json.dumps({name: door.share for name, door in DOORS.items()}), file=said, flush=True)
            continue
        name, count, seed = asked

        def use(one: object, name: str = name) -> None:
            (keep / "current.pickle").write_bytes(pickle.dumps((name, one)))
            before = _peak(reset=True)
            found, text = outcome(DOORS[name], one, Path(tempfile.gettempdir()))
            if found in ("refused", "accepted") and _peak() - before > BYTES:
                found, text = "over memory", f"{(_peak() - before) / 2**30:.1f} GiB"
            print(json.dumps([found, text[-2000:]]), file=said, flush=True)

        draw(DOORS[name], count, seed, use)
        print(json.dumps(["done", ""]), file=said, flush=True)


def _peak(*, reset: bool = False) -> int:
    """The largest memory in use since the last reset, in bytes."""
    if reset:
        Path("/proc/self/clear_refs").write_text("5")
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM"))


class Child:
    """The parent's side of the process that the inputs run in."""

    def __init__(self, keep: Path) -> None:
        self._keep = keep
        environment = {
            **os.environ,
            "OMP_NUM_THREADS": "1",
            "MALLOC_ARENA_MAX": "1",
            "PYTHONPATH": f"{ROOT / 'src'}:{ROOT}",
            "HF_HUB_OFFLINE": "1",
            "https_proxy": "http://127.0.0.1:9",
            "http_proxy": "http://127.0.0.1:9",
        }
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.fuzz.run", "--serve", str(keep)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=(keep / "stderr.txt").open("a"),
            cwd=ROOT,
            env=environment,
        )
        self._rest = b""

    def shares(self) -> dict[str, int]:
        """Returns the share of each door; it is the first that is asked, and takes as long as all imports."""
        self._write([])
        line = self._line(600)
        assert isinstance(line, bytes), f"the process did not start; see {self._keep / 'stderr.txt'}"
        shares: dict[str, int] = json.loads(line)
        return shares

    def _write(self, asked: list[object]) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(asked).encode() + b"\n")
        self._process.stdin.flush()

    def ask(self, name: str, count: int, seed: int) -> Iterator[tuple[str, str]]:
        """Yields the outcome of each input; the last is a hang or a traceback where the process had to be ended or ended."""
        self._write([name, count, seed])
        first = True
        while True:
            line = self._line(600 if first else 12 * SECONDS)
            if not isinstance(line, bytes):
                self.close()
                yield line, "the process had to be ended" if line == "hang" else "the process ended"
                return
            first = False
            found, text = json.loads(line)
            if found == "done":
                return
            yield found, text

    def _line(self, seconds: float) -> bytes | str:
        assert self._process.stdout is not None
        until = time.monotonic() + seconds
        while b"\n" not in self._rest:
            ready, _, _ = select.select([self._process.stdout], [], [], max(0, until - time.monotonic()))
            if not ready:
                return "hang"
            data = os.read(self._process.stdout.fileno(), 65536)
            if not data:
                return "traceback"
            self._rest += data
        line, _, self._rest = self._rest.partition(b"\n")
        return line

    @property
    def is_alive(self) -> bool:
        return self._process.poll() is None

    def close(self) -> None:
        self._process.kill()
        self._process.wait()


def fuzz(inputs: int, seed: int, only: list[str], keep: Path) -> Iterator[tuple[str, Counter[str]]]:
    """Sends `inputs` inputs through the doors `only`, each its share and 500 of 10,000 at least; yields their counts."""
    keep.mkdir(parents=True, exist_ok=True)
    child, kept = Child(keep), Counter[str]()
    shares = {name: share for name, share in child.shares().items() if not only or name in only}
    least = inputs // 20
    left = max(0, inputs - least * len(shares))
    parts = sum(shares.values())
    for name, share in shares.items():
        count, draws, counts = least + -(-left * share // parts), 0, Counter[str]()
        began = time.monotonic()
        while (more := count - counts.total()) > 0 and draws < 20:
            if not child.is_alive:
                child = Child(keep)
            for found, text in child.ask(name, more, seed + draws):
                counts[found] += 1
                if found not in OUTCOMES[:2]:
                    _keep(keep, name, found, text, kept)
            draws += 1
        counts["seconds"] = round(time.monotonic() - began)
        yield name, counts
    child.close()


def _keep(keep: Path, name: str, found: str, text: str, kept: Counter[str]) -> None:
    """Keeps the first inputs of a kind of failure: pickled, and what came of it."""
    kind = f"{name} {found}".replace(" ", "-").replace("'", "")
    kept[kind] += 1
    if kept[kind] <= 20:
        with contextlib.suppress(OSError):
            shutil.copy(keep / "current.pickle", keep / f"{kind}-{kept[kind]:02d}.pickle")
        (keep / f"{kind}-{kept[kind]:02d}.txt").write_text(text, errors="backslashreplace")


def main() -> None:
    if sys.argv[1:2] == ["--serve"]:
        _serve()
        return
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--inputs", type=int, default=10_000, help="inputs of all doors together")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", nargs="*", default=[], metavar="DOOR")
    parser.add_argument("--again", type=Path, metavar="FILE", help="enter a door with one input that was kept")
    asked = parser.parse_args()
    if asked.again:
        from tests.fuzz.table import DOORS

        name, one = pickle.loads(asked.again.read_bytes())
        print(name, repr(one)[:2000], *outcome(DOORS[name], one, Path(tempfile.gettempdir())), sep="\n")
        return
    row = "{:<18}{:>8}{:>9}{:>10}{:>12}{:>7}{:>13}{:>7}{:>9}".format
    print(row("door", "inputs", "refused", "accepted", "tracebacks", "hangs", "over memory", "wrong", "seconds"))
    total = Counter[str]()
    for name, found in fuzz(asked.inputs, asked.seed, asked.only, ROOT / "runs" / "fuzz"):
        total += found
        print(_row(row, name, found), flush=True)
    print(_row(row, "all", total))
    raise SystemExit(any(total[one] for one in OUTCOMES[2:]))


def _row(row: Callable[..., str], name: str, found: Counter[str]) -> str:
    counts = [found[one] for one in OUTCOMES]
    return row(name, sum(counts), *counts, found["seconds"])


if __name__ == "__main__":
    main()
