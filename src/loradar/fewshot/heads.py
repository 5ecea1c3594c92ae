"""What turns a task's features into answers, made of its support in closed form: nearest centroid, or ridge regression."""

from dataclasses import dataclass
from typing import Literal, TypeAlias

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from loradar.core.errors import BadConfigError
from loradar.core.types import Images, Labels, Logits
from loradar.fewshot.prototypes import SCALE, cosine_logits, prototypes_of

HeadKind: TypeAlias = Literal["centroid", "ridge"]


@dataclass(frozen=True, kw_only=True)
class HeadRule:
    """How a head is made of a support. `penalty` is that of ridge, as a share of the mean square length of the unit features
    about their mean; `last`, if any, so many of the last features are read and the others ignored.
    """

    kind: HeadKind = "centroid"
    penalty: float = 1.0
    last: int | None = None

    def __post_init__(self) -> None:
        if not self.penalty > 0:
            raise BadConfigError(f"penalty is {self.penalty}; expected a number above 0")

    def __call__(self, features: Tensor, labels: Labels, way: int) -> nn.Module:
        """The head of a task: a module from features (m, d) to logits (m, way). `features` (n, d) are the support's.

        Raises BadDataError for a class without an image.
        """
        if self.last is not None:
            features = features[:, -self.last :]
        prototypes = prototypes_of(features, labels, way)
        head: nn.Module = Centroids(prototypes)
        if self.kind == "ridge":
            head = Ridge(ridge(features, labels, way, penalty=self.penalty))
        return head if self.last is None else nn.Sequential(Last(self.last), head)


CENTROID = HeadRule()
"""Nearest centroid of all features, as in the paper."""


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


class Last(nn.Module):
    """The last `count` of the features (n, d): of a base that shows several stages, those of its last one."""

    def __init__(self, count: int) -> None:
        super().__init__()
        self.count = count

    def forward(self, features: Tensor) -> Tensor:
        return features[:, -self.count :]


def ridge(features: Tensor, labels: Labels, way: int, *, penalty: float = 1.0) -> Tensor:
    """Weight (way, d) of the regression from features (n, d), each of length 1, to one-hot labels less their mean, times
    `SCALE`.

    Solved in the n x n form of Bertinetto et al., "Meta-learning with differentiable closed-form solvers" (R2-D2), 2019,
    section 3.2. Length 1 is ours: how long features are tells little of their class, and the answer is then that of a linear
    layer without bias, whatever the length. The regression is in float64: n may exceed d. Differentiable in the features.
    """
    exact = F.normalize(features.double(), dim=1)
    spread = (exact - exact.mean(0)).square().sum(1).mean()
    # a support of equal images has nothing to learn from: any penalty above 0 then gives zero weights
    strength = (penalty * spread).clamp_min(1e-6)
    gram = exact @ exact.T
    targets = F.one_hot(labels, way).double() - 1 / way
    solved = torch.linalg.solve(gram + strength * torch.eye(len(gram), dtype=gram.dtype, device=gram.device), targets)
    weight: Tensor = SCALE * solved.T @ exact
    return weight.to(features)


class TaskClassifier(nn.Module):
    """A classifier of one task: `wrapped` maps images to features, `head` those to logits.

    Differentiable in the images, so that it can be attacked.
    """

    def __init__(self, wrapped: nn.Module, head: nn.Module) -> None:
        super().__init__()
        self.wrapped = wrapped
        self.head = head

    def forward(self, x: Images) -> Logits:
        logits: Logits = self.head(self.wrapped(x).float())
        return logits
