"""A frozen set of figures with everything they need to be believed."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

from loradar.core.errors import BadConfigError
from loradar.evaluation.leak import LabelLeakResult
from loradar.evaluation.masking_checks import Check
from loradar.evaluation.measure import AccuracyResult
from loradar.evaluation.pictures import Picture
from loradar.report.files import from_text, read, to_text
from loradar.report.guards import Cost, Identification, Reliability, Suspect


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
    """What a model costs on disk and in parameters; for an adapter, its own only. `model` is "base" for the base."""

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
class Report:
    """Figures and what they need. `base`, `data`, `versions` and `settings` hold JSON values; the rest may be empty.

    `rows` measure the selected epoch of an adapter; `last_epoch` holds the same figures of its last one. From
    `identification` on it is about a guard; `notes` say how it was attacked.
    """

    rows: tuple[AccuracyResult, ...]
    base: Mapping[str, Any]
    data: Mapping[str, Any]
    versions: Mapping[str, Any]
    title: str = "Robustness report"
    settings: Mapping[str, Any] = field(default_factory=dict)
    checks: tuple[Check, ...] = ()
    leaks: tuple[LabelLeakResult, ...] = ()
    curves: tuple[Curve, ...] = ()
    sizes: tuple[Size, ...] = ()
    replugged: tuple[ReloadCheck, ...] = ()
    last_epoch: tuple[AccuracyResult, ...] = ()
    pictures: tuple[Picture, ...] = ()
    identification: Identification | None = None
    cost: Cost | None = None
    reliabilities: tuple[Reliability, ...] = ()
    suspects: tuple[Suspect, ...] = ()
    notes: tuple[str, ...] = ()


_FORM = TypeAdapter(Report)


def to_json(report: Report) -> str:
    """The fixed form, two spaces deep. Raises BadConfigError for a value that JSON cannot hold."""
    return to_text(_FORM, report, indent=2)


def from_json(text: str) -> Report:
    """The report of `to_json`, every count and type checked. Raises BadFileError with the first thing wrong."""
    return from_text(_FORM, text, "the report")


def read_report(path: Path | str) -> Report:
    """The report in a folder or a file. Raises BadFileError where there is none, or it is damaged."""
    return read(_FORM, path)
