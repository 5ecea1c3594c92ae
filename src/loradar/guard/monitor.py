"""Traffic watched: how many of the last images were suspected, and the level of alarm that follows, with its reasons."""

from collections import Counter, deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal, TypeAlias

from loradar.core.errors import BadConfigError
from loradar.guard.policy import CLEAN, Level

Kind: TypeAlias = Literal["raised", "lowered", "measures"]


@dataclass(frozen=True, kw_only=True)
class Event:
    """One decision and why. `image` counts all images seen from 0; `counts` are the names in the window at that moment."""

    kind: Kind
    image: int
    level: Level
    reason: str
    counts: dict[str, int]
    defenses: tuple[str, ...] = ()


@dataclass(kw_only=True)
class TrafficMonitor:
    """Counts the names of the last `window` images. One per stream: it remembers, so threads do not share one.

    The level is raised when the suspected share reaches `raise_at` and lowered again when it falls to `lower_at`, which
    lies below (hysteresis: a share that wavers around one bound does not switch the level to and fro). Before `minimum`
    images nothing is decided. `fixed` holds the level whatever is seen.
    """

    window: int = 200
    raise_at: float = 0.2
    lower_at: float = 0.05
    minimum: int = 20
    fixed: Level | None = None
    seen: int = field(default=0, init=False)
    level: Level = field(default="calm", init=False)
    _names: deque[str] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        if not 0 <= self.lower_at < self.raise_at <= 1:
            raise BadConfigError(
                f"lower_at is {self.lower_at} and raise_at {self.raise_at}; expected 0 <= lower_at < raise_at <= 1"
            )
        if not 1 <= self.minimum <= self.window:
            raise BadConfigError(
                f"minimum is {self.minimum} and window {self.window}; expected 1 <= minimum <= window, in images"
            )
        self.level = self.fixed or "calm"
        self._names = deque(maxlen=self.window)

    @property
    def counts(self) -> dict[str, int]:
        """The names in the window, the most frequent first."""
        return dict(Counter(self._names).most_common())

    @property
    def share(self) -> float:
        """The share of the window that was not named clean; 0 for an empty one."""
        suspected = sum(name != CLEAN for name in self._names)
        return suspected / len(self._names) if self._names else 0.0

    def observe(self, name: str, *, defenses: Sequence[str] = (), confidence: float = 1.0) -> list[Event]:
        """Takes note of one image's name and of what was done to it; returns what was decided, with reasons."""
        image, self.seen = self.seen, self.seen + 1
        self._names.append(name)
        events = []
        if defenses:
            reason = f"named {name} with probability {confidence:.2f} at level {self.level}"
            events.append(self._event("measures", image, reason, tuple(defenses)))
        if self.fixed is None and len(self._names) >= self.minimum:
            events += self._switch(image)
        return events

    def _switch(self, image: int) -> list[Event]:
        share, count = self.share, len(self._names)
        told = f"{share:.0%} of the last {count} images suspected"
        if self.level == "calm" and share >= self.raise_at:
            self.level = "raised"
            return [self._event("raised", image, f"{told}, which reaches {self.raise_at:.0%}")]
        if self.level == "raised" and share <= self.lower_at:
            self.level = "calm"
            return [self._event("lowered", image, f"{told}, which is down to {self.lower_at:.0%}")]
        return []

    def _event(self, kind: Kind, image: int, reason: str, defenses: tuple[str, ...] = ()) -> Event:
        return Event(kind=kind, image=image, level=self.level, reason=reason, counts=self.counts, defenses=defenses)
