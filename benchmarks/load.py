"""Clients that ask a server again and again, and check what it answers, in a process that imports no torch.

`benchmarks.serving` starts `python -m benchmarks.load`, writes a pickled `Load` to it and reads an `Outcome` as JSON.
"""

import asyncio
import json
import pickle
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

PROBABILITIES = tuple[int, Sequence[float]]
"""The label of a picture, and the probability of every class."""


@dataclass(frozen=True, kw_only=True)
class Load:
    """Each of `clients` keeps a connection and sends the next of `bodies` once it has its answer, for `seconds`.

    An answer is right where its version belongs to its fingerprint (`versions`: what stands before "-" in a version's name)
    and every probability in it is within `tolerance` of what that version answers in process (`expected`, by fingerprint).
    """

    port: int
    path: str
    content_type: str
    bodies: Sequence[bytes]
    clients: int
    seconds: float
    versions: Mapping[str, str]
    expected: Mapping[str, Sequence[PROBABILITIES]]
    tolerance: float


@dataclass(kw_only=True)
class Outcome:
    """Seconds of each right answer; how many were no answers (`failed`) or other answers (`different`); the first such."""

    window: float = 0.0
    seconds: list[float] = field(default_factory=list)
    failed: int = 0
    different: int = 0
    by_version: Counter[str] = field(default_factory=Counter)
    said: list[str] = field(default_factory=list)

    @property
    def rate(self) -> float:
        """Images a second."""
        return len(self.seconds) / self.window

    def percentile(self, share: float) -> float:
        """Milliseconds within which that share of the answers came."""
        ordered = sorted(self.seconds) or [float("nan")]
        return 1000 * ordered[min(len(ordered) - 1, int(share * len(ordered)))]


def wrong(load: Load, index: int, reply: Mapping[str, Any]) -> str:
    """What is wrong with an answer to the picture `index`; "" where it is right.

    >>> load = Load(port=1, path="/", content_type="x", bodies=[b""], clients=1, seconds=1, tolerance=0,
    ...             versions={"a": "f"}, expected={"f": [(1, [0.25, 0.75])]})
    >>> best = {"label": 1, "probability": 0.75}
    >>> wrong(load, 0, {"version": "a-7", "fingerprint": "f", "predictions": [best | {"top": [best]}]})
    ''
    >>> wrong(load, 0, {"version": "b", "fingerprint": "f", "predictions": [best | {"top": [best]}]})
    'b is not f'
    >>> near = best | {"probability": 0.7500001}
    >>> wrong(load, 0, {"version": "a-7", "fingerprint": "f", "predictions": [best | {"top": [near]}]})
    'a-7, picture 0: 0.7500001, in process 0.75'
    """
    version, fingerprint, (found,) = reply["version"], reply["fingerprint"], reply["predictions"]
    if load.versions.get(version.partition("-")[0]) != fingerprint:
        return f"{version} is not {fingerprint[:12]}"
    label, shares = load.expected[fingerprint][index]
    if found["label"] != label and (
        min(label, found["label"]) < 0 or shares[found["label"]] < max(shares) - load.tolerance
    ):
        return f"{version}, picture {index}: label {found['label']}, in process {label}"
    for one in found["top"]:
        if abs(one["probability"] - shares[one["label"]]) > load.tolerance:
            return f"{version}, picture {index}: {one['probability']!r}, in process {shares[one['label']]!r}"
    return ""


async def ask(load: Load, number: int, outcome: Outcome, ends: float) -> None:
    """One client, until `ends`."""
    turn, connection = number, None
    while (began := time.perf_counter()) < ends:
        turn += 1
        index = turn % len(load.bodies)
        try:
            async with asyncio.timeout(60):
                connection = connection or await asyncio.open_connection("127.0.0.1", load.port)
                status, content = await _sent(connection, load, load.bodies[index])
            seconds = time.perf_counter() - began
            if status != 200:
                raise ValueError(f"{status}: {content[:200]!r}")
            reply = json.loads(content)
            fault, version = wrong(load, index, reply), reply["version"]
        except (OSError, EOFError, ValueError, LookupError) as error:  # a TimeoutError is an OSError
            if connection:
                connection[1].close()
            connection = None
            outcome.failed += 1
            outcome.said = [*outcome.said, f"{type(error).__name__}: {error}"][:10]
            await asyncio.sleep(0.05)
            continue
        if fault:
            outcome.different += 1
            outcome.said = [*outcome.said, fault][:10]
        else:
            outcome.seconds.append(seconds)
            outcome.by_version[version.partition("-")[0]] += 1
    if connection:
        connection[1].close()


async def _sent(
    connection: tuple[asyncio.StreamReader, asyncio.StreamWriter], load: Load, body: bytes
) -> tuple[int, bytes]:
    """Posts a body; returns the status and the content of the response. By hand: clients share the server's cores."""
    reader, writer = connection
    head = f"POST {load.path} HTTP/1.1\r\nHost: 127.0.0.1:{load.port}\r\nContent-Type: {load.content_type}\r\n"
    writer.write(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body)
    first, *lines = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
    fields = dict(line.lower().split(": ", 1) for line in lines if line)
    status, content = int(first.split()[1]), b""
    if fields.get("transfer-encoding") != "chunked":
        return status, await reader.readexactly(int(fields["content-length"]))
    while size := int(await reader.readline(), 16):
        content += (await reader.readexactly(size + 2))[:-2]
    await reader.readline()
    return status, content


def start(load: Load) -> "subprocess.Popen[bytes]":
    """Begins to ask; `finish` waits for what came of it."""
    process = subprocess.Popen([sys.executable, "-m", "benchmarks.load"], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert process.stdin is not None
    process.stdin.write(pickle.dumps(load))
    process.stdin.flush()
    return process


def finish(process: "subprocess.Popen[bytes]") -> Outcome:
    said, _ = process.communicate()
    if process.returncode:
        raise RuntimeError("the clients ended with an error, which stands above")
    found = json.loads(said)
    return Outcome(**found | {"by_version": Counter(found["by_version"])})


async def asked(load: Load, seconds: float, outcome: Outcome) -> None:
    """Adds to `outcome` what all clients get."""
    began = time.perf_counter()
    await asyncio.gather(*(ask(load, number, outcome, began + seconds) for number in range(load.clients)))
    outcome.window = time.perf_counter() - began


def main() -> None:
    from benchmarks.load import Load, Outcome  # of the module, not of __main__

    load: Load = pickle.load(sys.stdin.buffer)
    outcome = Outcome()
    asyncio.run(
        asked(load, min(1.0, load.seconds), outcome)
    )  # warms up: these answers are to be right too, but are not timed
    outcome.seconds, outcome.by_version = [], Counter()
    asyncio.run(asked(load, load.seconds, outcome))
    print(json.dumps(vars(outcome)))


if __name__ == "__main__":
    main()
