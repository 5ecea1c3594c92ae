"""The section of a report about a sweep: every trial, what was searched, and which trial is the best."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from loradar.core.errors import BadConfigError

_STATES = ("finished", "stopped", "failed")


@dataclass(frozen=True, kw_only=True)
class Searched:
    """A setting that was searched: the listed `values`, or numbers from `low` to `high`."""

    name: str
    values: tuple[Any, ...] = ()
    low: float | None = None
    high: float | None = None
    log: bool = False

    def __post_init__(self) -> None:
        if bool(self.values) == (self.low is not None and self.high is not None):
            raise BadConfigError(f"{self.name} has values and a range, or neither; expected one of them")

    @property
    def words(self) -> str:
        """The values in one line."""
        if self.values:
            return ", ".join(map(in_words, self.values))
        return f"{in_words(self.low)} to {in_words(self.high)}{', drawn evenly in the logarithm' if self.log else ''}"


@dataclass(frozen=True, kw_only=True)
class SweepTrial:
    """One training with the searched `settings`. `clean` and `adversarial` count right answers of `total` validation
    images after each epoch; `selected` is the epoch, from 1, that would be kept, and 0 where there is none.

    `planned` is how many epochs it would have had. `reason` says why a trial failed.
    """

    number: int
    settings: Mapping[str, Any]
    state: Literal["finished", "stopped", "failed"]
    planned: int
    clean: tuple[int, ...]
    adversarial: tuple[int, ...]
    total: int
    selected: int
    seconds: float
    reason: str = ""

    def __post_init__(self) -> None:
        counts = (*self.clean, *self.adversarial)
        if len(self.clean) != len(self.adversarial) or not 0 <= self.selected <= len(self.clean):
            raise BadConfigError(f"trial {self.number} has not one clean and one attacked count for each epoch")
        if counts and not 0 <= min(counts) <= max(counts) <= self.total:
            raise BadConfigError(
                f"trial {self.number} counts {max(counts)} right of {self.total}; expected none above it"
            )
        if (self.state == "failed") == bool(self.selected):
            raise BadConfigError(f"trial {self.number} is {self.state} and has selected epoch {self.selected}")


@dataclass(frozen=True, kw_only=True)
class SweepSection:
    """What a sweep tried. `best` is the number of the finished trial with the highest score.

    A score weighs clean validation images by `clean_weight` against attacked ones; it is a share of right answers.
    """

    trials: tuple[SweepTrial, ...]
    searched: tuple[Searched, ...]
    best: int
    attack: str
    method: Literal["grid", "random"]
    early_stopping: bool
    clean_weight: float
    seed: int

    def __post_init__(self) -> None:
        if self.best not in {trial.number for trial in self.trials if trial.state == "finished"}:
            raise BadConfigError(f"the best trial is {self.best}; expected the number of a finished one")
        for trial in self.trials:
            if set(trial.settings) != {one.name for one in self.searched}:
                raise BadConfigError(f"trial {trial.number} has settings other than those searched")

    def scores(self, trial: SweepTrial) -> tuple[float, ...]:
        """The score of a trial after every epoch."""
        weight = self.clean_weight
        counts = zip(trial.clean, trial.adversarial, strict=True)
        return tuple((weight * clean + (1 - weight) * attacked) / trial.total for clean, attacked in counts)

    def score(self, trial: SweepTrial) -> float:
        """The score of the epoch that would be kept; 0 of a failed trial."""
        return self.scores(trial)[trial.selected - 1] if trial.selected else 0.0

    @property
    def ranked(self) -> tuple[SweepTrial, ...]:
        """The trials, the best first: finished ones, stopped ones by how far they came, failed ones."""

        def key(trial: SweepTrial) -> tuple[bool, int, int, float, int]:
            far = len(trial.clean) if trial.state == "stopped" else 0
            return trial.number != self.best, _STATES.index(trial.state), -far, -self.score(trial), trial.number

        return tuple(sorted(self.trials, key=key))

    def count(self, state: str) -> int:
        """How many trials ended so."""
        return sum(trial.state == state for trial in self.trials)

    @property
    def sentence(self) -> str:
        """What was done, how the best trial was chosen, and what its score is worth."""
        way = "the grid in random order" if self.method == "grid" else "random draws"
        halving = ", with early stopping by successive halving" if self.early_stopping else ""
        counts = ", ".join(f"{self.count(state)} {state}" for state in _STATES if self.count(state))
        weight = self.clean_weight
        return (
            f"{len(self.trials)} trials against {self.attack} by {way}{halving}, seed {self.seed}: {counts}, "
            f"{self.seconds:.0f} s. A score is the share of right answers on {self.trials[0].total} validation images, clean "
            f"ones weighed by {weight:g} and attacked ones by {1 - weight:g}, at the epoch that the trial would keep. Trial "
            f"{self.best} is the best of those that were not stopped. The best score of many is partly luck, and so "
            "optimistic; the adapter's figures in this report are those of the reported images, which no choice saw."
        )

    @property
    def seconds(self) -> float:
        """Seconds that all trials took together."""
        return sum(trial.seconds for trial in self.trials)


def in_words(value: object) -> str:
    """Writes the value of a setting for a table.

    >>> in_words(0.00012345), in_words(["layer2", "layer3"]), in_words(None), in_words(8)
    ('0.000123', 'layer2 layer3', 'none', '8')
    """
    match value:
        case bool():
            return "on" if value else "off"
        case float():
            return f"{value:.3g}"
        case list() | tuple():
            return " ".join(map(in_words, value))
        case None:
            return "none"
    return str(value)
