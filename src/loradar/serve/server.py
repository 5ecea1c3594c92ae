"""Running the app: a socket that is bound first, connections that cannot idle, and a stop that answers what was taken."""

import asyncio
import gc
import socket
from collections.abc import Callable
from types import FrameType

import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from loradar.core.errors import BadConfigError
from loradar.serve.app import create_app
from loradar.serve.auth import Keys, is_loopback
from loradar.serve.config import ServeConfig
from loradar.serve.service import Service

HEAD_SECONDS = 10.0
"""For the first line and the headers of a request, from when a client connects or sends a first byte."""


def check_host(config: ServeConfig, keys: Keys) -> None:
    """Raises BadConfigError for an address that is open to others where there are no keys."""
    if not keys.roles and not is_loopback(config.host):
        raise BadConfigError(
            f"host {config.host} is open to other machines and there are no keys; give --keys FILE, or stay on 127.0.0.1"
        )


def bind(config: ServeConfig, keys: Keys) -> socket.socket:
    """Binds the address, before models are opened. Raises BadConfigError where it is taken, or open to others without keys."""
    check_host(config, keys)
    family, kind, protocol, _, address = socket.getaddrinfo(config.host, config.port, type=socket.SOCK_STREAM)[0]
    bound = socket.socket(family, kind, protocol)
    try:
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.bind(address)
    except OSError as error:
        bound.close()
        raise BadConfigError(
            f"cannot listen on {config.host} port {config.port}: {error.strerror}; choose another --port or --host"
        ) from error
    return bound


def address_of(host: str, port: int) -> str:
    """The address to open, as http://HOST:PORT."""
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def serve(service: Service, keys: Keys, bound: socket.socket, *, started: Callable[[], None]) -> None:
    """Serves until SIGTERM or SIGINT, then answers what was taken and closes `service`. `started` is called once it listens."""
    config = service.config
    settings = uvicorn.Config(
        create_app(service, keys),
        http=_Connection,
        ws="none",
        lifespan="off",
        log_config=None,
        access_log=False,
        proxy_headers=False,
        server_header=False,
        limit_concurrency=4 * config.max_connections,
        timeout_graceful_shutdown=int(config.timeout) + 5,
    )
    settle()
    try:
        _Server(settings, service, started).run(sockets=[bound])
    finally:
        service.close()
        gc.unfreeze()  # what is frozen outlives the interpreter, and extensions (nanobind) call that a leak


def settle() -> None:
    """Takes what is loaded out of the garbage collector's sight: every answer waits while it goes through all of torch."""
    gc.collect()
    gc.freeze()


class _Server(uvicorn.Server):
    """uvicorn's, which says when it listens, and takes a signal for the end of its work rather than of the process."""

    def __init__(self, config: uvicorn.Config, service: Service, started: Callable[[], None]) -> None:
        super().__init__(config)
        self._service, self._tell = service, started

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self._tell()

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:  # noqa: ARG002
        # a second signal does not wait for answers
        self.force_exit = self.should_exit
        self.should_exit = self._service.draining = True


class _Connection(H11Protocol):
    """uvicorn's, which waits only so long for the head of a request, however slowly its bytes come."""

    _waiting: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._waiting = self.loop.call_later(HEAD_SECONDS, self.timeout_keep_alive_handler)

    def data_received(self, data: bytes) -> None:
        if self._is_idle() and self._waiting is None:
            self._waiting = self.loop.call_later(HEAD_SECONDS, self.timeout_keep_alive_handler)
        super().data_received(data)
        if self._waiting is not None and not self._is_idle():
            self._waiting.cancel()
            self._waiting = None

    def connection_lost(self, exc: Exception | None) -> None:
        if self._waiting is not None:
            self._waiting.cancel()
        super().connection_lost(exc)

    def _is_idle(self) -> bool:
        """Whether no request is worked on."""
        return self.cycle is None or self.cycle.response_complete
