"""The client, on a server that listens; and how often it asks a server that is busy or goes away."""

import contextlib
import http.server
import itertools
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import uvicorn

from loradar.core.errors import BadConfigError, BadFileError, LoradarError
from loradar.data import read_images
from loradar.serve import Client
from loradar.serve.app import create_app
from loradar.serve.auth import read_keys
from loradar.serve.config import ServeConfig
from loradar.serve.errors import Refused
from loradar.serve.models import Served
from loradar.serve.server import bind
from loradar.serve.service import open_service
from tests.serve.test_models import TOLERANCE

ADMIN = "a" * 16


@pytest.fixture(scope="module")
def client(places: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Client]:
    file = tmp_path_factory.mktemp("keys") / "keys"
    file.write_text(f"admin {ADMIN}\n")
    config = ServeConfig(
        models=[f"digits={places['adapter']}"],
        base=str(places["base"]),
        repository=places["other"].parent,
        port=0,
        max_body_bytes=2**20,
        device="cpu",
    )
    service, keys = open_service(config), read_keys(file)
    with bind(config, keys) as bound:
        server = uvicorn.Server(uvicorn.Config(create_app(service, keys), log_config=None, lifespan="off"))
        thread = threading.Thread(target=server.run, args=([bound],))
        thread.start()
        yield Client(f"http://127.0.0.1:{bound.getsockname()[1]}/", key=ADMIN)
        server.should_exit = True
        thread.join()
    service.close()


def test_it_asks_and_swaps(client: Client, pictures: list[Path]) -> None:
    one = client.predict("digits", pictures[0], top=2)
    assert (one["version"], len(one["predictions"][0]["top"])) == ("v1", 2)
    several = client.predict("digits", [pictures[0], str(pictures[1]), pictures[2].read_bytes()])
    assert len(several["predictions"]) == 3
    assert several["predictions"][0]["label"] == one["predictions"][0]["label"]
    loaded = client.load("digits", "other")
    assert (loaded["version"], loaded["state"]) == ("v2", "loaded")
    assert client.predict("digits", pictures[0], version="v2")["fingerprint"] == loaded["fingerprint"]
    assert client.predict("digits@v2", pictures[0])["version"] == "v2"
    assert client.activate("digits", "v2")["active"] == "v2"
    assert client.weigh("digits", {"v1": 0.5, "v2": 0.5})["weights"] == {"v1": 0.5, "v2": 0.5}
    assert client.weigh("digits", {})["weights"] == {}
    assert client.roll_back("digits")["active"] == "v1"
    assert [one["version"] for one in client.unload("digits", "v2")["versions"]] == ["v1"]
    assert [model["name"] for model in client.models()] == ["digits"]


def test_answers_are_of_the_version_that_they_name_while_it_is_swapped(
    client: Client, served: dict[str, Served], pictures: list[Path]
) -> None:
    """By way of HTTP: three clients ask while an admin loads, splits, activates, rolls back and unloads."""
    x = read_images(pictures, size=(32, 32))
    right = {
        served[kind].fingerprint: [float(one.probabilities.max()) for one in served[kind].answer(x)]
        for kind in ("adapter", "other")
    }
    seen, wrong, stop = Counter[str](), list[str](), threading.Event()

    def ask(number: int) -> None:
        for turn in itertools.count(number):
            if stop.is_set():
                return
            picks = [(turn + step) % len(pictures) for step in range(2)]
            reply = client.predict("digits", [pictures[index] for index in picks])
            for index, one in zip(picks, reply["predictions"], strict=True):
                if abs(one["probability"] - right[reply["fingerprint"]][index]) > TOLERANCE:
                    wrong.append(f"{reply['version']}, image {index}")
            seen[reply["fingerprint"]] += 1

    threads = [threading.Thread(target=ask, args=(4 * number,)) for number in range(3)]
    for thread in threads:
        thread.start()
    try:
        for turn in range(3):
            label = client.load("digits", "other", version=f"swap{turn}")["version"]
            client.weigh("digits", {"v1": 0.5, label: 0.5})
            client.activate("digits", label)
            time.sleep(0.2)
            client.roll_back("digits")
            client.unload("digits", label)
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    assert wrong == []
    assert set(seen) == set(right)


def test_what_the_server_says_is_raised(client: Client, pictures: list[Path], tmp_path: Path) -> None:
    with pytest.raises(LoradarError, match="there is no model 'none'") as refused:
        client.predict("none", pictures[0])
    assert isinstance(refused.value, Refused)
    assert refused.value.status == 404
    with pytest.raises(LoradarError, match="no picture"):
        client.predict("digits", b"x")
    for size in (2**20 + 1, 2**25):  # one that is too long is told so also where it was not sent whole yet
        with pytest.raises(LoradarError, match="longer than 1048576 bytes"):
            Client(client._address, key=ADMIN, retries=0).predict("digits", bytes(size))
    with pytest.raises(LoradarError, match="no folder"):
        client.load("digits", "../x")
    with pytest.raises(BadFileError, match="could not read"):
        client.predict("digits", tmp_path / "none.png")
    with pytest.raises(LoradarError, match="a key is needed"):
        Client(client._address).models()
    with pytest.raises(BadConfigError, match="address is"):
        Client("file:///etc/passwd")


class Moody(http.server.BaseHTTPRequestHandler):
    """Answers by a list, and counts."""

    moods: list[int]
    keys: list[str | None]

    def do_GET(self) -> None:
        mood = type(self).moods.pop(0) if type(self).moods else 200
        type(self).keys.append(self.headers["Authorization"])
        if mood == 0:
            self.close_connection = True
            return
        self.send_response(mood)
        if mood == 302:
            self.send_header("Location", "http://127.0.0.1:9/")
        if mood == 429:
            self.send_header("Retry-After", "2")
        self.end_headers()
        self.wfile.write(
            b'{"models": [], "version": "v1"}' if mood == 200 else b'{"error": "no"}' if mood != 500 else b"<p>"
        )

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        self.do_GET()

    def log_message(self, *_: object) -> None: ...


@contextlib.contextmanager
def moody(*moods: int) -> Iterator[tuple[Client, Any]]:
    kind: Any = type("One", (Moody,), {"moods": list(moods), "keys": []})
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), kind)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield Client(f"http://127.0.0.1:{server.server_port}", key="k" * 16, retries=3), kind
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@pytest.fixture
def pauses(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """How long the client would have slept."""
    found: list[float] = []
    monkeypatch.setattr("loradar.serve.client.time.sleep", found.append)
    return found


def test_it_comes_again_while_a_server_is_busy_or_gone(pauses: list[float]) -> None:
    with moody(429, 503, 0) as (client, kind):
        assert client.models() == []
        assert len(kind.keys) == 4
    assert 2 <= pauses[0] <= 2.5  # as the server asked
    assert 0.2 <= pauses[1] <= 0.25
    assert 0.4 <= pauses[2] <= 0.5
    with moody(503, 503, 503, 503, 503) as (client, kind):
        with pytest.raises(LoradarError, match="no"):
            client.models()
        assert len(kind.keys) == 4


def test_what_changes_something_is_not_sent_twice_where_the_answer_was_lost(pauses: list[float]) -> None:
    with moody(0) as (client, kind):
        with pytest.raises(LoradarError, match="no answer from"):
            client.activate("m", "v1")
        assert len(kind.keys) == 1
    with moody(503, 200) as (client, kind):
        client.activate("m", "v1")
        assert len(kind.keys) == 2
    with moody(0) as (client, kind):
        assert client.predict("m", b"x")["version"] == "v1"
        assert len(kind.keys) == 2
    assert len(pauses) == 2


def test_other_errors_are_said_at_once_and_no_redirect_gets_the_key(pauses: list[float]) -> None:
    for mood, says in ((400, "^no$"), (500, "the server answered 500"), (302, "^no$")):
        with moody(mood) as (client, kind):
            with pytest.raises(LoradarError, match=says):
                client.models()
            assert kind.keys == ["Bearer " + "k" * 16]
    assert pauses == []
    began = time.monotonic()
    with pytest.raises(LoradarError, match="no answer from"):
        Client("http://127.0.0.1:9", retries=1).models()
    assert time.monotonic() - began < 5
