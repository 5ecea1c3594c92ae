"""A client of `loradar serve`, which needs nothing but Python."""

import json
import random
import secrets
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Mapping, Sequence
from http.client import HTTPException
from pathlib import Path
from typing import Any

from loradar.core.errors import BadConfigError, BadFileError
from loradar.core.files import read_regular
from loradar.serve.errors import Refused

_BUSY = (429, 503)
_LONGEST = 10.0
"""Seconds between two tries."""
_Given = Path | str | bytes


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """The key is for this server alone."""

    def redirect_request(self, *_: Any) -> None:
        return None


class Client:
    """Asks a server, and asks again while it is busy or cannot be reached.

    Args:
        address: such as "http://127.0.0.1:8000".
        key: the key, where the server has keys.
        timeout: seconds for one try.
        retries: how often a request is tried again: after 429 and 503, and where it changes nothing also after a lost
            connection.

    All methods raise LoradarError with the server's line; its `status` is 0 where there was no answer.

    Example:
        >>> client = Client("http://127.0.0.1:8000", key="...")
        >>> client.predict("digits", "photo.png", top=3)["predictions"][0]["class"]  # doctest: +SKIP
        '7'
    """

    def __init__(self, address: str, *, key: str | None = None, timeout: float = 60.0, retries: int = 5) -> None:
        if urllib.parse.urlsplit(address).scheme not in ("http", "https"):
            raise BadConfigError(f"address is {address!r:.80}; expected one such as http://127.0.0.1:8000")
        self._address, self._timeout, self._retries = address.rstrip("/"), timeout, retries
        self._headers = {} if key is None else {"Authorization": f"Bearer {key}"}
        self._opener = urllib.request.build_opener(_NoRedirect)

    def models(self) -> list[dict[str, Any]]:
        """Returns every model with its versions."""
        found: list[dict[str, Any]] = self._ask("GET", "/v1/models")["models"]
        return found

    def model(self, name: str) -> dict[str, Any]:
        """Returns one model with its versions."""
        return self._ask("GET", _path(name))

    def predict(
        self, name: str, images: _Given | Sequence[_Given], *, version: str = "", top: int = 1, voters: bool = False
    ) -> dict[str, Any]:
        """Classifies pictures, each a file or its bytes; `predictions` are in their order.

        The answer says the version and the fingerprint that it is from. Of a guard, `voters` asks for each voter's class too.
        Raises BadFileError for a file that cannot be read.
        """
        several = [images] if isinstance(images, Path | str | bytes) else list(images)
        kind, body = _form([each if isinstance(each, bytes) else _read(Path(each)) for each in several])
        query = urllib.parse.urlencode({"top": top, "voters": str(voters).lower()})
        headers = {"Content-Type": kind} | ({"X-Loradar-Version": version} if version else {})
        return self._ask("POST", f"{_path(name)}/predict?{query}", body, headers, again=True)

    def load(self, name: str, path: str, *, version: str = "", wait: float = 300.0) -> dict[str, Any]:
        """Loads a folder of the server's repository as a version, and waits until it is loaded; returns the version.

        Raises LoradarError also where it could not be loaded, or not within `wait` seconds.
        """
        label = self._send("POST", f"{_path(name)}/versions", {"path": path, "version": version})["version"]
        ends = time.monotonic() + wait
        while time.monotonic() < ends:
            found = next((one for one in self.model(name)["versions"] if one["version"] == label), {"state": "gone"})
            if found["state"] == "loaded":
                return dict(found)
            if found["state"] != "loading":
                raise Refused(
                    409, f"{name}@{label} could not be loaded: it is {found['state']}; the server's log says why"
                )
            time.sleep(0.1)
        raise Refused(504, f"{name}@{label} was not loaded within {wait:g} seconds")

    def activate(self, name: str, version: str) -> dict[str, Any]:
        """Gives all traffic of a model to a version; returns the model."""
        return self._send("POST", f"{_path(name)}/activate", {"version": version})

    def roll_back(self, name: str) -> dict[str, Any]:
        """Activates the version that was active before; returns the model."""
        return self._send("POST", f"{_path(name)}/rollback", {})

    def weigh(self, name: str, weights: Mapping[str, float]) -> dict[str, Any]:
        """Splits the traffic by shares that sum to 1, {} gives it back to the active version; returns the model."""
        return self._send("PUT", f"{_path(name)}/weights", dict(weights))

    def unload(self, name: str, version: str) -> dict[str, Any]:
        """Forgets a version; returns the model."""
        return self._ask("DELETE", f"{_path(name)}/versions/{urllib.parse.quote(version, safe='')}")

    def _send(self, method: str, path: str, content: Any) -> dict[str, Any]:
        return self._ask(method, path, json.dumps(content).encode(), {"Content-Type": "application/json"})

    def _ask(
        self,
        method: str,
        path: str,
        body: bytes | None = None,
        headers: Mapping[str, str] | None = None,
        *,
        again: bool = False,
    ) -> dict[str, Any]:
        """`again` says that a request whose answer was lost may be sent anew."""
        for attempt in range(self._retries + 1):
            try:
                return self._once(method, path, body, headers or {})
            except Refused as error:
                lost = error.status == 0 and (again or method == "GET")
                if attempt == self._retries or not (lost or error.status in _BUSY):
                    raise
                pause = max(error.retry_after or 0, 0.1 * 2**attempt)
                time.sleep(min(_LONGEST, pause) * random.uniform(1, 1.25))  # so that not all come again at once
        raise AssertionError  # the last attempt returned or raised

    def _once(self, method: str, path: str, body: bytes | None, headers: Mapping[str, str]) -> dict[str, Any]:
        request = urllib.request.Request(self._address + path, body, {**self._headers, **headers}, method=method)
        try:
            with self._opener.open(request, timeout=self._timeout) as reply:
                found: dict[str, Any] = json.loads(reply.read())
                return found
        except urllib.error.HTTPError as error:
            with error:
                after = error.headers.get("Retry-After", "")
                raise Refused(
                    error.code, _line(error), retry_after=int(after) if after.isdecimal() else None
                ) from error
        except (OSError, HTTPException) as error:
            reason = getattr(error, "reason", error)
            raise Refused(0, f"no answer from {self._address}: {reason or type(error).__name__}") from error
        except ValueError as error:
            raise Refused(0, f"{self._address} did not answer in JSON; expected a server of `loradar serve`") from error


def _line(error: urllib.error.HTTPError) -> str:
    try:
        return str(json.loads(error.read())["error"])
    except (OSError, HTTPException, ValueError, KeyError, TypeError):
        return f"the server answered {error.code}"


def _path(name: str) -> str:
    return f"/v1/models/{urllib.parse.quote(name, safe='@')}"


def _read(path: Path) -> bytes:
    try:
        return read_regular(path)
    except OSError as error:
        raise BadFileError(f"could not read {path}: {error.strerror or error}; expected an image") from error


def _form(images: Sequence[bytes]) -> tuple[str, bytes]:
    """The content type and the body that hold the images."""
    if len(images) == 1:
        return "application/octet-stream", images[0]
    border = secrets.token_hex(16)  # in no image, but for one chance in 2 ** 128
    head = f'--{border}\r\nContent-Disposition: form-data; name="image"; filename="image"\r\n'
    head += "Content-Type: application/octet-stream\r\n\r\n"
    body = b"".join(head.encode() + data + b"\r\n" for data in images)
    return f"multipart/form-data; boundary={border}", body + f"--{border}--\r\n".encode()
