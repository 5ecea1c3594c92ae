"""Folds of a support, which heads are made without and then answer, and the scale at which answers are probabilities."""

import torch
import torch.nn.functional as F
from torch import Tensor

from loradar.core.types import Labels, Logits

MOST_FOLDS = 10
TEMPERATURES = tuple(2 ** (step / 2) for step in range(-4, 24))
"""What logits may be multiplied with where they are brought to a common scale, from 1/4 to 2896."""


def folds_of(labels: Labels) -> Tensor:
    """Returns the fold of each image of a support, by labels (n,): the first of every class, the second of every class, ...

    To leave one image alone out would leave its class smaller than the others, which a head then prefers. There are at most
    `MOST_FOLDS`; where a class has one image there are none to leave out (see `can_be_left_out`).

    >>> folds_of(torch.tensor([0, 0, 1, 1, 1])).tolist()
    [0, 1, 0, 1, 2]
    """
    counts = torch.bincount(labels)
    count = min(MOST_FOLDS, int(counts.max()))
    folds = torch.empty_like(labels)
    for label in torch.unique(labels):
        rows = labels == label
        folds[rows] = torch.arange(int(rows.sum()), device=labels.device) % count
    return folds


def can_be_left_out(labels: Labels, way: int) -> bool:
    """Whether every class has a second image to know it by."""
    return int(torch.bincount(labels, minlength=way).min()) > 1


@torch.no_grad()
def calibrated(logits: Logits, labels: Labels) -> tuple[float, float]:
    """Returns what to multiply `logits` (n, way) with for the least cross-entropy, and that cross-entropy.

    Guo et al., "On Calibration of Modern Neural Networks", 2017, section 4.2. Where all n answers are right, the next may
    still be wrong with a probability of 1 / (n + 2) (the rule of succession): labels are smoothed by as much, so that no
    scale is without bound.
    """
    smoothing = 1 / (len(labels) + 2)
    losses = [
        (float(F.cross_entropy(logits.double() * scale, labels, label_smoothing=smoothing)), scale)
        for scale in TEMPERATURES
    ]
    loss, scale = min(losses)
    return scale, loss
