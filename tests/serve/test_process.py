"""`loradar serve` as a process: it starts, answers a real client, and stops on a signal without losing what it took."""

import contextlib
import os
import re
import signal
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
import torch
from torch import Tensor

import loradar.serve
from loradar.cli import main
from loradar.serve.models import Served
from tests.serve.processes import ADMIN, KEY, Server, Starter
from tests.serve.test_models import TOLERANCE


@pytest.fixture(scope="module")
def server(starter: Starter, places: dict[str, Path]) -> Iterator[Server]:
    one = starter.start(f"adapter@a={places['adapter']}", "--base", places["base"], "--port", 0, "--device", "cpu")
    yield one
    one.kill()


def test_it_says_what_it_serves_and_no_key(server: Server) -> None:
    first, last = server.said.splitlines()
    assert re.fullmatch(
        r"adapter@a: adapter, 10 classes, images of 3x32x32, [\d.]+ MB, fingerprint [0-9a-f]{12}, active", first
    )
    assert last.endswith("(2 keys); stop with Ctrl-C")
    assert KEY not in server.said
    assert ADMIN not in server.said


def test_it_answers_those_with_a_key(server: Server, pictures: list[Path]) -> None:
    reply = server.ask(pictures[0].read_bytes())
    assert (reply.status_code, reply.json()["version"]) == (200, "a")
    assert server.ask(pictures[0].read_bytes(), key="0123456789abcdef").status_code == 401
    assert "server" not in reply.headers


@pytest.mark.parametrize("binary", [True, False])
def test_a_client_of_the_protocol_that_others_wrote_gets_the_same_answers(
    binary: bool, server: Server, served: dict[str, Served], images: Tensor
) -> None:
    http = pytest.importorskip("tritonclient.http", reason="tritonclient is not installed (extra: peers)")
    headers, x = {"Authorization": f"Bearer {KEY}"}, images[:4]
    with http.InferenceServerClient(f"127.0.0.1:{server.port}") as client:
        assert client.is_server_ready()
        assert client.get_model_metadata("adapter", headers=headers)["outputs"][0]["name"] == "probabilities"
        asked = http.InferInput("images", list(x.shape), "FP32").set_data_from_numpy(x.numpy(), binary_data=binary)
        outputs = [http.InferRequestedOutput(name, binary_data=binary) for name in ("probabilities", "label", "class")]
        reply = client.infer("adapter", [asked], outputs=outputs, headers=headers)
        with pytest.raises(http.InferenceServerException, match="key"):
            client.infer("adapter", [asked])
    answers, model = served["adapter"].answer(x), served["adapter"]
    expected = torch.stack([answer.probabilities for answer in answers])
    assert torch.allclose(torch.tensor(reply.as_numpy("probabilities")), expected, rtol=0, atol=TOLERANCE)
    assert reply.as_numpy("label").tolist() == [answer.label for answer in answers]
    names = [name.decode() if isinstance(name, bytes) else name for name in reply.as_numpy("class").tolist()]
    assert names == [model.classes[answer.label] for answer in answers]


@pytest.mark.parametrize("head", [b"", b"POST /v1/models/adapter/predict HTTP/1.1\r\nHost: x\r\n"])
def test_a_client_that_sends_no_request_is_left(head: bytes, server: Server) -> None:
    with server.connect() as connection:
        connection.sendall(head)
        assert connection.recv(100) == b""


def test_a_signal_ends_it_once_what_it_took_is_answered(server: Server, pictures: list[Path]) -> None:
    picture = pictures[0].read_bytes()
    head = (
        f"POST /v1/models/adapter/predict HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {KEY}\r\n"
        f"Content-Type: image/png\r\nContent-Length: {len(picture)}\r\n\r\n"
    ).encode()
    with server.connect() as slow, server.connect() as idle:
        slow.sendall(head + picture[:100])
        assert server.ask(picture).status_code == 200  # so the head was read
        replies = list[int]()

        def ask() -> None:
            with contextlib.suppress(httpx.TransportError):  # of those that came too late
                replies.append(server.ask(picture).status_code)

        asking = [threading.Thread(target=ask) for _ in range(4)]
        for thread in asking:
            thread.start()
        os.kill(server.pid, signal.SIGTERM)
        slow.sendall(picture[100:])
        answer = b""
        while part := slow.recv(10_000):
            answer += part
        assert answer.startswith(b"HTTP/1.1 200")
        assert b'"version":"a"' in answer
        assert idle.recv(100) == b""
        for thread in asking:
            thread.join(30)
    assert set(replies) <= {200, 503}
    assert server.wait() == 0
    assert server.printed == "stopped: what was taken is answered\n"
    assert "Traceback" not in server.said
    assert "leaked" not in server.said  # nanobind's word for what outlives the interpreter
    with pytest.raises(OSError, match="refused"):
        server.connect()


def test_what_cannot_be_served_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for args, says in ((["none"], "there is no base"), (["x", "--host", "0.0.0.0"], "there are no keys")):
        monkeypatch.setattr(sys, "argv", ["loradar", "serve", str(tmp_path / args[0]), *args[1:], "--port", "0"])
        with pytest.raises(SystemExit) as stopped:
            main()
        said = capsys.readouterr()
        assert (stopped.value.code, said.out) == (2, "")
        assert says in said.err
        assert said.err.count("\n") == 1


def test_what_replicas_cannot_do_is_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    for args, says in (
        (["--replicas", "2"], 'replicas need the package ray: pip install "loradar[serve-ray]"'),
        (["--replicas", "two"], "replicas is 'two'; expected N or MIN-MAX, for example 2 or 2-8"),
        (["--replicas", "3-2"], "replicas is '3-2'; expected N or MIN-MAX, for example 2 or 2-8"),
        (["--ray", "auto"], "say how many processes are to answer there: --replicas N"),
    ):
        monkeypatch.setattr(sys, "argv", ["loradar", "serve", "x", *args])
        with pytest.raises(SystemExit) as stopped:
            main()
        said = capsys.readouterr()
        assert (stopped.value.code, said.out, said.err.count("\n")) == (2, "", 1)
        assert says in said.err


def test_without_the_extra_it_says_how_to_install_it(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "uvicorn", None)
    monkeypatch.delitem(sys.modules, "loradar.serve.server", raising=False)
    monkeypatch.delattr(loradar.serve, "server", raising=False)
    monkeypatch.setattr(sys, "argv", ["loradar", "serve", "x"])
    with pytest.raises(SystemExit) as stopped:
        main()
    assert stopped.value.code == 2
    assert 'pip install "loradar[serve]"' in capsys.readouterr().err
