"""What turns a task's features into answers, made of its support in closed form: nearest centroid, or ridge regression.

Nearest centroid: a class is the mean of its support features, an image belongs to the nearest by angle. Snell et al.,
"Prototypical Networks", 2017, with the cosine and the scale of Hu et al., "Pushing the Limits of Simple Pipelines for
Few-Shot Learning" (PMF), 2022, section 3.
"""

from dataclasses import dataclass
from functools import partial
from typing import Literal, TypeAlias, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from loradar.core.errors import BadConfigError, BadDataError, did_you_mean
from loradar.core.modules import Wrapper
from loradar.core.types import Images, Labels, Logits
from loradar.fewshot.chunks import in_chunks, memory_bound
from loradar.fewshot.folds import can_be_left_out
from loradar.fewshot.ridge import PENALTY, chosen_penalty, ridge
from loradar.fewshot.transduction import Transduction, TransductiveHead

HeadKind: TypeAlias = Literal["centroid", "ridge"]
SCALE = 10.0
"""What cosines are multiplied with to be logits."""


@dataclass(frozen=True, kw_only=True)
class HeadConfig:
    """How a head is made of a support.

    `penalty` is that of ridge, as a share of the mean square length of the unit features about their mean, or None for the one
    that answers folds of the support best; `last`, if any, so many of the last features are read and the others ignored; with a
    `transduction` all queries are answered at once.
    """

    kind: HeadKind = "centroid"
    penalty: float | None = None
    last: int | None = None
    transduction: Transduction | None = None

    def __post_init__(self) -> None:
        if self.kind not in get_args(HeadKind):
            raise BadConfigError(f"there is no head {self.kind!r}; {did_you_mean(str(self.kind), get_args(HeadKind))}")
        if self.penalty is not None and not self.penalty > 0:
            raise BadConfigError(f"penalty is {self.penalty}; expected a number above 0")

    def __call__(self, features: Tensor, labels: Labels, way: int) -> nn.Module:
        """The head of a task: a module from features (m, d) to logits (m, way). `features` (n, d) are the support's.

        Raises BadDataError for a class without an image.
        """
        if self.last is not None:
            features = features[:, -self.last :]
        shares = shares_of(labels, way).to(features)
        make = partial(self._made, shares.mean(0), self.penalty_for(features, labels, way))
        if self.transduction is not None:
            head: nn.Module = TransductiveHead(make, features, shares, self.transduction)
        else:
            head = make(features, shares, features.new_ones(len(features)))
        return head if self.last is None else nn.Sequential(Last(self.last), head)

    def penalty_for(self, features: Tensor, labels: Labels, way: int) -> float:
        """Returns the penalty that is set, or the one that suits a support: features (n, d), labels (n,)."""
        if self.penalty is not None:
            return self.penalty
        if self.kind != "ridge" or not can_be_left_out(labels, way):
            return PENALTY
        return chosen_penalty(features, labels, shares_of(labels, way).to(features))

    def _made(
        self, frequencies: Tensor, penalty: float, features: Tensor, shares: Tensor, weights: Tensor
    ) -> nn.Module:
        if self.kind == "ridge":
            return Ridge(SCALE * ridge(features, shares - frequencies, weights, penalty=penalty))
        return Centroids(means_of(features, shares * weights[:, None]))


CENTROID = HeadConfig()
"""Nearest centroid of all features, as in the paper."""


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


class Centroids(nn.Module):
    """The largest cosine with one of `prototypes` (way, d), times `SCALE`."""

    prototypes: Tensor

    def __init__(self, prototypes: Tensor) -> None:
        super().__init__()
        self.register_buffer("prototypes", prototypes)

    def forward(self, features: Tensor) -> Logits:
        return cosine_logits(features, self.prototypes)


class Ridge(nn.Module):
    """A linear map, `weight` (way, d), of features brought to length 1."""

    weight: Tensor

    def __init__(self, weight: Tensor) -> None:
        super().__init__()
        self.register_buffer("weight", weight)

    def forward(self, features: Tensor) -> Logits:
        return F.linear(F.normalize(features, dim=1), self.weight)


def unit_weight(head: nn.Module) -> Tensor:
    """Returns the weight (way, d) that gives the logits of `head`, centroids or ridge, from features of length 1."""
    if isinstance(head, Centroids):
        return SCALE * F.normalize(head.prototypes, dim=1)
    assert isinstance(head, Ridge), "the head of all features that answers one by one"
    return head.weight


def linear(weight: Tensor) -> nn.Linear:
    """Makes a layer of `weight` (way, d), without a bias and frozen."""
    layer = nn.Linear(weight.shape[1], len(weight), bias=False, device="meta")
    layer.weight = nn.Parameter(weight.detach().clone(), requires_grad=False)
    return layer


class Last(nn.Module):
    """The last `count` of the features (n, d): of a base that shows several stages, those of its last one."""

    def __init__(self, count: int) -> None:
        super().__init__()
        self.count = count

    def forward(self, features: Tensor) -> Tensor:
        return features[:, -self.count :]


class TaskClassifier(Wrapper):
    """A classifier of one task: `wrapped` maps images to features, `head` those to logits.

    Differentiable in the images, so that it can be attacked, in bounded memory however many they are.
    """

    def __init__(self, wrapped: nn.Module, head: nn.Module) -> None:
        super().__init__()
        self.wrapped = wrapped
        self.head = head

    @classmethod
    def of(cls, wrapped: nn.Module, head: HeadConfig, support: Images, labels: Labels, way: int) -> "TaskClassifier":
        """`wrapped` as it is now, under the head of a clean support."""
        with torch.no_grad():
            return cls(wrapped, head(in_chunks(wrapped, support).float(), labels, way))

    def forward(self, x: Images) -> Logits:
        logits: Logits = self.head(in_chunks(self.wrapped, x).float())
        return logits


class MeanLogits(nn.Module):
    """Several classifiers of one task, whose logits are averaged."""

    def __init__(self, classifiers: list[nn.Module]) -> None:
        super().__init__()
        self.classifiers = nn.ModuleList(classifiers)

    def forward(self, x: Images) -> Logits:
        with memory_bound(parts=len(self.classifiers)):
            return torch.stack([classifier(x) for classifier in self.classifiers]).mean(0)
