"""What a training crafts with, and what it does when the model learns to fool that attack alone."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor

from loradar.adapters import load
from loradar.attacks import training_attack
from loradar.core.types import Attack, Progress
from loradar.training import Epoch, WeightAverage, read_epochs

_COLLAPSE = 0.5
"""Catastrophic overfitting halves the robust accuracy within an epoch or takes all of it; noise does not."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Crafting:
    """The attack of the moment: `attack` itself where `steps` is 0, else a cheaper one, with more noise after escalations.

    `escalations` is a tensor, (1,), so that a checkpoint holds it.
    """

    attack: Attack
    steps: int
    escalations: Tensor = field(default_factory=lambda: torch.zeros(1, dtype=torch.int64))

    @property
    def attack_now(self) -> Attack:
        if not self.steps:
            return self.attack
        return training_attack(self.attack, self.steps, escalations=int(self.escalations))


def answer_overfitting(
    craft: Crafting,
    state: Mapping[str, Tensor],
    average: WeightAverage | None,
    folder: Path,
    name: str,
    progress: Progress,
    epoch: Epoch,
) -> None:
    """Goes back to the best epoch, with a stronger training attack if there is one, where an epoch lost half of its robustness.

    Catastrophic overfitting (Wong et al., "Fast is better than free", ICLR 2020, section 5.3): the attack trained on
    suddenly finds nothing, and another one finds everything.
    """
    earlier = read_epochs(folder, epoch.epoch)
    best = max(earlier, key=lambda each: each.adversarial or 0, default=epoch)
    if not overfitted(epoch, best):
        return
    with torch.no_grad():
        for key, tensor in load(best.folder).state().items():
            state[key].copy_(tensor)
    if average is not None:
        average.restart()
    before = craft.attack_now
    craft.escalations.add_(1)
    stronger = "" if craft.attack_now == before else f", against {craft.attack_now.spec}"
    progress.message(
        f"{name}: catastrophic overfitting in epoch {epoch.epoch + 1} ({epoch.adversarial:g} of {epoch.total} validation "
        f"images right under attack, {best.adversarial:g} in epoch {best.epoch + 1}); back to that epoch{stronger}"
    )


def overfitted(epoch: Epoch, best: Epoch) -> bool:
    """Whether `epoch` lost so much of the best one's robust accuracy that chance does not explain it."""
    now, before = epoch.adversarial or 0, best.adversarial or 0
    # three standard deviations of the larger count
    return now < _COLLAPSE * before and before - now > 3 * before**0.5
