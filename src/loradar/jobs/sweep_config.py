"""Settings of a sweep over those of harden. Imports neither torch nor Optuna, so that files of stages are checked at once."""

import importlib.util
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, get_args

from pydantic import Field, field_validator, model_validator
from pydantic_core import PydanticCustomError

from loradar.core.config import BASE, CACHE, DATA, Count, RunConfig, Settings, default_cache, shown, validate
from loradar.core.errors import BadConfigError
from loradar.jobs.config import HardenConfig

OWN = ("base", "data", "out", "cache", "device", "precision", "seed", "wait")
"""Settings of harden that a sweep gives itself."""
FIXED = (
    *OWN,
    *("size", "head", "train", "validation", "max_test_images", "attacks", "attack_target"),
    *("transfer_attacks", "adaptive_attacks", "adaptive", "effort", "max_adaptive_images"),
    *("baselines", "full", "full_learning_rate", "literal", "tensorboard"),
)
"""Settings that no search may change: what scores are counted on must be the same, and the rest trains no adapter."""
_MOST_TRIALS = 10_000
_RANDOM_TRIALS = 16


class Range(Settings):
    """Numbers from `low` to `high`, both among them, drawn evenly or, with `log`, evenly in their logarithm."""

    low: int | float = Field(..., description="The lowest number to try.")
    high: int | float = Field(..., description="The highest number to try.")
    log: bool = Field(False, description="Draw evenly in the logarithm.")

    @model_validator(mode="after")
    def _check_order(self) -> "Range":
        if not self.low < self.high:
            raise PydanticCustomError("order", f"low is {self.low:g} and high {self.high:g}; expected low below high")
        if self.log and self.low <= 0:
            raise PydanticCustomError("log", f"low is {self.low:g}; expected more than 0 where log is true")
        return self

    def is_whole(self, name: str) -> bool:
        """Whether only whole numbers are drawn for the setting `name` of harden."""
        kind = HardenConfig.model_fields[name].annotation
        return isinstance(self.low, int) and isinstance(self.high, int) and float not in (kind, *get_args(kind))


class SweepConfig(RunConfig):
    """Trains one adapter many times with other settings of harden, and hardens with the best on validation images."""

    base: str = Field(..., description=BASE)
    data: str = Field("digits", description=DATA)
    out: Path = Field(Path("runs/sweep"), description="Folder for trials, the best one's hardening, and the report.")
    settings: dict[str, Any] = Field(
        ..., description="Settings of harden that all trials share; one attack among them."
    )
    search: dict[str, list[Any] | Range] = Field(
        ..., description="Settings of harden to try: a list of values, or {low: ..., high: ..., log: true}."
    )
    method: Literal["grid", "random"] = Field(
        "random", description="grid: every combination of the lists, in random order. random: draws."
    )
    trials: Count = Field(
        None, ge=1, le=_MOST_TRIALS, description="Trials at most. Default: 16 draws, or the whole grid."
    )
    early_stopping: bool = Field(
        True, description="Stop trials that are behind after a few epochs (successive halving)."
    )
    clean_weight: float = Field(
        0.5,
        ge=0,
        le=1,
        description="Weight of clean against attacked validation images in the score that compares trials.",
    )
    workers: int = Field(1, ge=1, exclude=True, description="Processes that may share the trials.")
    cache: Path = Field(default_factory=default_cache, description=CACHE)

    @field_validator("settings", "search", mode="before")
    @classmethod
    def _read_keys(cls, table: Any) -> Any:
        """Takes keys as command lines write them (`learning-rate`), too."""
        return {str(key).replace("-", "_"): value for key, value in table.items()} if isinstance(table, dict) else table

    @field_validator("search", mode="before")
    @classmethod
    def _read_ranges(cls, table: Any) -> Any:
        if not isinstance(table, dict):
            return table
        if not table:
            raise PydanticCustomError("empty", "expected a setting of harden with the values to try, at least")
        return {name: _read_choice(name, choice) for name, choice in table.items()}

    @model_validator(mode="after")
    def _check_all_values(self) -> "SweepConfig":
        if importlib.util.find_spec("optuna") is None:
            raise PydanticCustomError("optuna", 'sweeps need the package optuna: pip install "loradar[sweep]"')
        _refuse_keys(self.settings, OWN, "settings holds {}, which is a setting of the sweep itself")
        _refuse_keys(
            self.search,
            FIXED,
            "search holds {}, which trains no adapter or changes what scores count",
        )
        if both := next((name for name in self.search if name in self.settings), None):
            raise PydanticCustomError("both", f"{both} is in settings and in search; expected it in one of them")
        self._check_grid()
        for name, choice in self.search.items():
            for value in choice if isinstance(choice, list) else (choice.low, choice.high):
                self._check_trial({name: value})
        return self

    def _check_trial(self, changes: Mapping[str, Any]) -> None:
        try:
            attacks = self.hardening(changes).attacks
        except BadConfigError as error:
            raise PydanticCustomError("harden", "{line}", {"line": str(error)}) from error
        if len(attacks) != 1:
            text = f"a sweep trains against one attack and has {len(attacks)} ({', '.join(attacks)}); "
            raise PydanticCustomError(
                "attacks", "{line}", {"line": text + "expected settings with one, as in attacks: [pgd]"}
            )

    def _check_grid(self) -> None:
        if self.method == "random":
            return
        if ranges := [name for name, choice in self.search.items() if isinstance(choice, Range)]:
            text = f"search.{ranges[0]} is a range; expected a list of values for a grid, or method: random"
            raise PydanticCustomError("grid", "{line}", {"line": text})
        if self.grid_size > _MOST_TRIALS:
            raise PydanticCustomError(
                "grid",
                f"the grid has {self.grid_size:,} combinations; expected at most {_MOST_TRIALS:,}, or method: random",
            )

    @property
    def grid_size(self) -> int:
        """Combinations of the listed values."""
        return math.prod(len(choice) for choice in self.search.values() if isinstance(choice, list))

    @property
    def count(self) -> int:
        """How many trials there are."""
        if self.method == "grid":
            return min(self.trials or self.grid_size, self.grid_size)
        return self.trials or _RANDOM_TRIALS

    def hardening(self, changes: Mapping[str, Any], out: Path | None = None) -> HardenConfig:
        """The settings of harden with `changes`, for the folder `out`. Raises BadConfigError, one line of harden's own."""
        own = {name: getattr(self, name) for name in OWN}
        return validate(HardenConfig, {**self.settings, **changes, **own, "out": out or self.out})


def _read_choice(name: str, choice: Any) -> Any:
    if isinstance(choice, dict):
        try:
            return validate(Range, choice)
        except BadConfigError as error:
            raise PydanticCustomError("range", "search.{name}: {line}", {"name": name, "line": str(error)}) from error
    if isinstance(choice, Range):
        return choice
    if not isinstance(choice, list) or not choice:
        line = f"search.{name} is {shown(choice)}; expected a list of values, or a range (low, high, log)"
        raise PydanticCustomError("choice", "{line}", {"line": line})
    if twice := [value for index, value in enumerate(choice) if value in choice[:index]]:
        raise PydanticCustomError("twice", "{line}", {"line": f"search.{name} holds {shown(twice[0])} twice"})
    return choice


def _refuse_keys(given: Mapping[str, Any], refused: tuple[str, ...], words: str) -> None:
    if key := next((key for key in given if key in refused), None):
        raise PydanticCustomError("key", "{line}", {"line": words.format(repr(key))})
