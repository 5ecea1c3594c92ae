"""What turns a task's features into answers, made of its support in closed form: nearest centroid, or ridge regression."""

from dataclasses import dataclass
from functools import partial
from typing import Literal, TypeAlias

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from loradar.core.errors import BadConfigError
from loradar.core.modules import Wrapper
from loradar.core.types import Images, Labels, Logits
from loradar.fewshot.prototypes import SCALE, cosine_logits, means_of, shares_of
from loradar.fewshot.transduction import Transduction, TransductiveHead

HeadKind: TypeAlias = Literal["centroid", "ridge"]


@dataclass(frozen=True, kw_only=True)
class HeadConfig:
    """How a head is made of a support. `penalty` is that of ridge, as a share of the mean square length of the unit features
    about their mean; `last`, if any, so many of the last features are read and the others ignored; with a `transduction`
    all queries are answered at once.
    """

    kind: HeadKind = "centroid"
    penalty: float = 1.0
    last: int | None = None
    transduction: Transduction | None = None

    def __post_init__(self) -> None:
        if not self.penalty > 0:
            raise BadConfigError(f"penalty is {self.penalty}; expected a number above 0")

    def __call__(self, features: Tensor, labels: Labels, way: int) -> nn.Module:
        """The head of a task: a module from features (m, d) to logits (m, way). `features` (n, d) are the support's.

        Raises BadDataError for a class without an image.
        """
        if self.last is not None:
            features = features[:, -self.last :]
        shares = shares_of(labels, way).to(features)
        make = partial(self._made, shares.mean(0))
        if self.transduction is not None:
            head: nn.Module = TransductiveHead(make, features, shares, self.transduction)
        else:
            head = make(features, shares, features.new_ones(len(features)))
        return head if self.last is None else nn.Sequential(Last(self.last), head)

    def _made(self, frequencies: Tensor, features: Tensor, shares: Tensor, weights: Tensor) -> nn.Module:
        if self.kind == "ridge":
            return Ridge(ridge(features, shares - frequencies, weights, penalty=self.penalty))
        return Centroids(means_of(features, shares * weights[:, None]))


CENTROID = HeadConfig()
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


def ridge(features: Tensor, targets: Tensor, weights: Tensor, *, penalty: float = 1.0) -> Tensor:
    """Weight (way, d) of the regression from features (n, d), each of length 1, to `targets` (n, way), times `SCALE`; image i
    counts `weights` (n,) times. Targets are the shares of the classes less how frequent each is in the support: the regression
    has no intercept, and would fit the frequencies along what all features have in common.

    Solved in the n x n form of Bertinetto et al., "Meta-learning with differentiable closed-form solvers" (R2-D2), 2019,
    section 3.2. Length 1 is ours: how long features are tells little of their class, and the answer is then that of a linear
    layer without bias, whatever the length. In float64: n may exceed d. Differentiable in features and targets.
    """
    exact, counts = F.normalize(features.double(), dim=1), weights.double()[:, None]
    mean = (counts * exact).sum(0) / counts.sum()
    spread = (counts * (exact - mean).square()).sum() / counts.sum()
    # a support of equal images has nothing to learn from: any penalty above 0 then gives zero weights
    strength = (penalty * spread).clamp_min(1e-6)
    rows = counts.sqrt() * exact
    gram = rows @ rows.T
    penalised = gram + strength * torch.eye(len(gram), dtype=gram.dtype, device=gram.device)
    solved = torch.linalg.solve(penalised, counts.sqrt() * targets.double())
    weight: Tensor = SCALE * solved.T @ rows
    return weight.to(features)


class TaskClassifier(Wrapper):
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
