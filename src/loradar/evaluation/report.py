"""A frozen set of figures with everything they need to be believed, and its form on disk.

`report.json` is `{"schema": 1, "rows": [...], "base": {...}, "data": {...}, "versions": {...}}` and those of the
optional sections that hold something; `report.md` and `report.html` say the same for people.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from pydantic import TypeAdapter, ValidationError
from pydantic_core import PydanticSerializationError

from loradar.core.errors import BadConfigError, BadFileError
from loradar.evaluation.guards import Cost, Identification, Reliability, Suspect
from loradar.evaluation.leak import Leak
from loradar.evaluation.measure import Row
from loradar.evaluation.pictures import Picture
from loradar.evaluation.sanity import Check

SCHEMA = 1


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
class Replugged:
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

    rows: tuple[Row, ...]
    base: Mapping[str, Any]
    data: Mapping[str, Any]
    versions: Mapping[str, Any]
    title: str = "Robustness report"
    settings: Mapping[str, Any] = field(default_factory=dict)
    checks: tuple[Check, ...] = ()
    leaks: tuple[Leak, ...] = ()
    curves: tuple[Curve, ...] = ()
    sizes: tuple[Size, ...] = ()
    replugged: tuple[Replugged, ...] = ()
    last_epoch: tuple[Row, ...] = ()
    pictures: tuple[Picture, ...] = ()
    identification: Identification | None = None
    cost: Cost | None = None
    reliabilities: tuple[Reliability, ...] = ()
    suspects: tuple[Suspect, ...] = ()
    notes: tuple[str, ...] = ()


_FORM = TypeAdapter(Report)


def to_json(report: Report) -> str:
    """The fixed form, two spaces deep. Raises BadConfigError for a value that JSON cannot hold."""
    try:
        values = json.loads(_FORM.dump_json(report))
    except PydanticSerializationError as error:
        raise BadConfigError(f"the report holds what JSON cannot: {error}; give plain numbers and text") from error
    fixed = {"schema": SCHEMA, **{key: values.pop(key) for key in ("rows", "base", "data", "versions")}}
    return json.dumps(fixed | {key: value for key, value in values.items() if value}, indent=2) + "\n"


def from_json(text: str) -> Report:
    """The report of `to_json`, every count and type checked. Raises BadFileError with the first thing wrong."""
    try:
        values = json.loads(text)
    except ValueError as error:
        raise BadFileError(f"the report is not JSON: {error}") from error
    if not isinstance(values, dict) or values.pop("schema", None) != SCHEMA:
        raise BadFileError(f"the report has another schema; this version reads {{'schema': {SCHEMA}, ...}}")
    try:
        return _FORM.validate_json(json.dumps(values))
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise BadFileError(f"the report is damaged at {where or 'its top'}: {first['msg']}") from error
