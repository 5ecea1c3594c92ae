"""One thread that computes: images wait in a bounded queue and are answered in batches of what waits."""

import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import TypeAlias

import torch
from torch import Tensor

from loradar.core.types import Images
from loradar.serve.errors import Refused
from loradar.serve.models import Answer

Ask: TypeAlias = Callable[[Images], Sequence[Answer]]
"""Answers a batch, in order. Images that wait for the same (equal) one share a batch; it alone decides whose answer it is."""


@dataclass(frozen=True, kw_only=True, eq=False)
class _Waiting:
    ask: Ask
    image: Tensor
    deadline: float
    future: "Future[Answer]" = field(default_factory=Future)


class Engine:
    """Answers images on a thread of its own. Any thread may submit; nothing else computes, so answers never meet.

    A batch is the first image that waits and all others for the same version, up to `batch_size`: it never waits for more.
    At most `queue` images wait.

    >>> from loradar.serve.models import Answer
    >>> def ask(x):
    ...     whose = {"model": "m", "version": "v1", "fingerprint": "f"}
    ...     return [Answer(label=0, probabilities=image.mean()[None], **whose) for image in x]
    >>> engine = Engine(batch_size=8, queue=16)
    >>> (future,) = engine.submit(ask, [torch.ones(3, 2, 2)], timeout=5)
    >>> future.result().version
    'v1'
    >>> engine.close()
    """

    def __init__(self, *, batch_size: int, queue: int) -> None:
        self.batch_size, self.queue = batch_size, queue
        self._images: deque[_Waiting] = deque()
        self._changed = threading.Condition()
        self._closing = False
        self._thread = threading.Thread(target=self._run, name="loradar-engine", daemon=True)
        self._thread.start()

    @property
    def waiting(self) -> int:
        """How many images wait at this moment."""
        return len(self._images)

    def submit(self, ask: Ask, images: Sequence[Tensor], *, timeout: float) -> "list[Future[Answer]]":
        """Puts images in the queue, all or none; each future has the answer, or what `ask` raised.

        An image that is not begun within `timeout` seconds is dropped, as is one whose future was cancelled. Raises Refused
        where the queue is full, or the engine closes.
        """
        deadline = time.monotonic() + timeout
        items = [_Waiting(ask=ask, image=image, deadline=deadline) for image in images]
        with self._changed:
            if self._closing:
                raise Refused(503, "the server is shutting down", retry_after=5)
            if len(self._images) + len(items) > self.queue:
                raise Refused(429, f"{len(self._images)} images wait already; come again", retry_after=1)
            self._images.extend(items)
            self._changed.notify()
        return [item.future for item in items]

    def close(self) -> None:
        """Takes nothing more, answers all that waits, and ends. May be called again."""
        with self._changed:
            self._closing = True
            self._changed.notify()
        self._thread.join()

    def _run(self) -> None:
        while batch := self._take():
            self._answer([item for item in batch if _begins(item)])

    def _take(self) -> list[_Waiting]:
        """Waits for images; none where the engine is closed and the queue empty."""
        with self._changed:
            self._changed.wait_for(lambda: self._images or self._closing)
            batch: list[_Waiting] = []
            others: deque[_Waiting] = deque()
            for item in self._images:
                joins = len(batch) < self.batch_size and (not batch or item.ask == batch[0].ask)
                (batch if joins else others).append(item)
            self._images = others
            return batch

    def _answer(self, batch: list[_Waiting]) -> None:
        if not batch:
            return
        try:
            answers = batch[0].ask(torch.stack([item.image for item in batch]))
            if len(answers) != len(batch):
                raise RuntimeError(f"{len(answers)} answers for {len(batch)} images")
        except Exception as error:
            if len(batch) == 1:
                batch[0].future.set_exception(error)
            for item in batch if len(batch) > 1 else ():  # one bad image is to cost no other its answer
                self._answer([item])
            return
        for item, answer in zip(batch, answers, strict=True):
            item.future.set_result(answer)


def _begins(item: _Waiting) -> bool:
    if not item.future.set_running_or_notify_cancel():
        return False
    if late := time.monotonic() > item.deadline:
        item.future.set_exception(Refused(504, "the image waited for longer than a request may take", retry_after=1))
    return not late
