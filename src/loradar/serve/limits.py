"""The door of the server: who may pass, how many at a time, how often, how much, and for how long."""

import asyncio
import time
from collections.abc import Callable
from contextlib import suppress
from typing import TypeAlias

from loradar.serve.asgi import App, Message, Receive, Scope, Send
from loradar.serve.auth import Keys, role_for
from loradar.serve.config import ServeConfig
from loradar.serve.errors import Refused

_OFF_SECONDS, _OFF_BYTES = 2.0, 2**26
"""What is read and dropped of a request that is refused."""
Refuse: TypeAlias = Callable[[Refused], App]
"""Makes the response that says why a request was declined."""


class Rate:
    """Lets each name act `rate` times a second on average, and twice that at once. `None` lets it act always."""

    def __init__(self, rate: float | None, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._rate, self._clock = rate, clock
        self._left: dict[str, tuple[float, float]] = {}

    def take(self, name: str) -> None:
        """Counts one act. Raises Refused (429) where the name has acted too often."""
        if self._rate is None:
            return
        now, most = self._clock(), max(1.0, 2 * self._rate)
        left, since = self._left.get(name, (most, now))
        left = min(most, left + (now - since) * self._rate)
        self._left[name] = (left - 1 if left >= 1 else left, now)
        if left < 1:
            raise Refused(429, "too many requests with this key", retry_after=max(1, round((1 - left) / self._rate)))


def door(app: App, *, config: ServeConfig, keys: Keys, refuse: Refuse) -> App:
    """Wraps an app: checks the key before anything is read, then counts what is read, by bytes and by time.

    The caller's short name is `scope["state"]["caller"]`; the moment at which its time is up is `scope["state"]["deadline"]`.
    """
    rate, inside = Rate(config.rate), 0

    async def guarded(scope: Scope, receive: Receive, send: Send) -> None:
        nonlocal inside
        if scope["type"] != "http":
            if scope["type"] == "lifespan":
                await app(scope, receive, send)
            return
        try:
            _enter(scope, keys, rate, inside, config)
        except Refused as error:
            if not any(name.lower() == b"expect" for name, _ in scope["headers"]):  # else it waits to be asked
                await _read_off(receive)
            await refuse(error)(scope, receive, send)
            return
        inside += 1
        try:
            await app(scope, _bounded(receive, config.max_body_bytes, scope["state"]["deadline"]), send)
        finally:
            inside -= 1

    return guarded


def _enter(scope: Scope, keys: Keys, rate: Rate, inside: int, config: ServeConfig) -> None:
    """Raises Refused for a request that is not to come in."""
    headers = {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in scope["headers"]}
    state = scope.setdefault("state", {})
    state["deadline"] = time.monotonic() + config.timeout
    needed = role_for(scope["method"], scope["path"])
    if needed is None:
        return
    state["caller"] = keys.check(headers, needed)
    rate.take(state["caller"])
    if inside >= config.max_connections and needed != "admin":  # who is to roll back must get in when all are stuck
        raise Refused(429, f"{inside} requests are worked on already; come again", retry_after=1)
    length = headers.get("content-length", "0")
    if not length.isdecimal() or int(length[:20]) > config.max_body_bytes:
        raise Refused(413, _too_long(config.max_body_bytes))


def _bounded(receive: Receive, most: int, deadline: float) -> Receive:
    read = 0

    async def bounded() -> Message:
        nonlocal read
        try:
            async with asyncio.timeout(max(0.0, deadline - time.monotonic())):
                message = await receive()
        except TimeoutError as error:
            raise Refused(408, "the request did not arrive in time") from error
        read += len(message.get("body", b""))
        if read > most:
            if message.get("more_body"):
                await _read_off(receive)
            raise Refused(413, _too_long(most))
        return message

    return bounded


async def _read_off(receive: Receive) -> None:
    """Reads what a client still sends, up to a bound: else its connection may break before it has read why it is refused."""
    read = 0
    with suppress(TimeoutError):
        async with asyncio.timeout(_OFF_SECONDS):
            while (message := await receive()).get("more_body") and read < _OFF_BYTES:
                read += len(message["body"])


def _too_long(most: int) -> str:
    return f"the request is longer than {most} bytes; send fewer or smaller images"
