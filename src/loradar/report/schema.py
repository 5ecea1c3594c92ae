"""The report of every job: measured rows, what they need to be believed, and optional sections."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from loradar.core.errors import BadConfigError
from loradar.evaluation.leak import LabelLeakResult
from loradar.evaluation.masking_checks import Check
from loradar.evaluation.measure import AccuracyResult
from loradar.evaluation.pictures import Picture
from loradar.evaluation.worst_case import BatteryResult
from loradar.report.few_shot import FewShotSection
from loradar.report.guards import GuardSection
from loradar.report.sweeps import SweepSection

BASE = "base"
"""The `model` of the rows that measure the unmodified base; other models are compared with it."""


@dataclass(frozen=True, kw_only=True)
class Point:
    """One epoch of training: the mean loss (None where it was not finite), and right answers on the validation split.

    `clean` and `adversarial` count right answers of `total` validation images; None where they were not measured.
    """

    epoch: int
    loss: float | None = None
    clean: int | None = None
    adversarial: int | None = None
    total: int | None = None

    def __post_init__(self) -> None:
        counts = [count for count in (self.clean, self.adversarial) if count is not None]
        if counts and (self.total is None or not 0 <= min(counts) <= max(counts) <= self.total or self.total == 0):
            raise BadConfigError(f"epoch {self.epoch} counts {counts} right of {self.total}; expected none above it")


@dataclass(frozen=True, kw_only=True)
class Curve:
    """How one model trained, which epoch was selected, and by what (a criterion on the validation split)."""

    model: str
    points: tuple[Point, ...]
    selected: int
    criterion: str


@dataclass(frozen=True, kw_only=True)
class Size:
    """What a model costs on disk and in parameters; for an adapter, its own only."""

    model: str
    bytes: int
    parameters: int


@dataclass(frozen=True, kw_only=True)
class ReloadCheck:
    """An adapter saved, loaded and plugged again, beside itself as it was in memory, on `total` images.

    `differing` answers differ, and the logits by at most `largest`: 0 and 0.0 where nothing was lost on the way.
    """

    model: str
    differing: int
    largest: float
    total: int


@dataclass(frozen=True, kw_only=True)
class Training:
    """How the adapters were trained. `last_epoch` holds figures of the last epoch; the report's rows are the selected one's."""

    curves: tuple[Curve, ...] = ()
    reload_checks: tuple[ReloadCheck, ...] = ()
    last_epoch: tuple[AccuracyResult, ...] = ()


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


@dataclass(frozen=True, kw_only=True)
class Report:
    """Figures and what they need. `base`, `data`, `versions` and `settings` hold JSON values; sections may be missing.

    `created` is a date in ISO form, UTC; "" where it is not known. `baselines` names models (the `model` of their rows)
    that were measured for comparison only. `base` may hold "num_classes", from which chance is 1 / classes.
    """

    rows: tuple[AccuracyResult, ...]
    base: Mapping[str, Any]
    data: Mapping[str, Any]
    versions: Mapping[str, Any]
    title: str = "Robustness report"
    created: str = field(default_factory=_now)
    settings: Mapping[str, Any] = field(default_factory=dict)
    baselines: tuple[str, ...] = ()
    checks: tuple[Check, ...] = ()
    batteries: tuple[BatteryResult, ...] = ()
    leaks: tuple[LabelLeakResult, ...] = ()
    sizes: tuple[Size, ...] = ()
    pictures: tuple[Picture, ...] = ()
    training: Training | None = None
    guard: GuardSection | None = None
    few_shot: FewShotSection | None = None
    sweep: SweepSection | None = None
    notes: tuple[str, ...] = ()
