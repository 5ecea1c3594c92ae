"""The door of a server: whatever is sent, it says one line of JSON, or what the model answers to that picture."""

import json
import logging
import socket
import threading
from collections.abc import Sequence
from functools import cache
from http.client import HTTPException, HTTPResponse
from pathlib import Path
from typing import Any
from urllib.parse import quote

from hypothesis import strategies as st

from loradar.serve.auth import Keys
from loradar.serve.config import ServeConfig
from loradar.serve.errors import Refused
from loradar.serve.models import Served
from loradar.serve.pictures import read_picture
from loradar.serve.server import bind, serve
from loradar.serve.service import open_service
from loradar.serve.tensors import HEADER
from tests.fuzz import folders, images
from tests.fuzz.changes import TEXTS, edited, odd, places
from tests.fuzz.doors import Door, require
from tests.fuzz.texts import EDITS

Given = tuple[str, str, Sequence[tuple[str, str]], bytes, Sequence[tuple[float, int, bytes]]]
"""Method, target, headers, body, and what is changed in the bytes of all of that."""


class _Raised(logging.Handler):
    """Keeps what was logged with a traceback."""

    def __init__(self) -> None:
        super().__init__()
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        if record.exc_info:
            self.lines.append(logging.Formatter().format(record))


@cache
def server() -> tuple[int, Served, _Raised]:
    """A server of one base, whose repository has one of everything: its port, that base, and what it logs of errors."""
    place = folders.valid()
    folders.guard_shares()
    config = ServeConfig(
        models=[f"m={place / 'base'}", f"n={place / 'base'}"],
        repository=place,
        port=0,
        timeout=5,
        max_body_bytes=100_000,
        max_pixels=1_000_000,
        max_images=4,
        memory=50,
        device="cpu",
        batch_size=1,
        try_attacks=True,
    )
    raised, listens, service, bound = _Raised(), threading.Event(), open_service(config), bind(config, Keys(roles={}))
    for name in ("loradar.serve", "uvicorn.error", "asyncio"):
        logging.getLogger(name).addHandler(raised)
    started = {"started": listens.set}
    threading.Thread(target=serve, args=(service, Keys(roles={}), bound), kwargs=started, daemon=True).start()
    require(listens.wait(60), "the server did not start")
    return bound.getsockname()[1], service.registry.choose("m"), raised


def request(given: Given, _: Path) -> None:
    """Refused where the server says so."""
    port, served, raised = server()
    method, target, headers, body, changes = given
    given_names = {name.lower() for name, _ in headers}
    more = [("Host", f"127.0.0.1:{port}")]
    if "content-length" not in given_names and "transfer-encoding" not in given_names:
        more.append(("Content-Length", str(len(body))))
    head = f"{method} {target} HTTP/1.1\r\n" + "".join(f"{name}: {value}\r\n" for name, value in [*more, *headers])
    data = head.encode("utf-8", "surrogatepass") + b"\r\n" + body
    for place, length, new in changes:
        at = int(place * len(data))
        data = data[:at] + new + data[at + length :]
    reply = _asked(port, data, method, ends=bool(changes))
    require(not raised.lines, "\n".join(raised.lines))
    if reply is None:
        raise Refused(0, "no answer")
    status, kind, content = reply
    in_time = {503} if "/attack" not in target else {503, 504}  # an attack takes long
    require(status < 500 or status in in_time, f"{status}: {content[:500]!r}")
    if status >= 400:
        raise Refused(status, _line(kind, content) if content else "")
    if not changes and "/v1/models/m" in target and "/predict" in target and method == "POST":
        _check(served, body, headers, json.loads(content))


def _asked(port: int, data: bytes, method: str, *, ends: bool) -> tuple[int, str, bytes] | None:
    """Status, content type and content; none where the client ends or errs and the server only closes."""
    with socket.create_connection(("127.0.0.1", port), timeout=9) as connection:
        try:
            connection.sendall(data)
            if ends:
                connection.shutdown(socket.SHUT_WR)
        except OSError:  # it has answered and closed before it was told all
            pass
        reply = HTTPResponse(connection, method=method)
        try:
            reply.begin()
            return reply.status, reply.getheader("Content-Type", ""), reply.read()
        except (HTTPException, ConnectionError):
            require(ends, "the server closed without an answer")
            return None
        finally:
            reply.close()


def _line(kind: str, content: bytes) -> str:
    if kind.startswith("text/plain"):  # no HTTP, so it reached no route
        require(content == b"Invalid HTTP request received.", f"{content[:500]!r}")
        return content.decode()
    said = json.loads(content)
    require(list(said) == ["error"], f"{said}")
    line = str(said["error"])
    require("\n" not in line and len(line) < 1000 and "Traceback" not in line, f"no line: {line[:300]!r}")
    require(str(folders.valid()) not in line, f"a place of the server: {line}")
    return line


def _check(served: Served, body: bytes, headers: Sequence[tuple[str, str]], found: dict[str, Any]) -> None:
    require(found["fingerprint"] == served.fingerprint, "another version")
    if any("multipart" in value for _, value in headers):
        return
    x = read_picture(body, "one", size=(32, 32), max_pixels=10**6)
    (one,), (answer,) = found["predictions"], served.answer(x[None])
    require(one["label"] == answer.label, "another label")
    require(one["probability"] == float(answer.probabilities.max()), "another probability")


def _form(parts: Sequence[tuple[str, str | None, bytes]]) -> bytes:
    border = b"--part\r\n"
    lines = [
        f'Content-Disposition: form-data; name="{name}"'.encode("utf-8", "surrogatepass")
        + (b"" if file is None else f'; filename="{file}"'.encode("utf-8", "surrogatepass"))
        for name, file, _ in parts
    ]
    said = [border + line + b"\r\n\r\n" + data + b"\r\n" for line, (_, _, data) in zip(lines, parts, strict=True)]
    return b"".join(said) + b"--part--\r\n"


def _infer(edits: Sequence[tuple[float, str, Any]], form: str, rest: bytes, length: str) -> Given:
    content: Any = {
        "id": "1",
        "inputs": [{"name": "images", "datatype": "UINT8", "shape": [1, 3, 32, 32], "data": [7] * 3072}],
        "outputs": [{"name": "label", "parameters": {"binary_data": False}}],
        "parameters": {"binary_data_output": False},
    }
    if form == "bytes":
        del content["inputs"][0]["data"]
        content["inputs"][0]["parameters"] = {"binary_data_size": 3072}
        rest = bytes(3072) + rest
    for edit in edits:
        edited(content, *edit)
    head = _dumps(content)
    header = [(HEADER, length or str(len(head)))] if form == "bytes" or length else []
    return "POST", "/v2/models/m/infer", header, head + (rest if header else b""), []


def _dumps(content: Any) -> bytes:
    try:
        return json.dumps(content).encode()
    except (ValueError, RecursionError):
        return b"{"


_pictures = images.DOORS["picture"].inputs.map(images.picture_bytes)
_words = st.sampled_from(TEXTS) | st.text(max_size=8)
_quoted = _words.map(lambda text: quote(text.encode("utf-8", "surrogatepass"), safe="") or "%00")
_names = st.sampled_from(["m"] * 20 + ["m@v1", "m@v9", "m@", "@", "n"]) | st.sampled_from(["m"]) | _quoted
_queries = st.sampled_from(
    ["", "", "?top=3", "?top=0", "?top=x", "?voters=true", "?top=9999999999999999999999", "?%00"]
)
_kinds = st.sampled_from(
    ["image/png"] * 6 + ["application/octet-stream", "text/plain", "", "image/", "multipart/form-data"]
)
_line_safe = _words.map(lambda text: "".join(one for one in text if one.isprintable() and one.isascii())[:80])
_headers = st.lists(
    st.sampled_from(
        [
            *(("X-Loradar-Version", value) for value in ("v1", "v9", "../x", "")),
            *(("Content-Length", value) for value in ("-1", "1e3", "9" * 5000, "", "0", "5")),
            ("Transfer-Encoding", "chunked"),
            ("Expect", "100-continue"),
            ("Content-Encoding", "gzip"),
            ("Authorization", "Bearer x"),
            ("Origin", "http://elsewhere"),
            ("X-Long", "x" * 70_000),
            ("Upgrade", "websocket"),
        ]
    )
    | st.tuples(st.sampled_from(["X-Loradar-Version", "Content-Type", "X", HEADER]), _line_safe),
    max_size=2,
)
_none: st.SearchStrategy[list[Any]] = st.just([])
_changes = st.integers(0, 7).flatmap(
    lambda number: (
        _none
        if number < 7
        else st.lists(
            st.tuples(places, st.sampled_from([0, 1, 4, 50, 500]), st.binary(max_size=4)), min_size=1, max_size=3
        )
    )
)
_small = st.integers(0, 9).map(lambda index: images.picture_bytes(("changed", "PNG", "RGB", index, [])))
_ends = st.sampled_from(["predict"] * 4 + ["inspect", "attack"]).flatmap(
    lambda end: (
        st.builds(
            lambda attack, against: f"attack?attack={attack}&against={against}",
            st.sampled_from(["pgd", "pgd", "roa", "none", "pgd:steps=100000000"]) | _quoted,
            st.sampled_from(["model", "base"]).map(quote) | _quoted,
        )
        if end == "attack"
        else _queries.map(lambda query: end + query)
    )
)
_predict = st.builds(
    lambda name, end, kind, headers, body, changes: (
        "POST",
        f"/v1/models/{name}/{end}",
        [("Content-Type", kind), *headers],
        body,
        changes,
    ),
    _names,
    _ends,
    _kinds,
    _none | _none | _none | _headers,
    _small | _small | _small | _pictures | st.sampled_from([b"", b"x", bytes(100_001), bytes(3_000_000)]),
    _changes,
)
_part = st.tuples(
    st.sampled_from(["image"] * 12 + ["photo", "", "x y"]),
    st.sampled_from(["x.png"] * 12 + ["../x", None]),
    _small | _pictures,
)
_forms = st.builds(
    lambda parts, kind, changes: ("POST", "/v1/models/m/predict", [("Content-Type", kind)], _form(parts), changes),
    st.lists(_part, max_size=5),
    st.sampled_from(
        ["multipart/form-data; boundary=part"] * 6
        + ["multipart/form-data; boundary=other", "multipart/form-data; boundary="]
    ),
    _changes,
)
_infers = st.builds(
    _infer,
    EDITS | _none | _none,
    st.sampled_from(["json", "bytes"]),
    st.binary(max_size=5),
    st.just("") | st.sampled_from(["0", "-1", "5", "9" * 30, "x"]),
)
_paths = (
    st.sampled_from(["base", "task", "guard", "run", "adapter", "..", "/", "base/../..", "none", ".", "base\0"])
    | _words
)
_bodies = odd | st.dictionaries(st.sampled_from(["path", "version", "v1", "v2", "more"]), _paths | odd, max_size=3)
_admin = st.builds(
    lambda method, target, body, changes: (
        method,
        target,
        [("Content-Type", "application/json")],
        _dumps(body),
        changes,
    ),
    st.sampled_from(["POST", "POST", "POST", "PUT", "DELETE", "GET", "HEAD", "OPTIONS", "PATCH", "BREW"]),
    st.sampled_from(["versions", "activate", "rollback", "weights", "versions/v1", "versions/v2"]).map(
        lambda end: f"/v1/models/n/{end}"
    )
    | st.sampled_from(["base", "task", "guard", "run", "n", "..%2f..", "%00"]).flatmap(
        lambda name: st.sampled_from([f"/v2/repository/models/{name}/load", f"/v2/repository/models/{name}/unload"])
    )
    | st.sampled_from(
        [
            "/",
            "/metrics",
            "/v1/models",
            "/v1/traffic",
            "/v2",
            "/v2/models/m",
            "/v1/session",
            "/page/app.js",
            "/page/..",
            "*",
            "//",
            "/docs",
            "/openapi.json",
        ]
    )
    | _quoted.map(lambda text: f"/v1/models/{text}"),
    _bodies,
    _changes,
)
DOORS: dict[str, Door] = {"request": Door(st.one_of(_predict, _predict, _forms, _infers, _admin), request, 10)}
