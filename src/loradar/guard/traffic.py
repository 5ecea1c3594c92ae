"""A guard at work: pictures from files, one finding each, and the level of alarm that the traffic calls for."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from loradar.core.errors import BadDataError
from loradar.core.types import Images
from loradar.data import read_images
from loradar.data.folders import SUFFIXES
from loradar.evaluation import device_of
from loradar.guard.guard import Guard, Verdict
from loradar.guard.monitor import Event, TrafficMonitor
from loradar.guard.policy import Level
from loradar.guard.pool import OpenGuard

NOTHING = "none"


@dataclass(frozen=True, kw_only=True)
class Finding:
    """What a guard says of one image.

    `answer` is a class, "none" where the guard abstains; `voters` are each one's class and calibrated confidence, and
    None for those that were not asked; `suspected` is clean, a threat or unknown; `passes` the work in forward passes.
    """

    image: str
    answer: str
    confidence: float
    voters: Mapping[str, tuple[str, float] | None]
    suspected: str
    probability: float
    defenses: tuple[str, ...]
    level: Level
    passes: float


@dataclass(frozen=True, kw_only=True, eq=False)
class Traffic:
    """One stream of images through one guard: the level that the monitor sets holds for the images that come next."""

    opened: OpenGuard
    monitor: TrafficMonitor

    def look(self, names: Sequence[str], x: Images) -> tuple[list[Finding], list[Event]]:
        """Findings of a batch, in order, and what was decided over it."""
        guard = self.opened.guard
        if guard.settings.level != self.monitor.level:
            guard = guard.replace(level=self.monitor.level)
        with torch.no_grad():
            verdict = guard.predict_full(x.to(device_of(guard)))
        findings = [self._finding(guard, verdict, index, name) for index, name in enumerate(names)]
        events = [
            event
            for found in findings
            for event in self.monitor.observe(found.suspected, defenses=found.defenses, confidence=found.probability)
        ]
        return findings, events

    def _finding(self, guard: Guard, verdict: Verdict, index: int, name: str) -> Finding:
        settings = guard.settings
        probability, label = (t.item() for t in verdict.named[index].max(0))
        answer = int(verdict.answers[index])
        suspected = settings.labels[int(label)]
        return Finding(
            image=name,
            answer=self._class(answer) if answer >= 0 else NOTHING,
            confidence=float(verdict.logits[index].softmax(0).max()),
            voters={v: self._vote(verdict.log_probs[i, index]) for i, v in enumerate(settings.voters)},
            suspected=suspected,
            probability=float(probability),
            defenses=settings.policy.taken(suspected, settings.level) if bool(verdict.measured[index]) else (),
            level=settings.level,
            passes=float(verdict.passes[index]),
        )

    def _vote(self, log_probs: Tensor) -> tuple[str, float] | None:
        if bool(log_probs.isnan().any()):
            return None
        top, answer = log_probs.max(0)
        return self._class(int(answer)), float(top.exp())

    def _class(self, index: int) -> str:
        return self.opened.base.classes[index] if self.opened.base.classes else str(index)


def open_traffic(opened: OpenGuard, *, fixed: Level | None = None, window: int = 200) -> Traffic:
    """A stream that begins now. With `fixed` the level stays; otherwise the guard's forwards decide as they come."""
    return Traffic(opened=opened, monitor=TrafficMonitor(window=window, minimum=min(20, window), fixed=fixed))


def pictures_below(folder: Path) -> list[Path]:
    """The image files in `folder`, by name; none that is hidden. Raises BadDataError where there is no such folder."""
    if not folder.is_dir():
        raise BadDataError(f"there is no folder {folder}; expected one that images arrive in")
    return sorted(p for p in folder.iterdir() if p.suffix.lower() in SUFFIXES and not p.name.startswith("."))


def classify(traffic: Traffic, paths: Sequence[Path], *, batch_size: int = 32) -> Iterator[tuple[Finding, list[Event]]]:
    """A finding for each image, in order; events come with the last image of their batch. Raises as `read_images`."""
    for start in range(0, len(paths), batch_size):
        chunk = paths[start : start + batch_size]
        x = read_images(chunk, size=traffic.opened.base.input_size[1:])
        findings, events = traffic.look([str(path) for path in chunk], x)
        for index, found in enumerate(findings):
            yield found, events if index == len(findings) - 1 else []
