"""`loradar serve --replicas`: two processes on Ray answer as one, also while they are replaced, and when one is killed."""

import importlib.util
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest
import torch
from torch import Tensor

from loradar.serve.models import Opening, Served, open_served

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("ray") is None, reason='Ray is not installed: pip install "loradar[serve-ray]"'
)
PNG = {"Content-Type": "image/png"}
SECONDS = 400
"""For replicas to start, on a machine that has other work too."""


@dataclass(kw_only=True)
class Replicas:
    """Two replicas that run until this process is told to stop."""

    process: "subprocess.Popen[bytes]"
    command: Callable[..., list[str]]
    environment: dict[str, str]
    port: int
    address: str = ""

    def update(self, *models: str, opened: Callable[[], object] = lambda: None) -> tuple[int, str]:
        """Runs the command again, against the cluster; `opened` is called once it has opened the models itself."""
        command = [*self.command(*models), "--ray", self.address]
        environment = self.environment | {"RAY_AUTH_MODE": "token"}
        with subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True) as process:
            assert process.stderr is not None
            said = [process.stderr.readline() for _ in models]
            opened()
            return process.wait(SECONDS), "".join([*said, process.stderr.read()])

    def ask(self, picture: bytes, model: str) -> httpx.Response:
        return httpx.post(
            f"http://127.0.0.1:{self.port}/v1/models/{model}/predict?top=10", content=picture, headers=PNG, timeout=90
        )

    def pages(self) -> dict[str, str]:
        """The metrics of each replica, by its name."""
        pages, ends = dict[str, str](), time.monotonic() + 60
        while len(pages) < 2 and time.monotonic() < ends:
            page = httpx.get(f"http://127.0.0.1:{self.port}/metrics").text
            pages[re.findall(r'replica="(\w+)"', page)[0]] = page
        return pages

    def processes(self, kind: str = "") -> list[int]:
        """All processes that were started by the command, those of which the name begins so."""
        mark, found = self.environment["LORADAR_MARK"].encode(), []
        for each in Path("/proc").glob("[0-9]*"):
            try:
                if mark in (each / "environ").read_bytes() and (each / "cmdline").read_text().startswith(kind):
                    found.append(int(each.name))
            except OSError:
                continue
        return found


@dataclass(kw_only=True)
class Asking:
    """Clients that ask one picture after the other until `stop`."""

    replicas: Replicas
    files: Sequence[bytes]
    replies: list[tuple[int, dict[str, Any]]] = field(default_factory=list)
    failed: list[str] = field(default_factory=list)
    stop: threading.Event = field(default_factory=threading.Event)

    def __enter__(self) -> "Asking":
        self.threads = [threading.Thread(target=self._run, args=(number,)) for number in range(3)]
        for thread in self.threads:
            thread.start()
        self.wait(20)
        return self

    def __exit__(self, *error: object) -> None:
        self.stop.set()
        for thread in self.threads:
            thread.join(120)

    def wait(self, answers: int) -> None:
        """Until there are so many more answers."""
        expected, ends = len(self.replies) + answers, time.monotonic() + 120
        while len(self.replies) < expected and time.monotonic() < ends:
            time.sleep(0.05)

    def _run(self, turn: int) -> None:
        url = f"http://127.0.0.1:{self.replicas.port}/v1/models/adapter/predict?top=10"
        with httpx.Client(timeout=90) as client:
            while not self.stop.is_set():
                turn += 1
                time.sleep(0.05)  # so that new replicas have some of the machine too
                index = turn % len(self.files)
                try:
                    reply = client.post(url, content=self.files[index], headers=PNG)
                except httpx.TransportError as error:
                    self.failed.append(type(error).__name__)
                    continue
                if reply.status_code == 200:
                    self.replies.append((index, reply.json()))
                else:
                    self.failed.append(f"{reply.status_code}: {reply.text:.100}")


@pytest.fixture(scope="module")
def replicas(places: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Replicas]:
    work = tmp_path_factory.mktemp("replicas")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]

    def command(*models: str) -> list[str]:
        settings = ["--base", str(places["base"]), "--device", "cpu", "--precision", "fp32", "--window", "40"]
        begin = [sys.executable, "-c", "from loradar.cli import main; main()", "serve", *models]
        return [*begin, *settings, "--replicas", "2", "--port", str(port)]

    mark = f"LORADAR_MARK={work}"
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(sys.path)}
    environment["LORADAR_MARK"] = mark
    log = work / "log"
    with log.open("wb") as said:
        first = command(f"adapter@a={places['adapter']}", f"guard={places['guard']}")
        process = subprocess.Popen(first, stdout=said, stderr=said, env=environment)
    one = Replicas(process=process, command=command, environment=environment, port=port)
    ends = time.monotonic() + SECONDS
    try:
        while not (found := re.search(r"serving at \S+ .* --ray (\S+), stop", log.read_text())):
            assert process.poll() is None, log.read_text()
            assert time.monotonic() < ends, log.read_text()
            time.sleep(0.2)
        one.address = found[1]
        yield one
    finally:
        process.terminate()
        code = process.wait(SECONDS)
        ends = time.monotonic() + 30
        while (left := one.processes()) and time.monotonic() < ends:
            time.sleep(0.2)
        for pid in left:
            os.kill(pid, signal.SIGKILL)
    assert code == 0, log.read_text()
    assert "stopped: what was taken is answered" in log.read_text()
    assert left == []


def wrong(
    replies: Sequence[tuple[int, Mapping[str, Any]]], versions: Mapping[str, Served], images: Tensor
) -> list[str]:
    """Answers that are not what the version that they name answers in process to that picture alone."""
    alone = {key: [served.answer(image[None])[0].probabilities for image in images] for key, served in versions.items()}
    faults = []
    for index, reply in replies:
        own = versions[reply["version"]]
        shares = torch.zeros(10)
        for one in reply["predictions"][0]["top"]:
            shares[one["label"]] = one["probability"]
        if reply["fingerprint"] != own.fingerprint or not torch.allclose(
            shares, alone[reply["version"]][index], atol=1e-5, rtol=0
        ):
            faults.append(json.dumps(reply))
    return faults


@pytest.fixture(scope="module")
def versions(places: dict[str, Path], opening: Opening) -> dict[str, Served]:
    return {
        "a": open_served(str(places["adapter"]), opening, name="adapter", version="a"),
        "b": open_served(str(places["other"]), opening, name="adapter", version="b"),
    }


def test_what_would_change_one_of_them_is_refused(replicas: Replicas) -> None:
    url = f"http://127.0.0.1:{replicas.port}"
    for method, path, body in (
        ("POST", "/v1/models/adapter/versions", {"path": "x"}),
        ("POST", "/v1/models/adapter/activate", {"version": "a"}),
        ("POST", "/v1/models/adapter/rollback", None),
        ("PUT", "/v1/models/adapter/weights", {}),
        ("DELETE", "/v1/models/adapter/versions/a", None),
        ("POST", "/v2/repository/models/adapter/load", None),
        ("POST", "/v2/repository/models/adapter/unload", None),
    ):
        reply = httpx.request(method, url + path, json=body)
        assert (reply.status_code, "run `loradar serve` again" in reply.json()["error"]) == (409, True), path


def test_traffic_of_both_raises_the_level_of_both(replicas: Replicas, pictures: list[Path]) -> None:
    noise = [path.read_bytes() for path in pictures[8:]]
    for turn in range(20):  # the fewest that a level is decided on
        reply = replicas.ask(noise[turn % len(noise)], "guard")
        assert (reply.status_code, reply.json()["predictions"][0]["level"]) == (200, "calm")
    time.sleep(2)
    pages = replicas.pages()
    images = [
        float(n) for page in pages.values() for n in re.findall(r'loradar_images_total{model="guard".*} (\S+)', page)
    ]
    assert (len(pages), sum(images)) == (2, 20), images
    assert max(images) < 20
    for page in pages.values():
        assert re.search(r'^loradar_alarm_level{.*model="guard".*} 1.0$', page, flags=re.MULTILINE)
    for _ in range(8):
        assert replicas.ask(noise[0], "guard").json()["predictions"][0]["level"] == "raised"
    (state,) = httpx.get(f"http://127.0.0.1:{replicas.port}/v1/traffic").json()["traffic"]
    assert (state["level"], state["seen"] >= 20) == ("raised", True)


def test_an_update_under_load_fails_no_request(
    replicas: Replicas, places: dict[str, Path], pictures: list[Path], images: Tensor, versions: dict[str, Served]
) -> None:
    before = set(replicas.processes("ray::ServeReplica"))
    with Asking(replicas=replicas, files=[path.read_bytes() for path in pictures]) as asking:
        code, said = replicas.update(f"adapter@b={places['other']}", f"guard={places['guard']}")
        assert code == 0, said
        updated = len(asking.replies)
        asking.wait(40)
    assert asking.failed == []
    assert wrong(asking.replies, versions, images) == []
    assert Counter(reply["version"] for _, reply in asking.replies).keys() == {"a", "b"}
    assert {reply["version"] for _, reply in asking.replies[updated + 3 :]} == {"b"}
    assert not before & set(replicas.processes("ray::ServeReplica"))
    # the traffic's level outlives the replicas
    assert replicas.ask(pictures[0].read_bytes(), "guard").json()["predictions"][0]["level"] == "raised"


def test_a_version_cannot_become_another_model(
    replicas: Replicas, places: dict[str, Path], pictures: list[Path], versions: dict[str, Served]
) -> None:
    code, said = replicas.update(f"adapter@b={places['adapter']}", f"guard={places['guard']}")
    assert (code, said.splitlines()[-1]) == (
        2,
        "loradar: adapter@b is served already and is another model; give this one another version: NAME@VERSION=PLACE",
    )
    reply = replicas.ask(pictures[0].read_bytes(), "adapter").json()
    assert (reply["version"], reply["fingerprint"]) == ("b", versions["b"].fingerprint)


def test_replicas_that_do_not_start_replace_none(
    replicas: Replicas, places: dict[str, Path], pictures: list[Path], tmp_path: Path
) -> None:
    place = shutil.copytree(places["adapter"], tmp_path / "place")
    before = set(replicas.processes("ray::ServeReplica"))
    version = replicas.ask(pictures[0].read_bytes(), "adapter").json()["version"]

    def swap() -> None:  # as if another machine had another folder there
        shutil.move(place, tmp_path / "away")
        shutil.copytree(places["other"], place)

    code, said = replicas.update(f"adapter@c={place}", f"guard={places['guard']}", opened=swap)
    assert (code, "adapter@c is another model on this machine" in said.splitlines()[-1]) == (2, True), said
    assert "so none was replaced" in said.splitlines()[-1]
    assert before <= set(replicas.processes("ray::ServeReplica"))
    for path in pictures[:6]:
        assert replicas.ask(path.read_bytes(), "adapter").json()["version"] == version


def test_a_replica_that_is_killed_costs_no_wrong_answer(
    replicas: Replicas, pictures: list[Path], images: Tensor, versions: dict[str, Served]
) -> None:
    killed = replicas.processes("ray::ServeReplica")[0]
    with Asking(replicas=replicas, files=[path.read_bytes() for path in pictures]) as asking:
        os.kill(killed, signal.SIGKILL)
        asking.wait(60)
        ends = time.monotonic() + SECONDS
        while len(there := replicas.pages()) < 2 and time.monotonic() < ends:  # until another is there
            time.sleep(1)
        asking.wait(20)
    assert wrong(asking.replies, versions, images) == []
    assert len(asking.failed) <= 3 * 3, asking.failed  # each client loses what it had asked that one, and comes again
    assert killed not in replicas.processes("ray::ServeReplica")
    assert len(there) == 2
