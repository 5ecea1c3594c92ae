"""Attacks on single pictures, for a look at what holds: on one thread of their own that gives way to all others."""

import os
import sys
import threading
import time
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache
from typing import TypeAlias

import torch
from torch import Tensor, nn

from loradar.attacks import parse_attack
from loradar.core.errors import LoradarError
from loradar.core.types import Attack, Images, Logits
from loradar.evaluation import device_of
from loradar.guard.features import highest_energy_window
from loradar.guard.policy import Level
from loradar.serve.errors import Refused
from loradar.serve.models import Answer, Served

USUAL = {"roa": "roa", "pgd": "pgd"}
"""What a model that knows no attacks is tried with."""
_AT_ONCE = 2
"""Attacks that run or wait."""
Region: TypeAlias = tuple[int, int, int, int]
"""Top, left, height and width of a rectangle, in pixels of the image as the model sees it."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Tryout:
    """An image's attacked form (channels, height, width), in 8-bit values as a file holds them, and both answers."""

    spec: str
    image: Tensor
    before: Answer
    after: Answer
    region: Region | None


class Tryouts:
    """Runs attacks one after the other. Two at most run or wait, and each ends when the time of its request is up."""

    def __init__(self) -> None:
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="loradar-tryout", initializer=_give_way)
        self._places = threading.BoundedSemaphore(_AT_ONCE)

    def submit(
        self, served: Served, image: Tensor, name: str, against: str, *, level: Level, deadline: float
    ) -> "Future[Tryout]":
        """Attacks an image (channels, height, width), away from its answer, by the gradients of one of `served.targets`.

        Raises Refused: 422 for another attack or target, 429 where two run or wait.
        """
        attack, target = attacks_of(served).get(name), served.targets(level).get(against)
        if attack is None or target is None:
            raise Refused(
                422,
                f"attack is {name!r:.80} against {against!r:.80}; expected one of {', '.join(attacks_of(served))} against "
                f"{' or '.join(served.targets(level))}",
            )
        if not self._places.acquire(blocking=False):
            raise Refused(429, "other attacks are being tried; come again", retry_after=2)
        try:
            future = self._thread.submit(_attack, served, image[None], attack, _Timed(target, deadline), level)
        except BaseException:
            self._places.release()
            raise
        future.add_done_callback(lambda _: self._places.release())
        return future

    def close(self) -> None:
        """Waits for the attack that runs, and drops what waits."""
        self._thread.shutdown(cancel_futures=True)


def attacks_of(served: Served) -> dict[str, Attack]:
    """Returns what a model can be tried with, by name: a guard's own attacks, or the usual ones."""
    return {name: attack for name, spec in (served.attacks or USUAL).items() if (attack := _parsed(spec)) is not None}


def suspected_region(served: Served, image: Tensor, answer: Answer) -> Region | None:
    """Finds the rectangle in which the suspected attack would lie, where it is one that moves in a rectangle."""
    attack = None if answer.suspected is None else _parsed(served.attacks.get(answer.suspected[0], ""))
    size = attack.traits.region if attack else None
    if not isinstance(size, tuple):
        return None
    top, left = highest_energy_window(image[None], window=size)[0].tolist()
    return top, left, *size


def _attack(served: Served, x: Images, attack: Attack, target: nn.Module, level: Level) -> Tryout:
    device = device_of(target)
    with torch.no_grad():
        label = target(x.to(device)).argmax(1)
    x_adv = attack(target, x.to(device), label).cpu()
    x_adv = (x_adv * 255).round() / 255
    (before,), (after,) = served.answer(x, level), served.answer(x_adv, level)
    changed = (x_adv != x)[0].any(0).nonzero() if isinstance(attack.traits.region, tuple) else x.new_zeros(0, 2)
    region = None
    if len(changed):
        (top, left), (bottom, right) = changed.amin(0).tolist(), changed.amax(0).tolist()
        region = (top, left, bottom - top + 1, right - left + 1)
    return Tryout(spec=attack.spec, image=x_adv[0], before=before, after=after, region=region)


class _Timed(nn.Module):
    """The model until the time is up; then it raises, which ends whatever attack asks it."""

    def __init__(self, model: nn.Module, deadline: float) -> None:
        super().__init__()
        self.model, self._deadline = model, deadline

    def forward(self, x: Images) -> Logits:
        if time.monotonic() > self._deadline:
            raise Refused(504, "the attack takes longer than a request may")
        logits: Logits = self.model(x)
        return logits


@cache
def _parsed(spec: str) -> Attack | None:
    """None for what is no attack by settings alone, and for one that reads layers by their names."""
    try:
        attack = parse_attack(spec)
    except LoradarError:
        return None
    return None if attack.traits.layers else attack


def _give_way() -> None:
    # on Linux priorities are of threads, and those that this one starts for its products inherit it
    if sys.platform == "linux":
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), 19)
