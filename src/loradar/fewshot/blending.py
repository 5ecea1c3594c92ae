"""Which members of a pool suit a task, by its support alone, and how they are blended.

Yang et al., "Mixture of Adversarial LoRAs", 2024, section 3.3: a member is good where the support lies close to its own
class (compactness) and far from the others (separation).
"""

from dataclasses import dataclass
from typing import Literal, TypeAlias, get_args

import torch
from torch import Tensor, nn

from loradar.attacks import PGD, parse_attack
from loradar.core.errors import BadConfigError, did_you_mean
from loradar.core.types import Attack, Images, Labels
from loradar.fewshot.chunks import in_chunks
from loradar.fewshot.config import SUPPORT_ATTACK, BlendConfig
from loradar.fewshot.folds import TEMPERATURES
from loradar.fewshot.heads import (
    CENTROID,
    Centroids,
    HeadConfig,
    HeadKind,
    TaskClassifier,
    cosine_logits,
    cosines,
    prototypes_of,
)

Scoring: TypeAlias = Literal["held-out", "compactness", "loss", "attacked"]
SCORED_UNDER = PGD(eps=4 / 255, step_size=2 / 255, steps=2)
"""What the augmented support is attacked with where members are scored by it. Where it fools no member, the score says
nothing: small supports of easy tasks."""
HELD_OUT_UNDER = parse_attack(SUPPORT_ATTACK)
_AT_ONCE = 128


@dataclass(frozen=True, kw_only=True)
class Blending:
    """How members are scored, weighed, merged and trimmed, and the head on top.

    `score`: how images of the support are answered that a head did not see, clean and under `attack`, with a weight of
    `robust` in [0, 1] on the attacked ones, and the base among the members (see `greedy_soup`). Or compactness and
    separation as in the paper, the loss on the support, or that on the support attacked through the member, each at the
    temperature that suits the member: then `compactness` weighs closeness against separation, in [0, 1], `beta` is that of the
    exponential. `top` is how many members share the weight, at most. `rank_keep_ratio` is the share of singular values that
    trimming keeps. `members` are those of the pool that take part, all by default.
    """

    score: Scoring = "compactness"
    robust: float = 0.5
    attack: Attack = HELD_OUT_UNDER
    compactness: float = 0.6
    beta: float = 1.0
    top: int = 2
    rank_keep_ratio: float = 1.0
    members: tuple[str, ...] | None = None
    head: HeadConfig = CENTROID

    def __post_init__(self) -> None:
        if self.score not in get_args(Scoring):
            raise BadConfigError(
                f"there is no score {self.score!r}; {did_you_mean(str(self.score), get_args(Scoring))}"
            )
        if not 0 <= self.robust <= 1:
            raise BadConfigError(f"robust is {self.robust}; expected a number from 0 (clean accuracy) to 1 (robust)")
        if not self.attack.traits.whole_batches:
            raise BadConfigError(f"{self.attack.spec} goes on with some images alone; expected one without restarts")
        if not 0 <= self.compactness <= 1 or not self.beta >= 0 or self.top < 1 or not 0 < self.rank_keep_ratio <= 1:
            raise BadConfigError(
                f"compactness {self.compactness}, beta {self.beta}, top {self.top}, rank_keep_ratio {self.rank_keep_ratio}; "
                "expected a compactness in [0, 1], beta 0 or more, top 1 or more, rank_keep_ratio above 0, at most 1"
            )

    @classmethod
    def of(cls, config: BlendConfig, head: HeadKind = "centroid") -> "Blending":
        """The settings of a command; `head` is what a pool was tuned under."""
        return cls(
            score=config.score,
            robust=config.robust,
            attack=parse_attack(config.support_attack),
            compactness=config.compactness,
            beta=config.beta,
            top=config.top,
            rank_keep_ratio=config.rank_keep_ratio,
            head=HeadConfig(kind=config.head or head),
        )

    def score_of(self, features: Tensor, labels: Labels, prototypes: Tensor) -> float:
        """How well one member suits a task: compactness * C - (1 - compactness) * V; or the mean log-probability of the
        right class. Compact features need not tell classes apart, which is what the second asks for, and none of the clean
        ones says how they stand an attack, which is what the third is for: its `features` are those of attacked images.

        `features` (n, d) are those of *augmented* support images under the member, `prototypes` (way, d) of the clean
        ones: with one shot an image is its own prototype, and C would be 1 for every member. Averages give each class
        the same say.
        """
        way = len(prototypes)
        if self.score == "loss":
            return _log_probability(cosine_logits(features, prototypes), labels, way)
        similar = cosines(features, prototypes)
        if self.score == "attacked":
            # robust features lie closer together: at one scale for all, members would be judged by that alone
            return max(_log_probability(t * similar, labels, way) for t in TEMPERATURES)
        # a row for each class: the mean cosine of its images with every prototype
        by_class = prototypes_of(similar, labels, way)
        own = by_class.diagonal()
        others = (by_class.sum(1) - own) / (way - 1)
        return float(self.compactness * own.mean() - (1 - self.compactness) * others.mean())

    def weights_of(self, scores: Tensor) -> Tensor:
        """(P,) weights that sum to 1, 0 outside the `top` members of largest score; of scores (P,)."""
        scores = scores.double()
        # the same, once they sum to 1, as exp(-beta * (1 - score)), and it never underflows
        strength = torch.exp(self.beta * (scores - scores.max()))
        # by the score: with beta 0 all strengths are equal
        best = scores.argsort(descending=True, stable=True)[: self.top]
        kept = torch.zeros_like(strength)
        kept[best] = strength[best]
        return kept / kept.sum()


def attacked_score(
    blending: Blending, member: nn.Module, support: Images, augmented: Images, labels: Labels, way: int
) -> float:
    """The score of one member, frozen features, on `augmented` images of the support that are attacked through it.

    `augmented` holds all of the support, with `labels` (n,), one or more times over.
    """
    with torch.no_grad():
        prototypes = prototypes_of(in_chunks(member, support).float(), labels, way)
    repeated = labels.repeat(len(augmented) // len(labels))
    classifier = TaskClassifier(member, Centroids(prototypes))
    features = []
    for x, y in zip(torch.split(augmented, _AT_ONCE), torch.split(repeated, _AT_ONCE), strict=True):
        with torch.enable_grad():
            attacked = SCORED_UNDER(classifier, x, y)
        with torch.no_grad():
            features.append(in_chunks(member, attacked).float())
    return blending.score_of(torch.cat(features), repeated, prototypes)


def _log_probability(logits: Tensor, labels: Labels, way: int) -> float:
    """Of the right class, averaged with the same say for each class."""
    return float(prototypes_of(logits.log_softmax(1), labels, way).diagonal().mean())
