"""The door: time, bytes, how often and how many at once."""

import asyncio
import time
from collections.abc import Iterator
from typing import Any

import pytest
from fastapi import FastAPI
from starlette.testclient import TestClient

from loradar.serve.app import create_app, refusal
from loradar.serve.asgi import Message, Receive, Scope, Send
from loradar.serve.auth import Keys
from loradar.serve.config import ServeConfig
from loradar.serve.errors import Refused
from loradar.serve.limits import Rate, door
from loradar.serve.registry import Registry
from loradar.serve.service import Service, assemble
from tests.serve.test_registry import made


def scope(**headers: str) -> Scope:
    given = {"host": "localhost"} | headers
    coded = [(name.encode(), value.encode()) for name, value in given.items()]
    return {"type": "http", "method": "POST", "path": "/v1/models/m/predict", "headers": coded}


async def reading(_: Scope, receive: Receive, send: Send) -> None:
    """An app that reads all, and answers as the server's own does."""
    try:
        while (await receive()).get("more_body"):
            pass
    except Refused as error:
        await refusal(error)(_, receive, send)
        return
    await send({"type": "http.response.start", "status": 200, "headers": []})


def ask(config: ServeConfig, receive: Receive, **headers: str) -> int:
    """The status of one request."""
    sent: list[Message] = []

    async def send(message: Message) -> None:
        sent.append(message)

    async def once() -> None:
        await door(reading, config=config, keys=Keys(roles={}), refuse=refusal)(scope(**headers), receive, send)

    asyncio.run(once())
    return int(sent[0]["status"])


def test_a_client_that_never_ends_is_left_in_time() -> None:
    async def trickle() -> Message:
        await asyncio.sleep(0.02)
        return {"type": "http.request", "body": b"x", "more_body": True}

    async def silent() -> Message:
        await asyncio.sleep(60)
        raise AssertionError

    for receive in (trickle, silent):
        began = time.monotonic()
        assert ask(ServeConfig(models=["m"], timeout=0.2), receive) == 408
        assert 0.15 < time.monotonic() - began < 5


@pytest.mark.parametrize(
    ("length", "status"),
    [("1024", 200), ("1025", 413), ("-1", 413), ("1e3", 413), ("9" * 5000, 413), ("", 413), ("²", 413)],
)
def test_a_length_that_is_too_much_or_none(length: str, status: int) -> None:
    async def receive() -> Message:
        return {"type": "http.request", "body": b"", "more_body": False}

    assert ask(ServeConfig(models=["m"], max_body_bytes=1024), receive, **{"content-length": length}) == status


def test_a_body_longer_than_was_said() -> None:
    async def receive() -> Message:
        return {"type": "http.request", "body": bytes(600), "more_body": True}

    assert ask(ServeConfig(models=["m"], max_body_bytes=1024), receive, **{"content-length": "10"}) == 413


def test_only_so_many_at_a_time() -> None:
    config, statuses = ServeConfig(models=["m"], max_connections=2), list[int]()

    async def together() -> None:
        release = asyncio.Event()

        async def receive() -> Message:
            await release.wait()
            return {"type": "http.request", "body": b"", "more_body": False}

        async def send(message: Message) -> None:
            if "status" in message:
                statuses.append(message["status"])

        app = door(reading, config=config, keys=Keys(roles={}), refuse=refusal)
        tasks = [asyncio.ensure_future(app(scope(), receive, send)) for _ in range(3)]
        while not statuses:
            await asyncio.sleep(0.01)
        assert statuses == [429]
        rollback = asyncio.ensure_future(app({**scope(), "path": "/v1/models/m/rollback"}, receive, send))
        await asyncio.sleep(0.01)
        assert statuses == [429], "an admin's request comes in beyond"
        release.set()
        await asyncio.gather(*tasks, rollback)
        await app(scope(), receive, send)

    asyncio.run(together())
    assert statuses == [429, 200, 200, 200, 200]


@pytest.fixture
def service() -> Iterator[Service]:
    service = assemble(ServeConfig(models=["m=one"], rate=0.5), Registry(made))
    yield service
    service.close()


def test_a_rate_is_kept_by_the_app_and_health_is_free(service: Service) -> None:
    app: FastAPI = create_app(service, Keys(roles={}))
    client: Any = TestClient(app, base_url="http://localhost")
    assert client.get("/v1/models").status_code == 200
    reply = client.get("/v1/models")
    assert (reply.status_code, reply.headers["retry-after"]) == (429, "2")
    assert {client.get("/healthz").status_code for _ in range(5)} == {200}


def test_a_rate_is_kept_for_each_name() -> None:
    now = [0.0]
    rate = Rate(2, clock=lambda: now[0])
    for _ in range(4):
        rate.take("one")
    with pytest.raises(Refused) as refused:
        rate.take("one")
    assert (refused.value.status, refused.value.retry_after) == (429, 1)
    rate.take("two")
    now[0] = 0.5
    rate.take("one")
    with pytest.raises(Refused):
        rate.take("one")
    for _ in range(100):
        Rate(None).take("one")
