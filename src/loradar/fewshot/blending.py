"""Which members of a pool suit a task, told by its support alone.

Yang et al., "Mixture of Adversarial LoRAs", 2024, section 3.3: a member is good where the support lies close to its own
class (compactness) and far from the others (separation).
"""

from dataclasses import dataclass
from typing import Literal, TypeAlias

import torch
from torch import Tensor

from loradar.core.errors import BadConfigError
from loradar.core.types import Labels
from loradar.fewshot.prototypes import cosine_logits, cosines, prototypes_of

Scoring: TypeAlias = Literal["compactness", "loss", "attacked"]
_TEMPERATURES = tuple(2 ** (step / 2) for step in range(24))
"""What cosines may be multiplied with, from 1 to 2896, where each member has its own."""


@dataclass(frozen=True, kw_only=True)
class Blending:
    """How scores become weights.

    `by` compactness and separation as in the paper, by the loss on the support, or by that on the support attacked through
    the member, each at the temperature that suits the member. `compactness` weighs closeness against separation, in [0, 1];
    `beta` is the beta of the exponential, `top` how many members share the weight.
    """

    by: Scoring = "compactness"
    compactness: float = 0.6
    beta: float = 1.0
    top: int = 2

    def __post_init__(self) -> None:
        if not 0 <= self.compactness <= 1 or not self.beta >= 0 or self.top < 1:
            raise BadConfigError(
                f"compactness {self.compactness}, sharpness {self.beta}, top {self.top}; expected a compactness in "
                "[0, 1], sharpness 0 or more, top 1 or more"
            )

    def score(self, features: Tensor, labels: Labels, prototypes: Tensor) -> float:
        """How well one member suits a task: compactness * C - (1 - compactness) * V; or the mean log-probability of the
        right class. Compact features need not tell classes apart, which is what the second asks for, and none of the clean
        ones says how they stand an attack, which is what the third is for: its `features` are those of attacked copies.

        `features` (n, d) are those of *augmented* support images under the member, `prototypes` (way, d) of the clean
        ones: with one shot an image is its own prototype, and C would be 1 for every member. Averages give each class
        the same say.
        """
        way = len(prototypes)
        if self.by == "loss":
            return _log_probability(cosine_logits(features, prototypes), labels, way)
        similar = cosines(features, prototypes)
        if self.by == "attacked":
            # robust features lie closer together: at one scale for all, members would be judged by that alone
            return max(_log_probability(t * similar, labels, way) for t in _TEMPERATURES)
        # a row for each class: the mean cosine of its images with every prototype
        by_class = prototypes_of(similar, labels, way)
        own = by_class.diagonal()
        others = (by_class.sum(1) - own) / (way - 1)
        return float(self.compactness * own.mean() - (1 - self.compactness) * others.mean())

    def weights(self, scores: Tensor) -> Tensor:
        """(P,) weights that sum to 1, 0 outside the `top` members of largest score; of scores (P,)."""
        scores = scores.double()
        # the same, once they sum to 1, as exp(-sharpness * (1 - score)), and it never underflows
        strength = torch.exp(self.beta * (scores - scores.max()))
        # by the score: with sharpness 0 all strengths are equal
        best = scores.argsort(descending=True, stable=True)[: self.top]
        kept = torch.zeros_like(strength)
        kept[best] = strength[best]
        return kept / kept.sum()


def _log_probability(logits: Tensor, labels: Labels, way: int) -> float:
    """Of the right class, averaged with the same say for each class."""
    return float(prototypes_of(logits.log_softmax(1), labels, way).diagonal().mean())
