"""The level of alarm of several replicas: one board counts the traffic of all, and each replica follows it without waiting."""

import logging
import threading
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

from loradar.guard.monitor import Event
from loradar.guard.policy import Level
from loradar.serve.models import Answer
from loradar.serve.traffic import Alarms, Sighting, TrafficBoard, sightings_of

_LOG = logging.getLogger("loradar.serve")
EVERY = 0.2
"""Seconds between two reports of a replica, and so the age of the level that it answers under, unless the board is away."""
_MOST = 10_000
"""Sightings that wait for the next report; the oldest go first."""
Sightings: TypeAlias = Mapping[str, Sequence[Sighting]]
States: TypeAlias = list[dict[str, Any]]
Told: TypeAlias = list[tuple[str, Event]]


@dataclass(frozen=True, kw_only=True)
class BoardSettings:
    """Settings of the board, by the command that was run at `since`, a moment of `time.time`: the latest ones hold."""

    since: float
    level: Level | None
    window: int
    webhook: str | None


class TrafficOfAll:
    """The board itself. It runs once for all replicas; it tells alarms, each once.

    It holds nothing that a report does not bring, so one that was started anew goes on with the traffic from then on.
    `begin` is called once, in its process.
    """

    def __init__(self, begin: Callable[[], None] = lambda: None) -> None:
        begin()
        self._settings: BoardSettings | None = None
        self._told: Told = []

    def report(self, settings: BoardSettings, sightings: Sightings) -> tuple[States, Told]:
        """Counts sightings by name; returns the states of all names, and the events that these sightings led to."""
        old = self._settings
        if old is None or settings.since > old.since:
            self._settings = settings
            if old is None or _of(old) != _of(settings):
                self._alarms = Alarms(settings.webhook)
                self._board = TrafficBoard(self._tell, fixed=settings.level, window=settings.window)
        for name, found in sightings.items():
            self._board.count(name, found)
        told, self._told = self._told, []
        return self._board.states(), told

    def _tell(self, name: str, event: Event) -> None:
        self._told.append((name, event))
        self._alarms.tell(name, event)


def _of(settings: BoardSettings) -> tuple[object, ...]:
    return settings.level, settings.window, settings.webhook


class FollowedBoard:
    """A replica's view of the board. A thread of its own reports and asks; who reads a level or adds answers never waits.

    While the board is away the last level that it said holds, and what it would have counted is lost. `tell` receives the
    events that this replica's answers led to, on that thread.
    """

    def __init__(
        self,
        report: Callable[[Sightings], tuple[States, Told]],
        tell: Callable[[str, Event], None],
        *,
        fixed: Level | None = None,
    ) -> None:
        self._report, self._tell, self._fixed = report, tell, fixed
        self._states: States = []
        self._waiting: deque[tuple[str, Sighting]] = deque(maxlen=_MOST)
        self._away = False
        self._closing = threading.Event()
        self._exchange()
        self._thread = threading.Thread(target=self._run, name="loradar-traffic", daemon=True)
        self._thread.start()

    def level(self, name: str) -> Level:
        """The level of alarm that the next answers of a name are found under, as of the last exchange."""
        levels: dict[str, Level] = {state["model"]: state["level"] for state in self._states}
        return levels.get(name, self._fixed or "calm")

    def observe(self, name: str, answers: Sequence[Answer]) -> None:
        """Notes answers of a guard for the next report."""
        self._waiting.extend((name, sighting) for sighting in sightings_of(answers))

    def states(self) -> States:
        """What `TrafficBoard.states` says of the traffic of all replicas, as of the last exchange."""
        return self._states

    def close(self) -> None:
        """Reports what is left, and ends."""
        self._closing.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._closing.wait(EVERY):
            self._exchange()
        self._exchange()

    def _exchange(self) -> None:
        sightings: dict[str, list[Sighting]] = {}
        for _ in range(len(self._waiting)):
            name, sighting = self._waiting.popleft()
            sightings.setdefault(name, []).append(sighting)
        try:
            self._states, told = self._report(sightings)
        except Exception as error:  # whatever is wrong with it, answers go on
            if not self._away:
                _LOG.warning(
                    "the traffic of all replicas is not counted: %s; their last level holds", type(error).__name__
                )
            self._away = True
            return
        if self._away:
            _LOG.warning("the traffic of all replicas is counted again")
        self._away = False
        for name, event in told:
            self._tell(name, event)
