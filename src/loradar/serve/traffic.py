"""The level of alarm of each guard that is served, by the traffic of its name; and alarms, for logs and a webhook."""

import dataclasses
import json
import logging
import queue
import threading
import urllib.request
from collections.abc import Callable, Sequence
from typing import Any, Protocol, TypeAlias

from loradar.guard.monitor import Event, TrafficMonitor
from loradar.guard.policy import Level
from loradar.serve.models import Answer

_LOG = logging.getLogger("loradar.serve")
_SECONDS = 5.0
"""For a webhook to answer."""
Sighting: TypeAlias = tuple[str, float, tuple[str, ...]]
"""What a guard found in an image: the label, its probability, and the measures taken."""


class Board(Protocol):
    """Where the engine's thread reads the level of alarm of a name, and counts its answers. Neither may wait."""

    def level(self, name: str) -> Level: ...
    def observe(self, name: str, answers: Sequence[Answer]) -> None: ...
    def states(self) -> list[dict[str, Any]]: ...


def sightings_of(answers: Sequence[Answer]) -> list[Sighting]:
    """What is counted of answers: those of guards."""
    return [(*one.suspected, tuple(one.measures)) for one in answers if one.suspected is not None]


class TrafficBoard:
    """A monitor for each name, over all of its versions. The engine's thread observes; any thread may read.

    The level that an answer was found under is the one that the answers before it had set. `tell` receives each name and
    event, on the engine's thread.
    """

    def __init__(self, tell: Callable[[str, Event], None], *, fixed: Level | None = None, window: int = 200) -> None:
        self._tell, self._fixed, self._window = tell, fixed, window
        self._monitors: dict[str, TrafficMonitor] = {}
        self._lock = threading.Lock()

    def level(self, name: str) -> Level:
        """The level of alarm that the next answers of a name are found under."""
        with self._lock:
            return self._monitor(name).level

    def observe(self, name: str, answers: Sequence[Answer]) -> None:
        """Counts answers of a guard."""
        self.count(name, sightings_of(answers))

    def count(self, name: str, sightings: Sequence[Sighting]) -> None:
        """Counts what a guard found, in order."""
        with self._lock:
            monitor = self._monitor(name)
            events = [
                event
                for label, confidence, measures in sightings
                for event in monitor.observe(label, defenses=measures, confidence=confidence)
            ]
        for event in events:
            self._tell(name, event)

    def states(self) -> list[dict[str, Any]]:
        """Each name's level, how many images it has seen, and the labels and the suspected share of its window."""
        with self._lock:
            return [
                {
                    "model": name,
                    "level": monitor.level,
                    "seen": monitor.seen,
                    "window": monitor.window,
                    "suspected": monitor.share,
                    "counts": monitor.counts,
                }
                for name, monitor in self._monitors.items()
            ]

    def _monitor(self, name: str) -> TrafficMonitor:
        if name not in self._monitors:
            self._monitors[name] = TrafficMonitor(window=self._window, minimum=min(20, self._window), fixed=self._fixed)
        return self._monitors[name]


class Alarms:
    """Logs when a level is raised or lowered, and posts the same JSON to a webhook, on a thread of its own.

    A webhook that is slow or away costs no answer: at most 100 alarms wait for it, later ones are in the log alone.
    """

    def __init__(self, webhook: str | None) -> None:
        self._webhook = webhook
        self._waiting: queue.Queue[bytes | None] = queue.Queue(100)
        self._thread = threading.Thread(target=self._post, name="loradar-alarms", daemon=True)
        self._thread.start()

    def tell(self, name: str, event: Event) -> None:
        """Takes an event of a model's traffic; images that were defended are no alarms."""
        if event.kind == "defended":
            return
        content = {"event": "alarm", "model": name, **dataclasses.asdict(event)}
        _LOG.warning("%s: %s", event.kind, event.reason, extra={"fields": content})
        if self._webhook is not None:
            try:
                self._waiting.put_nowait(json.dumps(content).encode())
            except queue.Full:
                _LOG.error("the webhook does not keep up; an alarm is in this log alone")

    def close(self) -> None:
        """Posts what waits, for a few seconds at most."""
        try:
            self._waiting.put(None, timeout=_SECONDS)
        except queue.Full:
            return
        self._thread.join(_SECONDS)

    def _post(self) -> None:
        while (content := self._waiting.get()) is not None:
            request = urllib.request.Request(
                str(self._webhook), content, {"Content-Type": "application/json"}, method="POST"
            )
            try:
                with urllib.request.urlopen(request, timeout=_SECONDS):
                    pass
            except Exception as error:  # whatever is wrong with it, the next alarm is tried
                _LOG.error("the webhook did not take an alarm: %s", type(error).__name__)
