"""How several opinions become one answer. Every rule maps calibrated opinions to scores, higher is better."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal, TypeAlias

import torch
import torch.nn.functional as F
from torch import Tensor

Rule: TypeAlias = Literal["majority", "weighted", "mean", "logpool", "routed", "soft-routed"]
RULES: tuple[Rule, ...] = ("majority", "weighted", "mean", "logpool", "routed", "soft-routed")

_TIED = 1e-4
"""Vote sums closer than this are a tie: sums of fitted weights are equal only up to rounding."""
_LEAST = 1e-8


@dataclass(frozen=True, kw_only=True, eq=False)
class Opinions:
    """What the voters say of a batch.

    `log_probs` (voters, batch, classes) are temperature-scaled; `weights` (voters,) are the fitted reliabilities, none
    below 0; `trust` (voters, batch) says how much each voter is to be heard on each image if the identifier routes, and
    sums to 1 over the voters.
    """

    log_probs: Tensor
    weights: Tensor
    trust: Tensor


def majority(opinions: Opinions) -> Tensor:
    """One voter, one vote. Tied classes: the larger sum of calibrated confidences of those who voted for it."""
    return _vote(opinions.log_probs, torch.ones_like(opinions.weights))


def weighted(opinions: Opinions) -> Tensor:
    """Votes weighted by log-odds of being right, the best weights of independent voters (Nitzan and Paroush, 1982).

    Ties as in `majority`.
    """
    return _vote(opinions.log_probs, opinions.weights)


def mean(opinions: Opinions) -> Tensor:
    """The mean of the calibrated probabilities (the linear pool)."""
    return _mixed(opinions.log_probs, torch.full_like(opinions.trust, 1 / len(opinions.log_probs)))


def weighted_mean(opinions: Opinions) -> Tensor:
    """The mean of the calibrated probabilities under the fitted weights: what a weighted vote is attacked through."""
    shares = opinions.weights / opinions.weights.sum().clamp_min(_LEAST)
    return _mixed(opinions.log_probs, shares[:, None].expand_as(opinions.trust))


def logpool(opinions: Opinions) -> Tensor:
    """The geometric mean of the calibrated probabilities, normalised (the logarithmic pool; Genest and Zidek, 1986)."""
    return opinions.log_probs.mean(0).log_softmax(1)


def routed(opinions: Opinions) -> Tensor:
    """Only those voters are heard whom the identifier trusts most for the image; their linear pool where several tie."""
    top = opinions.trust.amax(0, keepdim=True)
    chosen = (opinions.trust >= top - _TIED).to(opinions.log_probs.dtype)
    return _mixed(opinions.log_probs, chosen / chosen.sum(0, keepdim=True))


def soft_routed(opinions: Opinions) -> Tensor:
    """The linear pool under the identifier's trust."""
    return _mixed(opinions.log_probs, opinions.trust)


FUSIONS: Mapping[Rule, Callable[[Opinions], Tensor]] = {
    "majority": majority,
    "weighted": weighted,
    "mean": mean,
    "logpool": logpool,
    "routed": routed,
    "soft-routed": soft_routed,
}

SURROGATES: Mapping[Rule, Callable[[Opinions], Tensor]] = {
    "majority": mean,
    "weighted": weighted_mean,
    "mean": mean,
    "logpool": logpool,
    "routed": soft_routed,
    "soft-routed": soft_routed,
}
"""What a gradient attack goes through: votes and choices have no gradient, the pools that they harden have."""


def _vote(log_probs: Tensor, weights: Tensor) -> Tensor:
    """(batch, classes) log scores whose largest wins by votes first and, among tied classes, by confidence."""
    choices = F.one_hot(log_probs.argmax(2), log_probs.shape[2]).to(log_probs.dtype)
    shares = weights / weights.sum().clamp_min(_LEAST)
    votes = (choices * shares[:, None, None]).sum(0)
    confidence = (choices * log_probs.exp()).mean(0)
    top = votes.amax(1, keepdim=True)
    # confidences lie in [0, 1]: they order the tied and lift none of the others above them
    scores = torch.where(votes >= top - _TIED, top + confidence, votes)
    return scores.clamp_min(_LEAST).log()


def _mixed(log_probs: Tensor, shares: Tensor) -> Tensor:
    """The linear pool under `shares` (voters, batch), in logarithms: the gradients of confident voters do not round to 0."""
    return (log_probs + shares.clamp_min(torch.finfo(shares.dtype).tiny).log()[:, :, None]).logsumexp(0)
