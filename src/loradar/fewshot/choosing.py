"""How much of the base and of each member a task gets, by how they answer images of its support that they did not see."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from loradar.core.types import Attack, Images
from loradar.fewshot.heads import TaskClassifier
from loradar.fewshot.held_out import HeldOut

MOST_ATTACKED = 32
"""Held-out images that are attacked for a choice: as many as leave a fit on some hundred images within seconds on two cores."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Evidence:
    """The log-probability that weights give to the right class of each held-out image, clean (m,) and attacked (k,), and
    whether they answer with it."""

    clean: Tensor
    attacked: Tensor
    right: Tensor
    right_attacked: Tensor

    def score(self, robust: float) -> float:
        """The mean log-probability, with a weight of `robust` on the attacked images."""
        return float((1 - robust) * self.clean.mean() + robust * self.attacked.mean())

    def gain(self, other: "Evidence", robust: float, images: int) -> float:
        """By how much the score is above that of `other`, image by image, less one standard error of that.

        `images` are those of the support, of which all else are copies.
        """
        error = 0.0
        for weight, difference in ((1 - robust, self.clean - other.clean), (robust, self.attacked - other.attacked)):
            error += weight**2 * float(difference.var()) / min(images, len(difference))
        return self.score(robust) - other.score(robust) - math.sqrt(error)


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


def greedy_soup(
    names: Sequence[str], ask: Callable[[Mapping[str, float]], Evidence], *, robust: float, images: int, top: int
) -> dict[str, float]:
    """Returns the share of each of `names` in the blend, the first of which is the untuned base; they sum to 1.

    The best one that is surely better than the base, else the base itself, then every other in the order of how well it
    answers, where the average with it answers better, until there are `top` (Wortsman et al., "Model soups", 2022, section
    2). `ask` tells how a blend answers held-out images; `images` is how many of the support there are.
    """
    base, *members = names
    found = {name: ask({name: 1.0}) for name in names}
    surely = [name for name in members if found[name].gain(found[base], robust, images) > 0]
    order = sorted(names, key=lambda name: found[name].score(robust), reverse=True)
    chosen = [name for name in order if name in surely][:1]
    if not chosen:
        return {name: float(name == base) for name in names}
    best = found[chosen[0]]
    for name in (name for name in order if name != chosen[0]):
        if len(chosen) == top:
            break
        tried = ask(_alike([*chosen, name]))
        if tried.score(robust) > best.score(robust):
            chosen, best = [*chosen, name], tried
    return dict.fromkeys(names, 0.0) | _alike(chosen)


def _alike(names: Sequence[str]) -> dict[str, float]:
    return {name: 1 / len(names) for name in names}
