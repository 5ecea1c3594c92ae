"""Counts suspected images in a stream and sets the level of alarm, with reasons."""

from collections import Counter, deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal, TypeAlias

from loradar.core.errors import BadConfigError
from loradar.guard.policy import CLEAN, Level

Kind: TypeAlias = Literal["raised", "lowered", "defended"]


@dataclass(frozen=True, kw_only=True)
class Event:
    """One decision and its reason. `image` counts from 0; `counts` are the labels in the window at that moment."""

    kind: Kind
    image: int
    level: Level
    reason: str
    counts: dict[str, int]
    defenses: tuple[str, ...] = ()


@dataclass(kw_only=True)
class TrafficMonitor:
    """Counts the labels of the last `window` images. It keeps state: use one per stream, and none across threads.

    The level is raised when the suspected share reaches `raise_at`, and lowered when it falls to `lower_at`, a smaller
    share (hysteresis). Nothing is decided before `minimum` images. `fixed` holds the level whatever the traffic.
    """

    window: int = 200
    raise_at: float = 0.2
    lower_at: float = 0.05
    minimum: int = 20
    fixed: Level | None = None
    seen: int = field(default=0, init=False)
    level: Level = field(default="calm", init=False)
    _labels: deque[str] = field(init=False, repr=False)

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
        self._labels = deque(maxlen=self.window)

    @property
    def counts(self) -> dict[str, int]:
        """The labels in the window, the most frequent first."""
        return dict(Counter(self._labels).most_common())

    @property
    def share(self) -> float:
        """The share of the window that is not clean; 0 for an empty window."""
        suspected = sum(label != CLEAN for label in self._labels)
        return suspected / len(self._labels) if self._labels else 0.0

    def observe(self, label: str, *, defenses: Sequence[str] = (), confidence: float = 1.0) -> list[Event]:
        """Records the label of one image and the defenses applied to it; returns the decisions that follow."""
        image, self.seen = self.seen, self.seen + 1
        self._labels.append(label)
        events = []
        if defenses:
            reason = f"identified as {label} with probability {confidence:.2f} at level {self.level}"
            events.append(self._event("defended", image, reason, tuple(defenses)))
        if self.fixed is None and len(self._labels) >= self.minimum:
            events += self._switch(image)
        return events

    def _switch(self, image: int) -> list[Event]:
        share, count = self.share, len(self._labels)
        reason = f"{share:.0%} of the last {count} images suspected"
        if self.level == "calm" and share >= self.raise_at:
            self.level = "raised"
            return [self._event("raised", image, f"{reason}, which reaches {self.raise_at:.0%}")]
        if self.level == "raised" and share <= self.lower_at:
            self.level = "calm"
            return [self._event("lowered", image, f"{reason}, which is down to {self.lower_at:.0%}")]
        return []

    def _event(self, kind: Kind, image: int, reason: str, defenses: tuple[str, ...] = ()) -> Event:
        return Event(kind=kind, image=image, level=self.level, reason=reason, counts=self.counts, defenses=defenses)
