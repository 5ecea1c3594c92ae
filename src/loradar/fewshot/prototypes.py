"""Nearest centroid: a class is the mean of its support features, an image belongs to the nearest by angle.

Snell et al., "Prototypical Networks", 2017, with the cosine and the scale of Hu et al., "Pushing the Limits of Simple
Pipelines for Few-Shot Learning" (PMF), 2022, section 3.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from loradar.core.errors import BadDataError
from loradar.core.types import Images, Labels, Logits

SCALE = 10.0
"""What cosines are multiplied with to be logits."""


def prototypes_of(features: Tensor, labels: Labels, way: int) -> Tensor:
    """(way, d): the mean of the raw features (n, d) of each class. Raises BadDataError for a class without one."""
    return means_of(features, shares_of(labels, way).to(features))


def means_of(features: Tensor, shares: Tensor) -> Tensor:
    """(way, d): the mean of features (n, d) of each class, each image counting as much as its share (n, way) in it."""
    return shares.T @ features / shares.sum(0)[:, None]


def shares_of(labels: Labels, way: int) -> Tensor:
    """(n, way): 1 where an image is of a class, 0 elsewhere. Raises BadDataError for a class without an image."""
    counts = torch.bincount(labels, minlength=way)
    if not bool((counts > 0).all()):
        raise BadDataError(f"class {int((counts == 0).nonzero()[0])} of the task has no support image")
    return F.one_hot(labels, way)


def cosine_logits(features: Tensor, prototypes: Tensor, *, scale: float = SCALE, bias: float = 0.0) -> Logits:
    """(n, way): scale * (cosine + bias) of features (n, d) and prototypes (way, d); the answer is the largest."""
    return scale * (cosines(features, prototypes) + bias)


def cosines(features: Tensor, prototypes: Tensor) -> Tensor:
    """(n, way) of features (n, d) and prototypes (way, d)."""
    return F.normalize(features, dim=1) @ F.normalize(prototypes, dim=1).T


class MeanLogits(nn.Module):
    """Several classifiers of one task, whose logits are averaged."""

    def __init__(self, classifiers: list[nn.Module]) -> None:
        super().__init__()
        self.classifiers = nn.ModuleList(classifiers)

    def forward(self, x: Images) -> Logits:
        return torch.stack([classifier(x) for classifier in self.classifiers]).mean(0)
