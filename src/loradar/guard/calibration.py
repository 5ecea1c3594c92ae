"""Calibration: a voter's temperature and reliability, bins of a reliability diagram, and thresholds with a known rate."""

import math
from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor

from loradar.core.checks import check_labels
from loradar.core.errors import BadConfigError
from loradar.core.types import Labels, Logits

_LOWEST, _HIGHEST = 0.05, 50.0
_ROUNDING = 1e-9
"""100 * 0.01 must count as 1, whatever the rounding."""


@dataclass(frozen=True, kw_only=True)
class Calibration:
    """One voter, fitted on `total` calibration images of which it had `right`. Logits are divided by `temperature`."""

    temperature: float
    right: int
    total: int

    def __post_init__(self) -> None:
        if not 0 < self.temperature < math.inf or not 0 <= self.right <= self.total or self.total == 0:
            raise BadConfigError(
                f"temperature {self.temperature} and {self.right} right of {self.total}; expected a temperature above 0 "
                "and a share of at least one image"
            )

    @property
    def weight(self) -> float:
        """Log-odds of being right, at least 0; one image is added to either side, so that it is finite."""
        return max(0.0, math.log((self.right + 1) / (self.total - self.right + 1)))


def calibrate(logits: Logits, y: Labels) -> Calibration:
    """Fits a temperature by maximum likelihood (Guo et al., "On Calibration of Modern Neural Networks", 2017, 4.2).

    Raises BadImagesError where `y` does not go with the logits.
    """
    check_labels(y, count=len(logits), classes=logits.shape[1])
    from scipy.optimize import minimize_scalar  # here: it takes seconds to import

    values = logits.double()

    def loss(log_temperature: float) -> float:
        return float(F.cross_entropy(values / math.exp(log_temperature), y))

    minimum = minimize_scalar(loss, bounds=(math.log(_LOWEST), math.log(_HIGHEST)), method="bounded")
    right = int((logits.argmax(1) == y).sum())
    return Calibration(temperature=math.exp(float(minimum.x)), right=right, total=len(y))


@dataclass(frozen=True, kw_only=True)
class Bins:
    """A reliability diagram: per bin of confidence, how many answers, their mean confidence, and how many are right."""

    counts: tuple[int, ...]
    confidences: tuple[float, ...]
    rights: tuple[int, ...]

    @property
    def error(self) -> float:
        """Expected calibration error: the mean gap of confidence and share of right answers, weighted by counts."""
        gaps = zip(self.counts, self.confidences, self.rights, strict=True)
        return sum(abs(confidence * count - right) for count, confidence, right in gaps) / max(1, sum(self.counts))


def reliability(confidence: Tensor, right: Tensor, *, bins: int = 10) -> Bins:
    """Bins of equal width over [0, 1]; `confidence` (n,) and `right` (n,) bool. Empty bins are left out."""
    index = (confidence * bins).long().clamp(0, bins - 1)
    groups = [(index == i) for i in range(bins) if bool((index == i).any())]
    return Bins(
        counts=tuple(int(group.sum()) for group in groups),
        confidences=tuple(float(confidence[group].double().mean()) for group in groups),
        rights=tuple(int(right[group].sum()) for group in groups),
    )


def conformal_limit(scores: Tensor, rate: float, *, draws: int = 1) -> float:
    """Returns a threshold that one more score of the same kind exceeds with probability `rate` at most.

    `scores` (n * draws,) are of n exchangeable images, each drawn `draws` times. Of n alone it is the one that
    floor((n + 1) * rate) - 1 of them exceed, whatever their distribution; of several draws the share that exceeds it counts
    for each image (conformal risk control; Angelopoulos et al. 2022, arXiv 2208.02814, theorem 1). Infinite where
    `least_count` is not reached: no threshold that is read off so few keeps the rate.
    """
    count = len(scores) // draws
    above = math.floor(draws * ((count + 1) * rate - 1) + _ROUNDING)
    return math.inf if above < 0 else float(scores.double().sort(descending=True).values[min(above, len(scores) - 1)])


def least_count(rate: float) -> int:
    """Counts the images that `conformal_limit` needs to keep `rate`.

    >>> least_count(0.01), least_count(0.05)
    (99, 19)
    """
    return max(1, math.ceil(1 / rate - 1 - _ROUNDING))
