"""Servers in processes of their own, which are ended with what they have started."""

import contextlib
import os
import re
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.peers import PEERS

ROOT = Path(__file__).parents[1]
RAW, FORM = "image/png", "multipart/form-data; boundary=part"
_PREDICT = "/v1/models/m/predict"


@dataclass(frozen=True, kw_only=True)
class Server:
    """Where a server takes pictures, and as what; `pid` is of its process."""

    port: int
    pid: int
    path: str = _PREDICT
    content_type: str = RAW

    @property
    def megabytes(self) -> float:
        """Memory that it holds at this moment; NaN where the system does not say."""
        with contextlib.suppress(OSError):
            found = re.search(r"VmRSS:\s+(\d+) kB", Path(f"/proc/{self.pid}/status").read_text())
            return int(found[1]) / 1024 if found else float("nan")
        return float("nan")


def form(data: bytes) -> bytes:
    """A picture as a form, of type `FORM`."""
    head = (
        b'--part\r\nContent-Disposition: form-data; name="image"; filename="image"\r\nContent-Type: image/png\r\n\r\n'
    )
    return head + data + b"\r\n--part--\r\n"


@contextlib.contextmanager
def loradar(work: Path, places: Sequence[str], base: str | None, *options: object) -> Iterator[Server]:
    """`loradar serve`, at its defaults but for `options` and the number format, which answers are checked in."""
    log = work / "loradar.log"

    def ready() -> int | None:
        found = re.search(r"serving at http://\S+:(\d+) ", log.read_text())
        return int(found[1]) if found else None

    with _process(_command(places, base, "--port", 0, *options), log) as process:
        yield Server(port=_port_of(process, log, ready), pid=process.pid)


def update(work: Path, server: Server, places: Sequence[str], base: str | None, *options: object) -> None:
    """Runs the command of `loradar` again, on the Ray cluster that it started, and waits for it."""
    address = re.findall(r" --ray (\S+), ", (work / "loradar.log").read_text())[-1]
    command = _command(places, base, "--port", server.port, *options, "--ray", address)
    done = subprocess.run(command, env=_environment() | {"RAY_AUTH_MODE": "token"}, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"the update failed:\n{done.stderr[-3000:]}")


def _command(places: Sequence[str], base: str | None, *options: object) -> list[str]:
    given = ["serve", *places, "--precision", "fp32", *options, *(["--base", base] if base else [])]
    return [sys.executable, "-c", "from loradar.cli import main; main()", *map(str, given)]


def _environment() -> dict[str, str]:
    return os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT), *filter(None, sys.path)])}


@contextlib.contextmanager
def peer(name: str, work: Path, place: str, base: str | None, picture: bytes) -> Iterator[Server]:
    """A server of PEERS, once it answers `picture`."""
    one, log = PEERS[name], work / f"{name}.log"
    kind, data = (FORM, form(picture)) if one.takes_forms else (RAW, picture)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    request = urllib.request.Request(f"http://127.0.0.1:{port}{one.path}", data, {"Content-Type": kind})

    def ready() -> int | None:
        with contextlib.suppress(OSError), urllib.request.urlopen(request, timeout=30):
            return int(port)
        return None

    arguments = [sys.executable, "-m", "benchmarks.peers", name, place, str(port), *([base] if base else [])]
    with _process(arguments, log) as process:
        yield Server(port=_port_of(process, log, ready), pid=process.pid, path=one.path, content_type=kind)


@contextlib.contextmanager
def _process(arguments: Sequence[str], log: Path) -> "Iterator[subprocess.Popen[bytes]]":
    with log.open("wb") as said:
        process = subprocess.Popen(arguments, stdout=said, stderr=said, env=_environment(), start_new_session=True)
    try:
        yield process
    finally:
        process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(60)
        with contextlib.suppress(ProcessLookupError):  # what it has started and left
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def _port_of(process: "subprocess.Popen[bytes]", log: Path, ready: Callable[[], int | None]) -> int:
    ends = time.monotonic() + 300
    while time.monotonic() < ends and process.poll() is None:
        if (port := ready()) is not None:
            return port
        time.sleep(0.2)
    raise SystemExit(f"a server did not start:\n{log.read_text()[-3000:]}")
