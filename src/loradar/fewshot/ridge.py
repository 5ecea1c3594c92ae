"""Ridge regression from features of length 1 to classes."""

import torch
import torch.nn.functional as F
from torch import Tensor

from loradar.core.types import Labels
from loradar.fewshot.folds import calibrated, folds_of

PENALTY = 1.0
"""Where there are no folds to choose one by."""
PENALTIES = (0.03, 0.1, 0.3, 1.0, 3.0, 10.0)


def ridge(features: Tensor, targets: Tensor, weights: Tensor, *, penalty: float) -> Tensor:
    """Weight (way, d) of the regression from features (n, d), each brought to length 1, to `targets` (n, way); image i counts
    `weights` (n,) times. Targets are the shares of the classes less how frequent each is in the support: the regression has
    no intercept, and would fit the frequencies along what all features have in common. `penalty` is a share of the mean
    square length of the unit features about their mean.

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
    weight: Tensor = solved.T @ rows
    return weight.to(features)


def class_weights(features: Tensor, shares: Tensor, *, penalty: float) -> Tensor:
    """Weight (way, d) of a support: features (n, d), shares (n, way) of each class in each image."""
    return ridge(features, shares - shares.mean(0), features.new_ones(len(features)), penalty=penalty)


@torch.no_grad()
def chosen_penalty(features: Tensor, labels: Labels, shares: Tensor) -> float:
    """Returns the penalty that answers the folds of a support best: features (n, d), labels (n,), shares (n, way).

    Best is most probable, at the scale that suits each penalty.
    """
    folds, unit = folds_of(labels), F.normalize(features, dim=1)
    losses = {}
    for penalty in PENALTIES:
        logits = torch.empty_like(shares)
        for fold in range(int(folds.max()) + 1):
            left = folds == fold
            logits[left] = unit[left] @ class_weights(features[~left], shares[~left], penalty=penalty).T
        losses[penalty] = calibrated(logits, labels)[1]
    return min(losses, key=lambda penalty: losses[penalty])
