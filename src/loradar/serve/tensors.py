"""Tensors of the Open Inference Protocol, version 2: as JSON, or as bytes behind it (the binary tensor extension)."""

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from loradar.core.checks import as_images
from loradar.guard.traffic import NOTHING
from loradar.serve.errors import Refused
from loradar.serve.models import Answer, Served

HEADER = "Inference-Header-Content-Length"
"""The bytes of the JSON, where tensors follow it."""
DATATYPES = {"FP32": "<f4", "UINT8": "u1"}
"""Of images: floats in [0, 1], or bytes."""


def inputs_of(served: Served) -> list[dict[str, Any]]:
    """What a model takes. UINT8 is taken as well."""
    return [{"name": "images", "datatype": "FP32", "shape": [-1, *served.input_size]}]


def outputs_of(served: Served) -> list[dict[str, Any]]:
    """What a model gives."""
    found = [
        {"name": "probabilities", "datatype": "FP32", "shape": [-1, len(served.classes)]},
        {"name": "label", "datatype": "INT64", "shape": [-1]},
        {"name": "class", "datatype": "BYTES", "shape": [-1]},
    ]
    if served.kind == "guard":
        found.append({"name": "suspected", "datatype": "BYTES", "shape": [-1]})
        found.append({"name": "suspected_probability", "datatype": "FP32", "shape": [-1]})
    return found


def read_request(body: bytes, header: str | None) -> tuple[dict[str, Any], bytes]:
    """Splits a body into its JSON object and the bytes behind it. Raises Refused (400)."""
    size = len(body)
    if header is not None:
        if not header.isdecimal() or len(header) > 12 or int(header) > len(body):
            raise Refused(400, f"the header {HEADER} is no length of a part of this request")
        size = int(header)
    try:
        content = json.loads(body[:size])
    except (ValueError, RecursionError) as error:
        raise Refused(400, "the request is not JSON; expected an inference request of version 2") from error
    if not isinstance(content, dict):
        raise Refused(400, "the request is no JSON object; expected an inference request of version 2")
    return content, body[size:]


def read_images(content: Mapping[str, Any], rest: bytes, served: Served, *, most: int) -> list[Tensor]:
    """Returns the images of a request's one input, each (c, h, w) float32 in [0, 1].

    Raises Refused (400) for what is no such tensor, BadImagesError for values outside their contract.
    """
    inputs = content.get("inputs")
    if not isinstance(inputs, list) or len(inputs) != 1 or not isinstance(inputs[0], dict):
        raise Refused(400, "the request has no list of one input; expected one, 'images'")
    one = inputs[0]
    datatype, shape, size = one.get("datatype"), one.get("shape"), list(served.input_size)
    if not isinstance(datatype, str) or datatype not in DATATYPES:
        raise Refused(400, f"the input's datatype is not one of {', '.join(DATATYPES)}")
    if not isinstance(shape, list) or shape[1:] != size or not _is_count(shape[0], most):
        raise Refused(400, f"the input's shape is not [n, {', '.join(map(str, size))}] with n from 1 to {most}")
    values = _values(one, rest, math.prod(shape), datatype).reshape(shape)
    if datatype == "UINT8":
        if not bool(((values >= 0) & (values <= 255) & (values == np.floor(values))).all()):
            raise Refused(400, "the input holds other values than whole numbers from 0 to 255")
        return list(torch.from_numpy(values.astype(np.uint8)).float() / 255)
    return list(as_images(values.astype(np.float32), input_size=served.input_size))


def _is_count(value: object, most: int) -> bool:
    return type(value) is int and 1 <= value <= most


def _values(one: Mapping[str, Any], rest: bytes, count: int, datatype: str) -> NDArray[Any]:
    parameters = one.get("parameters") or {}
    binary = parameters.get("binary_data_size") if isinstance(parameters, dict) else None
    if binary is not None:
        dtype = np.dtype(DATATYPES[datatype])
        if binary != count * dtype.itemsize or len(rest) != binary:
            raise Refused(400, f"the input has {len(rest)} bytes; its shape takes {count * dtype.itemsize}")
        return np.frombuffer(rest, dtype)
    try:
        values = np.asarray(one.get("data"))
    except ValueError as error:
        raise Refused(400, "the input's data are no array of numbers") from error
    if values.dtype.kind not in "iuf" or values.size != count:
        raise Refused(400, f"the input's data are not {count} numbers")
    return values


def write_reply(served: Served, answers: Sequence[Answer], content: Mapping[str, Any]) -> tuple[bytes, dict[str, str]]:
    """Returns the body of a reply and its headers. Outputs are those that `content` asks for, as JSON or as bytes.

    Raises Refused (400) for an output that there is none of.
    """
    arrays = _arrays(served, answers)
    asked = content.get("outputs") or [{"name": name} for name in arrays]
    whole = _flag(content, "binary_data_output")
    outputs, parts = [], list[bytes]()
    for each in asked if isinstance(asked, list) else [None]:
        name = each.get("name") if isinstance(each, dict) else None
        if not isinstance(name, str) or name not in arrays:
            raise Refused(400, f"the request asks for another output than {', '.join(arrays)}")
        datatype, values = arrays[name]
        output: dict[str, Any] = {"name": name, "datatype": datatype, "shape": list(np.shape(values))}
        if _flag(each, "binary_data", whole):
            parts.append(_bytes(datatype, values))
            output["parameters"] = {"binary_data_size": len(parts[-1])}
        else:
            output["data"] = np.ravel(values).tolist()
        outputs.append(output)
    reply = {
        "model_name": served.name,
        "model_version": served.version,
        "parameters": {"fingerprint": served.fingerprint},
        "outputs": outputs,
    }
    if isinstance(content.get("id"), str):
        reply["id"] = content["id"]
    head = json.dumps(reply).encode()
    if not parts:
        return head, {"Content-Type": "application/json"}
    return b"".join([head, *parts]), {"Content-Type": "application/octet-stream", HEADER: str(len(head))}


def _arrays(served: Served, answers: Sequence[Answer]) -> dict[str, tuple[str, Any]]:
    names = [served.classes[answer.label] if answer.label >= 0 else NOTHING for answer in answers]
    arrays: dict[str, tuple[str, Any]] = {
        "probabilities": ("FP32", torch.stack([answer.probabilities for answer in answers]).numpy()),
        "label": ("INT64", np.array([answer.label for answer in answers], np.int64)),
        "class": ("BYTES", names),
    }
    suspected = [answer.suspected for answer in answers if answer.suspected is not None]
    if suspected:
        arrays["suspected"] = ("BYTES", [label for label, _ in suspected])
        arrays["suspected_probability"] = ("FP32", np.array([share for _, share in suspected], np.float32))
    return arrays


def _bytes(datatype: str, values: Any) -> bytes:
    if datatype == "BYTES":
        coded = [text.encode() for text in values]
        return b"".join(len(text).to_bytes(4, "little") + text for text in coded)
    return np.ascontiguousarray(values, "<f4" if datatype == "FP32" else "<i8").tobytes()


def _flag(content: Any, name: str, default: bool = False) -> bool:
    parameters = content.get("parameters")
    value = parameters.get(name, default) if isinstance(parameters, dict) else default
    return value is True
