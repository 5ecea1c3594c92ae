"""Attacks on a guard: through its surrogate, on the features of each voter, and towards looking clean."""

import dataclasses
from dataclasses import dataclass
from functools import partial
from typing import ClassVar

import torch
from torch import Tensor, nn

from loradar.attacks import BaseAttack, RandomChoice, WorstOf, ascend, strongest
from loradar.attacks.settings import Interval, count, setting
from loradar.core.balls import Rectangle
from loradar.core.checks import check_images, check_labels
from loradar.core.errors import BadConfigError
from loradar.core.losses import cross_entropy
from loradar.core.modules import evaluating
from loradar.core.types import Attack, Ball, Images, Labels, LabelUse, Traits
from loradar.guard.surrogate import Surrogate

ENOUGH = 2.0
"""Cap on the cross-entropy, in nats: beyond it, looking clean counts more than a surer wrong answer."""


@dataclass(frozen=True, kw_only=True, repr=False)
class ThroughSurrogate:
    """Runs `attack` on a guard, given its Surrogate as the model; spec and traits are the attack's own.

    An attack on a layer's features has no layer to aim at in a guard: it is run on each of `voters`, and each image
    keeps the result that is strongest against the surrogate.
    """

    attack: Attack
    voters: tuple[nn.Module, ...]

    @property
    def spec(self) -> str:
        """The attack's own."""
        return self.attack.spec

    @property
    def traits(self) -> Traits:
        """The attack's own."""
        return self.attack.traits

    def reseeded(self, seed: int) -> "ThroughSurrogate":
        """The attack with other draws."""
        return dataclasses.replace(self, attack=self.attack.reseeded(seed))

    def relabelled(self, label: LabelUse) -> "ThroughSurrogate":
        """The attack with the labels used so."""
        return dataclasses.replace(self, attack=self.attack.relabelled(label))

    def __call__(self, model: nn.Module, x: Images, y: Labels) -> Images:
        """(batch, C, H, W) in [0, 1]."""
        if isinstance(self.attack, WorstOf | RandomChoice):
            parts = tuple(dataclasses.replace(self, attack=part) for part in self.attack.attacks)
            return dataclasses.replace(self.attack, attacks=parts)(model, x, y)
        if self.traits.layers:
            return strongest(model, x, y, [partial(self.attack, voter) for voter in self.voters])
        return self.attack(model, x, y)


@dataclass(frozen=True, kw_only=True)
class DetectorEvasion(BaseAttack):
    """Goes on from `attack`'s image, in the same ball, towards a wrong answer and an image identified as clean.

    Ascends min(cross-entropy, ENOUGH) plus `weight` times the log-probability of clean, with steps of a
    fifteenth of the ball; each image keeps its best step. A rectangle stays where `attack` put it. The model is a
    Surrogate. Bryniarski et al., "Evading Adversarial Example Detection Defenses with Orthogonal Projected Gradient
    Descent", 2022, explain why both goals matter; here the first is capped, so that the second is reached as well.
    """

    spec_name: ClassVar[str] = "evade"

    attack: Attack
    steps: int = count(20, "Gradient steps.")
    weight: float = setting(1.0, "Of looking clean beside being misclassified.", limits=Interval(low=0, high=1e6))

    @property
    def traits(self) -> Traits:
        """Those of the attack that it goes on from; it climbs itself."""
        return dataclasses.replace(self.attack.traits, needs_gradients=True)

    def reseeded(self, seed: int) -> "DetectorEvasion":
        """The attack with other draws."""
        return dataclasses.replace(self, attack=self.attack.reseeded(seed))

    def relabelled(self, label: LabelUse) -> "DetectorEvasion":
        """The attack with the labels used so."""
        return dataclasses.replace(self, attack=self.attack.relabelled(label))

    def __call__(self, model: nn.Module, x: Images, y: Labels) -> Images:
        """(batch, C, H, W) in [0, 1]. Raises BadConfigError where the model is no Surrogate or the attack has no ball."""
        if not isinstance(model, Surrogate):
            raise BadConfigError("an evading attack needs a guard's surrogate; expected loradar.guard.Surrogate")
        check_images(x)
        check_labels(y, count=len(x))
        start = self.attack(model, x, y)
        ball, step = self._ball(x, start)

        def objective(x_adv: Images) -> Tensor:
            logits, log_clean = model.attacked(x_adv)
            return cross_entropy(logits, y).clamp_max(ENOUGH) + self.weight * log_clean

        with evaluating(model), torch.enable_grad():
            best, current = start, start
            value = _value(objective, start)
            for _ in range(self.steps):
                current = ascend(objective, x, current, ball=ball, step_size=step, steps=1)
                now = _value(objective, current)
                best = torch.where((now > value)[:, None, None, None], current, best)
                value = torch.maximum(now, value)
        return best

    def _ball(self, x: Images, x_adv: Images) -> tuple[Ball, float]:
        region = self.attack.traits.region
        if region is None:
            raise BadConfigError(f"{self.attack.spec} moves in no ball or rectangle; expected PGD, FIA or ROA, say")
        if isinstance(region, tuple):
            return Rectangle(mask=_bounding(x != x_adv)), 1 / 15
        return region, region.radius / 15


def can_evade(attack: Attack) -> bool:
    """Whether `DetectorEvasion` can go on from this attack."""
    # an ensemble whose members stop where an image is fooled leaves the others where they were
    return attack.traits.region is not None and attack.traits.independent_rows


def _value(objective: partial[Tensor] | object, x: Images) -> Tensor:
    with torch.no_grad():
        value: Tensor = objective(x)  # type: ignore[operator]
        return value


def _bounding(changed: Tensor) -> Tensor:
    """Finds the smallest rectangle around the pixels that changed in any channel: (batch, 1, H, W) bool."""
    any_channel = changed.any(1, keepdim=True)
    rows, columns = any_channel.any(3, keepdim=True), any_channel.any(2, keepdim=True)
    return _between(rows, 2) & _between(columns, 3)


def _between(line: Tensor, dim: int) -> Tensor:
    """Fills from the first True to the last one along `dim`."""
    count = line.int()
    return (count.cumsum(dim) > 0) & (count.flip(dim).cumsum(dim).flip(dim) > 0)
