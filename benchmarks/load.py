"""Clients that ask a server again and again, and check what it answers, in a process that imports no torch.

`benchmarks.serving` starts `python -m benchmarks.load`, writes a pickled `Load` to it and reads an `Outcome` as JSON.
"""

import json
import pickle
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from http.client import HTTPConnection, HTTPException
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


def ask(load: Load, number: int, outcome: Outcome, lock: threading.Lock, ends: float) -> None:
    """One client, until `ends`."""
    connection = HTTPConnection("127.0.0.1", load.port, timeout=60)
    turn, headers = number, {"Content-Type": load.content_type}
    while (began := time.perf_counter()) < ends:
        turn += 1
        index = turn % len(load.bodies)
        said, fault, version = "", "", ""
        try:
            connection.request("POST", load.path, load.bodies[index], headers)
            response = connection.getresponse()
            content, status = response.read(), response.status
            seconds = time.perf_counter() - began
            if status == 200:
                reply = json.loads(content)
                fault, version = wrong(load, index, reply), reply["version"]
            else:
                said = f"{status}: {content[:200]!r}"
        except (OSError, HTTPException, ValueError, LookupError) as error:
            connection.close()
            said = f"{type(error).__name__}: {error}"
        with lock:
            outcome.failed += bool(said)
            outcome.different += bool(fault)
            if said or fault:
                outcome.said = [*outcome.said, said or fault][:10]
            else:
                outcome.seconds.append(seconds)
                outcome.by_version[version.partition("-")[0]] += 1
        if said:
            time.sleep(0.05)
    connection.close()


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


def asked(load: Load, seconds: float, outcome: Outcome) -> None:
    """Adds to `outcome` what all clients get."""
    lock, began = threading.Lock(), time.perf_counter()
    clients = [
        threading.Thread(target=ask, args=(load, number, outcome, lock, began + seconds))
        for number in range(load.clients)
    ]
    for client in clients:
        client.start()
    for client in clients:
        client.join()
    outcome.window = time.perf_counter() - began


def main() -> None:
    from benchmarks.load import Load, Outcome  # of the module, not of __main__

    load: Load = pickle.load(sys.stdin.buffer)
    outcome = Outcome()
    asked(load, min(1.0, load.seconds), outcome)  # warms up: these answers are to be right too, but are not timed
    outcome.seconds, outcome.by_version = [], Counter()
    asked(load, load.seconds, outcome)
    print(json.dumps(vars(outcome)))


if __name__ == "__main__":
    main()
