"""The routes, on real models: answers are the library's, versions are swapped, and mistakes are one line."""

import io
import json
import shutil
import threading
import time
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from starlette.testclient import TestClient
from torch import Tensor

from loradar.data import read_images
from loradar.serve.app import create_app
from loradar.serve.auth import Keys
from loradar.serve.config import ServeConfig
from loradar.serve.models import Served
from loradar.serve.service import Service, open_service
from tests.serve.conftest import KINDS, running
from tests.serve.test_models import TOLERANCE

PNG = {"Content-Type": "image/png"}


@pytest.fixture(scope="module")
def repository(places: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("repository")
    shutil.copytree(places["other"], folder / "other")
    (folder / "empty").mkdir()
    (folder / "out").symlink_to(places["adapter"])
    shutil.copytree(places["other"], folder / "within")
    (folder / "within" / "README.md").unlink()
    (folder / "within" / "README.md").symlink_to(places["other"] / "README.md")
    return folder


@pytest.fixture(scope="module")
def service(places: dict[str, Path], repository: Path) -> Iterator[Service]:
    with running(
        places, KINDS, repository=repository, max_pixels=10_000, max_images=8, max_body_bytes=100_000
    ) as service:
        yield service


def png(image: Tensor | tuple[int, int], kind: str = "PNG") -> bytes:
    file = io.BytesIO()
    if isinstance(image, Tensor):
        picture = Image.fromarray((image * 255).round().byte().permute(1, 2, 0).numpy())
    else:
        picture = Image.new("RGB", image)
    picture.save(file, kind)
    return file.getvalue()


def test_health_and_models(client: TestClient, served: dict[str, Served]) -> None:
    assert client.get("/healthz").json() == {"status": "live"}
    assert client.get("/readyz").json() == {"status": "ready"}
    models = client.get("/v1/models").json()["models"]
    assert [model["name"] for model in models] == list(KINDS)
    for model in models:
        one = served[model["name"]]
        assert model == client.get(f"/v1/models/{model['name']}").json()
        version = {"version": "v1", "fingerprint": one.fingerprint, "state": "loaded", "loaded": True}
        assert model == {
            "name": one.name,
            "kind": one.kind,
            "active": "v1",
            "versions": [version],
            "weights": {},
            "classes": list(one.classes),
            "input_size": [3, 32, 32],
        }


@pytest.mark.parametrize("kind", KINDS)
def test_a_picture_s_answer_is_the_library_s_to_the_bit(
    kind: str, client: TestClient, served: dict[str, Served], pictures: list[Path]
) -> None:
    for path in pictures[::3]:
        voters = "true" if kind == "guard" else "false"
        reply = client.post(f"/v1/models/{kind}/predict?top=3&voters={voters}", content=path.read_bytes(), headers=PNG)
        assert reply.status_code == 200
        found = reply.json()
        (expected,) = served[kind].answer(read_images([path], size=(32, 32)))
        assert (found["model"], found["version"], found["fingerprint"]) == (kind, "v1", served[kind].fingerprint)
        (one,) = found["predictions"]
        best, labels = expected.probabilities.topk(3)
        assert one["label"] == expected.label
        assert one["class"] == served[kind].classes[expected.label]
        assert one["probability"] == float(best[0])
        assert one["top"] == [
            {"class": served[kind].classes[label], "label": label, "probability": value}
            for label, value in zip(labels.tolist(), best.tolist(), strict=True)
        ]
        assert one["measures"] == list(expected.measures)
        if kind == "guard":
            assert expected.suspected is not None
            assert expected.voters is not None
            assert one["suspected"] == {"attack": expected.suspected[0], "probability": expected.suspected[1]}
            assert one["voters"] == {
                name: None if vote is None else {"class": vote[0], "probability": vote[1]}
                for name, vote in expected.voters.items()
            }
            assert one["level"] == "calm"
        else:
            assert one["suspected"] is None
            assert not {"voters", "level"} & set(one)


def test_several_pictures_are_answered_in_order(
    client: TestClient, served: dict[str, Served], pictures: list[Path], images: Tensor
) -> None:
    files = [("image", (path.name, path.read_bytes(), "image/png")) for path in pictures[:8]]
    found = client.post("/v1/models/task/predict", files=files).json()["predictions"]
    expected = served["task"].answer(images[:8])
    assert [one["label"] for one in found] == [answer.label for answer in expected]
    for one, answer in zip(found, expected, strict=True):
        assert one["probability"] == pytest.approx(float(answer.probabilities.max()), abs=TOLERANCE)
        assert len(one["top"]) == 1


@pytest.mark.parametrize("kind", ["JPEG", "WEBP", "BMP", "GIF"])
def test_any_usual_format_and_size(kind: str, client: TestClient) -> None:
    body = png((70, 50), kind)
    assert client.post("/v1/models/base/predict", content=body, headers={"Content-Type": "image/x"}).status_code == 200
    octets = {"Content-Type": "application/octet-stream"}
    assert client.post("/v1/models/base/predict", content=body, headers=octets).status_code == 200


def test_versions_are_loaded_swapped_and_pinned(client: TestClient, served: dict[str, Served], images: Tensor) -> None:
    at, other = "/v1/models/adapter", served["other"].fingerprint
    body = png(images[0])

    def version(address: str = at, **headers: str) -> Any:
        reply = client.post(f"{address}/predict", content=body, headers=PNG | headers).json()
        return reply["version"], reply["fingerprint"] == other

    reply = client.post(f"{at}/versions", json={"path": "other"})
    assert (reply.status_code, reply.json()) == (202, {"model": "adapter", "version": "v2", "state": "loading"})
    wait_for(client, "v2", "loaded")
    assert version() == ("v1", False)
    assert version(f"{at}@v2") == version(**{"X-Loradar-Version": "v2"}) == ("v2", True)
    assert client.post(f"{at}/activate", json={"version": "v2"}).json()["active"] == "v2"
    assert version() == ("v2", True)
    assert client.put(f"{at}/weights", json={"v1": 1.0}).json()["weights"] == {"v1": 1.0}
    assert version() == ("v1", False)
    assert client.put(f"{at}/weights", json={}).json()["weights"] == {}
    assert client.post(f"{at}/rollback").json()["active"] == "v1"
    assert client.delete(f"{at}/versions/v2").status_code == 200
    assert client.post(f"{at}@v2/predict", content=body, headers=PNG).status_code == 404
    assert client.post(f"{at}/versions", json={"path": "empty", "version": "v3"}).status_code == 202
    wait_for(client, "v3", "failed")
    assert client.delete(f"{at}/versions/v3").status_code == 200


def wait_for(client: TestClient, version: str, state: str) -> None:
    ends = time.monotonic() + 20
    while time.monotonic() < ends:
        versions = client.get("/v1/models/adapter").json()["versions"]
        found = next(one for one in versions if one["version"] == version)
        if found["state"] == state:
            return
        assert found["state"] == "loading"
        time.sleep(0.02)
    raise AssertionError(f"{version} is not {state}")


def bomb() -> bytes:
    """A PNG of a few hundred kilobytes at most whose header says 30000 x 30000 pixels."""
    head = (30_000).to_bytes(4, "big") * 2 + b"\x08\x02\x00\x00\x00"

    def chunk(kind: bytes, data: bytes) -> bytes:
        return len(data).to_bytes(4, "big") + kind + data + zlib.crc32(kind + data).to_bytes(4, "big")

    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(bytes(9_000))) + chunk(b"IEND", b"")
    )


POST = "/v1/models/adapter"
REFUSED: dict[str, tuple[str, str, dict[str, Any], int, str]] = {
    "no such model": ("POST", "/v1/models/none/predict", {"content": b"x", "headers": PNG}, 404, "no model 'none'"),
    "no such version": ("POST", f"{POST}@v9/predict", {"content": b"x", "headers": PNG}, 404, "no version 'v9'"),
    "two versions": ("POST", f"{POST}@v1/predict", {"headers": PNG | {"X-Loradar-Version": "v2"}}, 400, "two versions"),
    "no image": ("POST", f"{POST}/predict", {"headers": PNG}, 422, "empty"),
    "text": (
        "POST",
        f"{POST}/predict",
        {"content": b"x", "headers": {"Content-Type": "text/plain"}},
        415,
        "content type",
    ),
    "what is no picture": ("POST", f"{POST}/predict", {"content": b"x" * 99, "headers": PNG}, 415, "is no picture"),
    "a pickle": ("POST", f"{POST}/predict", {"content": b"\x80\x04N.", "headers": PNG}, 415, "is no picture"),
    "an EPS": ("POST", f"{POST}/predict", {"content": b"%!PS-Adobe-3.0 EPSF-3.0\n", "headers": PNG}, 415, "no picture"),
    "an icon": ("POST", f"{POST}/predict", {"content": png((32, 32), "ICO"), "headers": PNG}, 415, "is no picture"),
    "a TIFF": ("POST", f"{POST}/predict", {"content": png((32, 32), "TIFF"), "headers": PNG}, 415, "is no picture"),
    "half a picture": (
        "POST",
        f"{POST}/predict",
        {"content": png(torch.rand(3, 32, 32))[:-400], "headers": PNG},
        422,
        "cannot be read",
    ),
    "a bomb": ("POST", f"{POST}/predict", {"content": bomb(), "headers": PNG}, 413, "more than 10000"),
    "too many pixels": ("POST", f"{POST}/predict", {"content": png((101, 100)), "headers": PNG}, 413, "101x100"),
    "too many bytes": ("POST", f"{POST}/predict", {"content": bytes(100_001), "headers": PNG}, 413, "longer than"),
    "too many images": (
        "POST",
        f"{POST}/predict",
        {"files": [("image", ("x.png", png((8, 8)), "image/png"))] * 9},
        400,
        "Too many files",
    ),
    "a part of another name": (
        "POST",
        f"{POST}/predict",
        {"files": [("photo", ("x.png", png((8, 8)), "image/png"))]},
        422,
        "other parts",
    ),
    "a form that is none": (
        "POST",
        f"{POST}/predict",
        {"content": b"--nothing", "headers": {"Content-Type": "multipart/form-data; boundary=x"}},
        400,
        "",
    ),
    "top of 0": ("POST", f"{POST}/predict?top=0", {"content": b"x", "headers": PNG}, 422, "top"),
    "voters of an adapter": (
        "POST",
        f"{POST}/predict?voters=true",
        {"content": b"x", "headers": PNG},
        422,
        "adapter@v1 is an adapter, and a guard alone has voters",
    ),
    "a parameter that is none": (
        "POST",
        f"{POST}/predict?tops=3",
        {"content": b"x", "headers": PNG},
        422,
        "no parameter 'tops'; did you mean 'top'?",
    ),
    "a parameter where none is": (
        "POST",
        f"{POST}/inspect?top=3",
        {"content": b"x", "headers": PNG},
        422,
        "no parameter 'top'; this address takes none",
    ),
    "a folder above": ("POST", f"{POST}/versions", {"json": {"path": "../x"}}, 404, "no folder"),
    "an absolute path": ("POST", f"{POST}/versions", {"json": {"path": "/etc"}}, 404, "no folder"),
    "a link out": ("POST", f"{POST}/versions", {"json": {"path": "out"}}, 404, "no folder"),
    "a folder with a link out": ("POST", f"{POST}/versions", {"json": {"path": "within"}}, 404, "no folder"),
    "the repository itself": ("POST", f"{POST}/versions", {"json": {"path": "."}}, 404, "no folder"),
    "a path that is none": ("POST", f"{POST}/versions", {"json": {"path": "a\0b"}}, 404, "no folder"),
    "a base of the hub": ("POST", f"{POST}/versions", {"json": {"path": "hub:a/b"}}, 404, "no folder"),
    "a version's name": (
        "POST",
        f"{POST}/versions",
        {"json": {"path": "other", "version": "../v"}},
        422,
        "a version is called",
    ),
    "a model's name": ("POST", "/v1/models/a%20b/versions", {"json": {"path": "other"}}, 422, "a model is called"),
    "no path": ("POST", f"{POST}/versions", {"json": {}}, 422, "path: "),
    "more than a path": ("POST", f"{POST}/versions", {"json": {"path": "other", "x": 1}}, 422, "x: "),
    "JSON that is none": (
        "POST",
        f"{POST}/activate",
        {"content": b"{", "headers": {"Content-Type": "application/json"}},
        422,
        "JSON",
    ),
    "no JSON": ("POST", f"{POST}/activate", {"content": b'{"version":"v1"}', "headers": {}}, 422, ""),
    "shares of 2": ("PUT", f"{POST}/weights", {"json": {"v1": 2}}, 422, "sum to 1"),
    "a share that is no number": (
        "PUT",
        f"{POST}/weights",
        {"content": b'{"v1": NaN}', "headers": {"Content-Type": "application/json"}},
        422,
        "",
    ),
    "the active version": ("DELETE", f"{POST}/versions/v1", {}, 409, "in use"),
    "nothing before": ("POST", "/v1/models/task/rollback", {}, 409, "active before"),
    "no address": ("GET", "/none", {}, 404, "Not Found"),
    "another method": ("PATCH", f"{POST}/weights", {}, 405, "Method Not Allowed"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_a_mistake_is_one_line(case: str, client: TestClient, repository: Path) -> None:
    method, address, request, status, says = REFUSED[case]
    reply = client.request(method, address, **request)
    assert reply.status_code == status, reply.text
    assert reply.json().keys() == {"error"}
    line = reply.json()["error"]
    assert says in line
    assert "\n" not in line
    assert not any(word in line for word in ("Traceback", str(repository), "/tmp", ".py", "0x7"))


def test_a_fault_of_the_server_says_nothing_of_it(
    client: TestClient, monkeypatch: pytest.MonkeyPatch, images: Tensor
) -> None:
    def broken(*_: object) -> None:
        raise OSError("/secret/place")

    monkeypatch.setattr(Served, "answer", broken)
    reply = client.post("/v1/models/base/predict", content=png(images[0]), headers=PNG)
    assert (reply.status_code, reply.json()) == (500, {"error": "the server failed at this; its log says why"})


def test_a_full_queue_and_a_late_answer(service: Service, client: TestClient, images: Tensor) -> None:
    """The engine is held; one request waits, further ones are told to come again."""
    held, begun = threading.Event(), threading.Event()

    def hold(x: Tensor) -> Any:
        begun.set()
        held.wait(20)
        return [None] * len(x)

    service.engine.submit(hold, [images[0]], timeout=20)
    assert begun.wait(5)
    service.engine.submit(hold, [images[0]] * service.engine.queue, timeout=20)
    try:
        reply = client.post("/v1/models/base/predict", content=png(images[0]), headers=PNG)
        assert (reply.status_code, reply.headers["retry-after"]) == (429, "1")
    finally:
        held.set()
    assert client.post("/v1/models/base/predict", content=png(images[0]), headers=PNG).status_code == 200


def test_a_request_that_takes_too_long_is_ended(places: dict[str, Path], images: Tensor) -> None:
    service = open_service(ServeConfig(models=[str(places["base"])], timeout=0.2, device="cpu"))
    held = threading.Event()

    def hold(x: Tensor) -> Any:
        held.wait(20)
        return [None] * len(x)

    service.engine.submit(hold, [images[0]], timeout=20)
    client = TestClient(create_app(service, Keys(roles={})), base_url="http://localhost")
    reply = client.post("/v1/models/base/predict", content=png(images[0]), headers=PNG)
    assert (reply.status_code, reply.headers["retry-after"]) == (504, "1")
    held.set()
    service.draining = True
    reply = client.post("/v1/models/base/predict", content=png(images[0]), headers=PNG)
    assert (reply.status_code, reply.headers["retry-after"]) == (503, "5")
    assert client.get("/readyz").status_code == 503
    assert client.get("/healthz").status_code == 200
    service.close()


def test_more_bytes_than_said_are_not_read(client: TestClient) -> None:
    def endless() -> Iterator[bytes]:
        for _ in range(200):
            yield bytes(1000)

    reply = client.post("/v1/models/base/predict", content=endless(), headers=PNG)
    assert (reply.status_code, reply.headers["connection"]) == (413, "close")
    assert json.loads(reply.text).keys() == {"error"}
