"""Everything that a server has, without HTTP: models, the engine, and what is asked of them."""

import asyncio
import logging
import os
import time
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

from torch import Tensor

from loradar.core.errors import BadConfigError
from loradar.core.types import Images
from loradar.guard.monitor import Event
from loradar.guard.policy import Level
from loradar.serve.config import ServeConfig
from loradar.serve.engine import Engine
from loradar.serve.errors import Refused
from loradar.serve.metrics import Metrics
from loradar.serve.models import Answer, Opening, Served, open_served
from loradar.serve.names import read_place
from loradar.serve.pictures import read_picture
from loradar.serve.registry import Registry
from loradar.serve.traffic import Alarms, Board, TrafficBoard
from loradar.serve.tryouts import Tryout, Tryouts

_LOG = logging.getLogger("loradar.serve")
_T = TypeVar("_T")


@dataclass(kw_only=True, eq=False)
class Service:
    """What the routes share. `draining` is set once, when the server is told to stop."""

    config: ServeConfig
    registry: Registry
    engine: Engine
    board: Board
    alarms: Alarms
    metrics: Metrics
    decoders: ThreadPoolExecutor = field(
        default_factory=lambda: ThreadPoolExecutor(min(4, os.cpu_count() or 1), thread_name_prefix="loradar-decoder")
    )
    tryouts: Tryouts = field(default_factory=Tryouts)
    draining: bool = False

    @property
    def is_ready(self) -> bool:
        """Whether there is a model that answers, and more requests are taken. What loads later changes nothing in it."""
        return not self.draining and any(model.active for model in self.registry.models())

    def check_open(self) -> None:
        """Raises Refused (503) where the server is told to stop."""
        if self.draining:
            raise Refused(503, "the server is shutting down", retry_after=5)

    def place(self, path: str) -> str:
        """Returns the folder that an admin names: within the repository, it and all in it, also once links are followed.

        Raises Refused.
        """
        if self.config.repository is None:
            raise Refused(409, "this server loads nothing later; start it with --repository")
        root = self.config.repository.resolve()
        try:
            folder = (root / path).resolve()
            inside = folder != root and folder.is_relative_to(root) and folder.is_dir()
            inside = inside and all(each.resolve().is_relative_to(root) for each in folder.rglob("*"))
        except (OSError, ValueError, RuntimeError):
            inside = False
        if not inside:
            raise Refused(404, f"there is no folder {path!r:.80} in the repository")
        return str(folder)

    def load(self, name: str, path: str, version: str = "") -> "tuple[str, Future[Served]]":
        """Begins to load a folder of the repository as a version; see `place` and `Registry.load`."""
        self.check_open()
        self.registry.check_changeable()  # before the place is looked for: replicas have no repository
        version, future = self.registry.load(name, self.place(path), version)
        future.add_done_callback(lambda done: _log(f"{name}@{version}", done))
        return version, future

    async def decode(self, pictures: Sequence[tuple[str, bytes]], served: Served, *, deadline: float) -> list[Tensor]:
        """Decodes named pictures to what a model takes, away from the event loop. Raises Refused."""
        channels, *size = served.input_size
        if channels != 3:
            raise Refused(422, f"{served.name} takes images of {channels} channels, which pictures do not have")
        loop = asyncio.get_running_loop()

        def one(name: str, data: bytes) -> Tensor:
            return read_picture(data, name, size=(size[0], size[1]), max_pixels=self.config.max_pixels)

        return await _all([loop.run_in_executor(self.decoders, one, *each) for each in pictures], deadline)

    async def answer(self, served: Served, images: Sequence[Tensor], *, deadline: float) -> list[Answer]:
        """Has a version answer images; all of them, or it raises. `deadline` is a moment of `time.monotonic`."""
        futures = self.engine.submit(_Watched(served, self), images, timeout=deadline - time.monotonic())
        return await _all([asyncio.wrap_future(future) for future in futures], deadline)

    async def attack(self, served: Served, image: Tensor, attack: str, against: str, *, deadline: float) -> Tryout:
        """Attacks an image beside the engine, at the level of its traffic; that does not count it. Raises Refused."""
        level: Level = self.board.level(served.name) if served.kind == "guard" else "calm"
        future = self.tryouts.submit(served, image, attack, against, level=level, deadline=deadline)
        return (await _all([asyncio.wrap_future(future)], deadline))[0]

    def close(self) -> None:
        """Answers what was taken, then ends every thread."""
        self.draining = True
        self.tryouts.close()
        self.engine.close()
        self.registry.close()
        self.decoders.shutdown(cancel_futures=True)
        self.alarms.close()


@dataclass(frozen=True)
class _Watched:
    """A version that answers at the level of its traffic, and whose answers are counted. Equal for the same version."""

    served: Served
    service: Service

    def __call__(self, x: Images) -> list[Answer]:
        name, board = self.served.name, self.service.board
        began = time.perf_counter()
        if self.served.kind != "guard":
            answers = self.served.answer(x)
        else:
            answers = self.served.answer(x, board.level(name))
            board.observe(name, answers)
        self.service.metrics.computed(self.served, answers, time.perf_counter() - began)
        return answers


def _log(what: str, done: "Future[Served]") -> None:
    error = None if done.cancelled() else done.exception()
    if error is None:
        _LOG.info("%s was loaded", what)
    else:  # for the log alone: it may name places
        _LOG.error("%s could not be loaded: %s: %s", what, type(error).__name__, error)


async def _all(futures: "Sequence[asyncio.Future[_T]]", deadline: float) -> list[_T]:
    """Waits for all; the first error ends the others that did not begin, and so does the end of the time."""
    together = asyncio.gather(*futures)
    try:
        async with asyncio.timeout(max(0.0, deadline - time.monotonic())):
            return list(await together)
    except TimeoutError as error:
        raise Refused(504, "there was no answer in time; come again", retry_after=1) from error
    finally:
        for future in futures:
            future.cancel()


def open_service(config: ServeConfig) -> Service:
    """Opens every model that `config` names. Raises LoradarError for the first one that cannot be served."""
    if config.max_images > config.queue:
        raise BadConfigError(f"max_images is {config.max_images} and queue {config.queue}; expected at most as many")
    if config.repository is not None and not config.repository.is_dir():
        raise BadConfigError(f"repository is {config.repository}, which is no folder; expected one that holds versions")
    if config.key is not None and not Path(config.key).is_file():
        raise BadConfigError(
            f"key is {config.key}, which is no file; expected the .pub file of `loradar adapters keygen`"
        )
    opening = Opening(base=config.base, key=config.key, device=config.device, precision=config.precision)

    def open_place(place: str, name: str, version: str) -> Served:
        return open_served(place, opening, name=name, version=version)

    memory = None if config.memory is None else config.memory * 10**6
    registry = Registry(open_place, memory=memory)
    try:
        for given in config.models:
            name, version, place = read_place(given)
            registry.load(name, place, version)[1].result()
    except BaseException:
        registry.close()
        raise
    return assemble(config, registry)


def assemble(config: ServeConfig, registry: Registry) -> Service:
    """Makes a service around models: starts its threads."""
    alarms, metrics = Alarms(config.webhook), Metrics()

    def tell(name: str, event: Event) -> None:
        metrics.told(name, event)
        alarms.tell(name, event)

    return Service(
        config=config,
        registry=registry,
        engine=Engine(batch_size=config.batch_size, queue=config.queue),
        board=TrafficBoard(tell, fixed=config.level, window=config.window),
        alarms=alarms,
        metrics=metrics,
    )
