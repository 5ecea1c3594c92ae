"""Answering all queries of a task at once: what they share tells where they lie, and what each is tells of the others."""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from loradar.core.errors import BadConfigError
from loradar.core.types import Logits

MakeHead = Callable[[Tensor, Tensor, Tensor], nn.Module]
"""(features (n, d), shares (n, way) of each class in each image, weights (n,) of the images) -> a head."""


@dataclass(frozen=True, kw_only=True)
class Transduction:
    """How the queries of a task help each other.

    1. Features are brought to length 1, then both sets to their own mean, which takes away what all queries share and the
       support does not: a corruption, another light. The queries' mean is first drawn to the support's, as if `prior` more
       images of each class lay there, so that few queries, or many of one class, do not lose what tells classes apart.
    2. `rounds` times the head is made anew of the support and of the queries with the shares that it gave them, each
       query counting `weight` times a support image.

    1 is the shift of Liu et al., "Prototype Rectification for Few-Shot Learning" (BD-CSPN), 2020, section 3.2, on both
    sides; 2 the soft k-means of Ren et al., "Meta-Learning for Semi-Supervised Few-Shot Classification", 2018, section
    3.1.1, for any head. The queries are taken to be mixed about as the support is, which `prior` softens: where all are of one
    class, they are answered better alone.
    """

    rounds: int = 6
    weight: float = 0.3
    prior: float = 2.0

    def __post_init__(self) -> None:
        if self.rounds < 0 or not 0 <= self.weight < math.inf or not 0 <= self.prior < math.inf:
            raise BadConfigError(
                f"rounds {self.rounds}, weight {self.weight}, prior {self.prior}; expected finite numbers, none below 0"
            )


class TransductiveHead(nn.Module):
    """A head that answers a batch of queries as a whole: features (m, d) to logits (m, way).

    `support` (n, d) has `shares` (n, way), 1 for the class of an image. Differentiable in the features, through every round,
    so that an attack on the whole batch is one on what is deployed.
    """

    support: Tensor
    shares: Tensor

    def __init__(self, make: MakeHead, support: Tensor, shares: Tensor, rule: Transduction) -> None:
        super().__init__()
        self.make = make
        self.rule = rule
        self.register_buffer("support", F.normalize(support, dim=1))
        self.register_buffer("shares", shares)

    def forward(self, features: Tensor) -> Logits:
        rule, mean = self.rule, self.support.mean(0)
        queries = F.normalize(features, dim=1)
        held = rule.prior * self.shares.shape[1]
        support, queries = self.support - mean, queries - (queries.sum(0) + held * mean) / (len(queries) + held)
        every = torch.cat([support, queries])
        weights = torch.cat([support.new_ones(len(support)), support.new_full((len(queries),), rule.weight)])
        head = self.make(support, self.shares, weights[: len(support)])
        for _ in range(rule.rounds):
            head = self.make(every, torch.cat([self.shares, head(queries).softmax(1)]), weights)
        logits: Logits = head(queries)
        return logits
