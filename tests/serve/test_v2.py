"""The Open Inference Protocol: tensors as JSON and as bytes, and what its clients ask."""

import json
import struct
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from starlette.testclient import TestClient
from torch import Tensor

from loradar.serve.models import Served
from loradar.serve.service import Service
from loradar.serve.tensors import HEADER
from tests.serve.conftest import running
from tests.serve.test_models import TOLERANCE


@pytest.fixture(scope="module")
def service(places: dict[str, Path]) -> Iterator[Service]:
    with running(places, ("guard", "base"), repository=places["adapter"].parent, max_images=4) as service:
        yield service


def one_input(x: Tensor, datatype: str = "FP32", **more: Any) -> dict[str, Any]:
    values = (x * 255).round().int() if datatype == "UINT8" else x
    return {
        "inputs": [{"name": "images", "datatype": datatype, "shape": list(x.shape), "data": values.tolist()}]
    } | more


def outputs(reply: dict[str, Any], rest: bytes = b"") -> dict[str, Any]:
    """Arrays and lists by name, from JSON or from bytes."""
    found: dict[str, Any] = {}
    for output in reply["outputs"]:
        if "data" in output:
            found[output["name"]] = np.array(output["data"]).reshape(output["shape"])
            continue
        size = output["parameters"]["binary_data_size"]
        data, rest = rest[:size], rest[size:]
        if output["datatype"] == "BYTES":
            texts = []
            while data:
                (length,) = struct.unpack("<I", data[:4])
                texts.append(data[4 : 4 + length].decode())
                data = data[4 + length :]
            found[output["name"]] = np.array(texts).reshape(output["shape"])
        else:
            dtype = {"FP32": "<f4", "INT64": "<i8"}[output["datatype"]]
            found[output["name"]] = np.frombuffer(data, dtype).reshape(output["shape"])
    assert rest == b""
    return found


def check(found: dict[str, Any], served: Served, x: Tensor) -> None:
    answers = served.answer(x)
    expected = torch.stack([answer.probabilities for answer in answers]).numpy()
    assert np.allclose(found["probabilities"], expected, rtol=0, atol=TOLERANCE)
    assert found["label"].tolist() == [answer.label for answer in answers]
    assert found["class"].tolist() == [served.classes[answer.label] for answer in answers]
    assert ("suspected" in found) == (served.kind == "guard")
    if served.kind == "guard":
        assert found["suspected"].tolist() == [answer.suspected[0] for answer in answers if answer.suspected]
        assert found["suspected_probability"].shape == (len(x),)


@pytest.mark.parametrize("kind", ["guard", "base"])
@pytest.mark.parametrize("datatype", ["FP32", "UINT8"])
def test_tensors_as_json(
    kind: str, datatype: str, client: TestClient, served: dict[str, Served], images: Tensor
) -> None:
    for x in (images[:3], images[8:9]):
        reply = client.post(f"/v2/models/{kind}/infer", json=one_input(x, datatype, id="7"))
        assert reply.status_code == 200
        assert {key: reply.json()[key] for key in ("model_name", "model_version", "id")} == {
            "model_name": kind,
            "model_version": "v1",
            "id": "7",
        }
        assert reply.json()["parameters"] == {"fingerprint": served[kind].fingerprint}
        check(outputs(reply.json()), served[kind], x)


@pytest.mark.parametrize("datatype", ["FP32", "UINT8"])
def test_tensors_as_bytes(datatype: str, client: TestClient, served: dict[str, Served], images: Tensor) -> None:
    x = images[:2]
    values = (x * 255).round().byte() if datatype == "UINT8" else x
    content = one_input(x, datatype, parameters={"binary_data_output": True})
    del content["inputs"][0]["data"]
    data = values.numpy().tobytes()
    content["inputs"][0]["parameters"] = {"binary_data_size": len(data)}
    head = json.dumps(content).encode()
    reply = client.post("/v2/models/guard/versions/v1/infer", content=head + data, headers={HEADER: str(len(head))})
    assert reply.status_code == 200
    size = int(reply.headers[HEADER])
    check(outputs(json.loads(reply.content[:size]), reply.content[size:]), served["guard"], x)


def test_outputs_are_those_that_are_asked_for(client: TestClient, images: Tensor) -> None:
    asked = [{"name": "label"}, {"name": "class", "parameters": {"binary_data": True}}]
    reply = client.post("/v2/models/base/infer", json=one_input(images[:2], outputs=asked))
    size = int(reply.headers[HEADER])
    assert set(outputs(json.loads(reply.content[:size]), reply.content[size:])) == {"label", "class"}


def test_metadata_and_the_repository(client: TestClient) -> None:
    assert client.get("/v2").json()["name"] == "loradar"
    assert client.get("/v2/health/live").status_code == client.get("/v2/health/ready").status_code == 200
    about = client.get("/v2/models/guard").json()
    assert about == client.get("/v2/models/guard/versions/v1").json()
    assert (about["platform"], about["versions"]) == ("loradar_guard", ["v1"])
    assert about["inputs"] == [{"name": "images", "datatype": "FP32", "shape": [-1, 3, 32, 32]}]
    assert about["outputs"][0] == {"name": "probabilities", "datatype": "FP32", "shape": [-1, 10]}
    assert client.get("/v2/models/guard/ready").status_code == 200
    assert client.get("/v2/models/guard/versions/v2/ready").status_code == 404
    ready = {"state": "READY", "reason": ""}
    index = [{"name": "guard", "version": "v1"} | ready, {"name": "base", "version": "v1"} | ready]
    assert client.post("/v2/repository/index").json() == index
    assert client.post("/v2/repository/models/other/load").status_code == 200
    assert client.post("/v2/repository/models/other/load").status_code == 200
    assert client.get("/v1/models/other").json()["active"] == "v2"
    assert client.post("/v2/repository/models/other/unload").status_code == 200
    assert client.get("/v2/models/other/ready").status_code == 404
    assert client.post("/v2/repository/models/none/load").status_code == 404
    assert client.post("/v2/repository/index").json() == index


Change = Callable[[dict[str, Any]], object]
BAD: dict[str, Change] = {
    "no input": lambda c: c.pop("inputs"),
    "two inputs": lambda c: c["inputs"].append(c["inputs"][0]),
    "an input that is none": lambda c: c.update(inputs=["x"]),
    "another datatype": lambda c: c["inputs"][0].update(datatype="FP64"),
    "a datatype that is none": lambda c: c["inputs"][0].update(datatype=["FP32"]),
    "another size": lambda c: c["inputs"][0].update(shape=[1, 3, 64, 64]),
    "no shape": lambda c: c["inputs"][0].pop("shape"),
    "an empty shape": lambda c: c["inputs"][0].update(shape=[]),
    "too many images": lambda c: c["inputs"][0].update(shape=[5, 3, 32, 32]),
    "no images": lambda c: c["inputs"][0].update(shape=[0, 3, 32, 32], data=[]),
    "a truth for a number": lambda c: c["inputs"][0].update(shape=[True, 3, 32, 32]),
    "a number too few": lambda c: c["inputs"][0].update(data=[0.5] * 3071),
    "ragged data": lambda c: c["inputs"][0].update(data=[[0.5], [0.5, 0.5]]),
    "texts": lambda c: c["inputs"][0].update(data=["0.5"] * 3072),
    "no data": lambda c: c["inputs"][0].pop("data"),
    "bytes that are not there": lambda c: c["inputs"][0].update(parameters={"binary_data_size": 12288}),
    "bytes of a text": lambda c: c["inputs"][0].update(parameters={"binary_data_size": "12288"}),
    "half a byte": lambda c: c["inputs"][0].update(datatype="UINT8"),
    "another output": lambda c: c.update(outputs=[{"name": "logits"}]),
    "an output that is none": lambda c: c.update(outputs="label"),
    "a number that is none": lambda c: c["inputs"][0].update(data=[float("nan")] * 3072),
    "a number above 1": lambda c: c["inputs"][0].update(data=[255.0] * 3072),
}


@pytest.mark.parametrize("case", BAD)
def test_a_bad_request_is_one_line(case: str, client: TestClient) -> None:
    content = one_input(torch.full((1, 3, 32, 32), 0.5))
    BAD[case](content)
    reply = client.post("/v2/models/base/infer", content=json.dumps(content))
    assert reply.status_code in (400, 422), reply.text
    assert reply.json().keys() == {"error"}
    assert "\n" not in reply.json()["error"]


@pytest.mark.parametrize(
    ("body", "header"),
    [
        (b"", None),
        (b"[]", None),
        (b"{", None),
        (b"[" * 10_000, None),
        (b"{}", "3"),
        (b"{}", "-1"),
        (b"{}", "x"),
        (b"\xff", None),
    ],
)
def test_a_body_that_is_no_request(body: bytes, header: str | None, client: TestClient) -> None:
    headers = {} if header is None else {HEADER: header}
    reply = client.post("/v2/models/base/infer", content=body, headers=headers)
    assert (reply.status_code, list(reply.json())) == (400, ["error"])


def test_what_is_compressed_is_not_opened(client: TestClient) -> None:
    reply = client.post("/v2/models/base/infer", content=b"x", headers={"Content-Encoding": "gzip"})
    assert reply.status_code == 415
