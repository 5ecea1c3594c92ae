"""How much of the base and of each member a task gets, by how they answer images of its support that they did not see."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from loradar.core.randomness import generator
from loradar.core.types import Attack, Images
from loradar.fewshot.heads import TaskClassifier
from loradar.fewshot.held_out import HeldOut

MOST_ATTACKED = 64
"""Held-out images that are attacked for a choice."""
_DRAWS = 1000
_LEAST = 0.01
"""Smaller shares of a blend are left out of it."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Evidence:
    """The log-probability that weights give to the right class of each held-out image, clean (m,) and attacked (k,), and
    whether they answer with it."""

    clean: Tensor
    attacked: Tensor
    right: Tensor
    right_attacked: Tensor

    def gain(self, robust: float, weights: tuple[Tensor, Tensor]) -> Tensor:
        """(draws,): the mean log-probability, with the weights (draws, m) of clean and (draws, k) of attacked images."""
        clean, attacked = weights
        return (1 - robust) * (clean @ self.clean) + robust * (attacked @ self.attacked)


def attacked_rows(labels: Tensor) -> Tensor:
    """Returns the rows of at most `MOST_ATTACKED` images with these labels (m,), of all classes alike."""
    order = torch.empty_like(labels)
    for label in torch.unique(labels):
        rows = labels == label
        order[rows] = torch.arange(int(rows.sum()), device=labels.device)
    return order.argsort(stable=True)[:MOST_ATTACKED].sort().values


def evidence(held_out: HeldOut, images: Images, member: nn.Module, attack: Attack) -> Evidence:
    """Asks the weights `member`, as features, for held-out `images` (m, c, h, w), as they are and attacked.

    The attack climbs what answers each image, which is a head that has not seen it.
    """
    rows = attacked_rows(held_out.labels)
    labels = held_out.labels[rows]
    classifier = TaskClassifier(member, held_out.head(rows))
    with torch.enable_grad():
        x_adv = attack(classifier, images[rows], labels)
    with torch.no_grad():
        attacked = classifier(x_adv)
    return Evidence(
        clean=_log_probability(held_out.logits, held_out.labels),
        attacked=_log_probability(attacked, labels),
        right=held_out.logits.argmax(1) == held_out.labels,
        right_attacked=attacked.argmax(1) == labels,
    )


def _log_probability(logits: Tensor, labels: Tensor) -> Tensor:
    """(n,), in float64: of the right class."""
    return logits.double().log_softmax(1).gather(1, labels[:, None]).squeeze(1)


def weights_by_evidence(
    found: Mapping[str, Evidence], *, robust: float, images: int, seed: int = 0
) -> dict[str, float]:
    """Returns the share of each in the blend, which sum to 1: how probable it is that it answers best.

    Pseudo-Bayesian model averaging with the Bayesian bootstrap (Yao et al., "Using stacking to average Bayesian predictive
    distributions", 2018, section 3.4): the log-probabilities of `images` support images, with `robust` of the weight on the
    attacked ones, decide as far as so few images can tell. Where they cannot, all get much the same.
    """
    first = next(iter(found.values()))
    draw = generator(seed)
    weights = _dirichlet(len(first.clean), draw), _dirichlet(len(first.attacked), draw)
    scores = torch.stack([images * one.gain(robust, weights) for one in found.values()], 1)
    shares = scores.softmax(1).mean(0)
    shares = torch.where(shares < _LEAST, 0.0, shares)
    return dict(zip(found, (shares / shares.sum()).tolist(), strict=True))


def _dirichlet(count: int, draw: torch.Generator) -> Tensor:
    """(draws, count): flat weights of images, each row summing to 1."""
    uniform = torch.rand(_DRAWS, count, generator=draw, dtype=torch.float64)
    strength = -torch.log1p(-uniform)
    return strength / strength.sum(1, keepdim=True)
