"""Fusion rules: each maps the calibrated votes of several models to class scores, higher is better."""

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
class Votes:
    """The votes on a batch.

    `log_probs` (voters, batch, classes) are temperature-scaled; `weights` (voters,) are the fitted reliabilities, none
    below 0; `trust` (voters, batch) are the weights of the routed rules, from the identifier; they sum to 1 over voters.
    """

    log_probs: Tensor
    weights: Tensor
    trust: Tensor


def majority(votes: Votes) -> Tensor:
    """Counts one vote per voter. Tied classes: the larger sum of calibrated confidences of those who voted for it."""
    return _vote(votes.log_probs, torch.ones_like(votes.weights))


def weighted(votes: Votes) -> Tensor:
    """Weights votes by log-odds of being right, the best weights of independent voters (Nitzan and Paroush, 1982).

    Ties as in `majority`.
    """
    return _vote(votes.log_probs, votes.weights)


def mean(votes: Votes) -> Tensor:
    """Averages the calibrated probabilities (the linear pool)."""
    return _mixed(votes.log_probs, torch.full_like(votes.trust, 1 / len(votes.log_probs)))


def weighted_mean(votes: Votes) -> Tensor:
    """Averages the calibrated probabilities under the fitted weights; the surrogate of a weighted vote."""
    shares = votes.weights / votes.weights.sum().clamp_min(_LEAST)
    return _mixed(votes.log_probs, shares[:, None].expand_as(votes.trust))


def logpool(votes: Votes) -> Tensor:
    """Takes the normalised geometric mean of the probabilities (the logarithmic pool; Genest and Zidek, 1986)."""
    return votes.log_probs.mean(0).log_softmax(1)


def routed(votes: Votes) -> Tensor:
    """Takes the voter that the identifier trusts most on the image; the linear pool of several that tie."""
    top = votes.trust.amax(0, keepdim=True)
    chosen = (votes.trust >= top - _TIED).to(votes.log_probs.dtype)
    return _mixed(votes.log_probs, chosen / chosen.sum(0, keepdim=True))


def soft_routed(votes: Votes) -> Tensor:
    """Averages the calibrated probabilities under the identifier's trust."""
    return _mixed(votes.log_probs, votes.trust)


FUSIONS: Mapping[Rule, Callable[[Votes], Tensor]] = {
    "majority": majority,
    "weighted": weighted,
    "mean": mean,
    "logpool": logpool,
    "routed": routed,
    "soft-routed": soft_routed,
}

SURROGATES: Mapping[Rule, Callable[[Votes], Tensor]] = {
    "majority": mean,
    "weighted": weighted_mean,
    "mean": mean,
    "logpool": logpool,
    "routed": soft_routed,
    "soft-routed": soft_routed,
}
"""Differentiable stand-ins, for gradient attacks: a vote or a choice has no gradient, the pool behind it has one."""


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
