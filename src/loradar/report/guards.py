"""The guard's section of a report: what answers, false alarms, detection, names, reliability, cost, examples."""

import base64
import io
from collections.abc import Mapping
from dataclasses import dataclass, field

from PIL import Image, ImageDraw
from torch import Tensor

from loradar.core.errors import BadConfigError
from loradar.evaluation.intervals import wilson
from loradar.evaluation.pictures import LARGEST, png

CONFIDENT = 0.9
"""The probability from which a name counts as given with confidence."""


@dataclass(frozen=True, kw_only=True)
class Identification:
    """The identifier's confusion matrix, and its figures.

    `confusion[i][j]` counts images of `labels[i]` that were named `labels[j]`. The last row ("unknown") holds threats that
    the identifier was not fitted on: `unfitted` counts each of them by the name given, `sure` those that got a threat's name
    with a probability of CONFIDENT or more. `fpr95` is the false-positive rate on clean images at a true-positive rate of
    95 %. `auroc` is of each threat against clean images. `calibration_error` is the expected calibration error of the names.
    """

    labels: tuple[str, ...]
    confusion: tuple[tuple[int, ...], ...]
    fpr95: float
    auroc: Mapping[str, float]
    calibration_error: float
    unfitted: Mapping[str, Mapping[str, int]] = field(default_factory=dict)
    sure: Mapping[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if len(self.confusion) != len(self.labels) or any(len(row) != len(self.labels) for row in self.confusion):
            raise BadConfigError(f"the confusion of {len(self.labels)} labels is not square; expected one row for each")
        if set(self.sure) != set(self.unfitted):
            raise BadConfigError(
                "sure and unfitted are about other threats; expected a count in sure for each unfitted one"
            )

    @property
    def right(self) -> tuple[int, int]:
        """Images of the known labels that were named rightly, and how many there were."""
        known = range(len(self.labels) - 1)
        return sum(self.confusion[i][i] for i in known), sum(sum(self.confusion[i]) for i in known)

    @property
    def alarms(self) -> tuple[int, int]:
        """Clean images that were named anything else, and how many there were."""
        return sum(self.confusion[0]) - self.confusion[0][0], sum(self.confusion[0])

    @property
    def unnamed(self) -> tuple[int, int]:
        """Images of unfitted threats named clean or unknown, and how many there were."""
        counts = list(self.unfitted.values())
        last = self.labels[-1]
        return sum(c.get(last, 0) + c.get(self.labels[0], 0) for c in counts), sum(sum(c.values()) for c in counts)

    @property
    def doubted(self) -> tuple[int, int]:
        """Images of unfitted threats that got no threat's name with confidence, and how many there were."""
        _, count = self.unnamed
        return count - sum(self.sure.values()), count


@dataclass(frozen=True, kw_only=True)
class Reliability:
    """A reliability diagram: answers by confidence. `error` is the expected calibration error."""

    model: str
    counts: tuple[int, ...]
    confidences: tuple[float, ...]
    rights: tuple[int, ...]
    error: float


@dataclass(frozen=True, kw_only=True)
class CostPoint:
    """Right answers of `total` at `passes` forward passes of the base per image."""

    label: str
    passes: float
    correct: int
    total: int


@dataclass(frozen=True, kw_only=True)
class Cost:
    """Forward passes of the base per image, by kind of traffic; and how accuracy goes with them on the mixture."""

    forwards_per_image: Mapping[str, float]
    points: tuple[CostPoint, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Alarms:
    """Benign images of one kind, and how many of them were named anything but clean. `fitted`: calibrated on this kind."""

    kind: str
    alarms: int
    total: int
    fitted: bool

    @property
    def interval(self) -> tuple[float, float]:
        """The 95 % Wilson interval of the share."""
        return wilson(self.alarms, self.total)


@dataclass(frozen=True, kw_only=True)
class Detection:
    """Images under one attack on the base: how many were named anything but clean, and how many did harm.

    `harmful` were named clean and answered wrongly. `known`: the guard names this attack; `fitted`: calibrated on it.
    """

    attack: str
    detected: int
    harmful: int
    total: int
    known: bool
    fitted: bool

    @property
    def interval(self) -> tuple[float, float]:
        """The 95 % Wilson interval of the share that is detected."""
        return wilson(self.detected, self.total)


@dataclass(frozen=True, kw_only=True)
class Kept:
    """Images of `total` that a candidate answers rightly clean and under every attack on itself that was tried.

    Where `bound` is set, attacks were stopped when it could not win any more: it keeps `right` at most.
    """

    right: int
    total: int
    bound: bool = False

    def __str__(self) -> str:
        low, high = wilson(self.right, self.total)
        most = "at most " if self.bound else ""
        return f"{most}{self.right} of {self.total} images ({100 * low:.0f}-{100 * high:.0f} %)"


@dataclass(frozen=True, kw_only=True)
class Choice:
    """What was chosen to answer, and what each candidate kept. `answered_by` is "" where a fusion rule won."""

    answered_by: str
    fusion: str
    kept: Mapping[str, Kept]
    reason: str


@dataclass(frozen=True, kw_only=True)
class Suspect:
    """One image and the guard's verdict on it, a PNG in base64, with the suspected rectangle drawn if there is one."""

    image: str
    done: str
    named: str
    probability: float
    label: str
    answer: str

    @classmethod
    def of(
        cls,
        x: Tensor,
        *,
        rectangle: tuple[int, int, int, int] | None,
        done: str,
        named: str,
        probability: float,
        label: str,
        answer: str,
    ) -> "Suspect":
        """From one image (channels, height, width); `rectangle` is (row, column, height, width) in pixels."""
        shown = Image.open(io.BytesIO(base64.b64decode(png(x)))).convert("RGB")
        scale = max(1, LARGEST // max(shown.size))
        shown = shown.resize((shown.width * scale, shown.height * scale), Image.Resampling.NEAREST)
        if rectangle is not None:
            row, column, height, width = rectangle
            corners = (column * scale, row * scale, (column + width) * scale - 1, (row + height) * scale - 1)
            ImageDraw.Draw(shown).rectangle(corners, outline=(255, 0, 255), width=max(1, scale // 2))
        file = io.BytesIO()
        shown.save(file, format="PNG", optimize=True)
        drawn = base64.b64encode(file.getvalue()).decode("ascii")
        return cls(image=drawn, done=done, named=named, probability=probability, label=label, answer=answer)


@dataclass(frozen=True, kw_only=True)
class GuardSection:
    """What a guard's audit adds to the rows. `max_fpr` is the share of false alarms that was asked for, on every kind."""

    identification: Identification
    cost: Cost
    max_fpr: float | None = None
    alarms: tuple[Alarms, ...] = ()
    detections: tuple[Detection, ...] = ()
    choice: Choice | None = None
    reliabilities: tuple[Reliability, ...] = ()
    suspects: tuple[Suspect, ...] = ()
