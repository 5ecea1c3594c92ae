"""Common corruptions in the place of attacks: threats that nobody fitted an identifier with."""

from dataclasses import dataclass
from typing import ClassVar

from torch import nn

from loradar.attacks import BaseAttack
from loradar.attacks.settings import Interval, seed_setting, setting
from loradar.core.types import Images, Labels, Traits
from loradar.data import CORRUPTIONS, SEVERITIES, Corruption, corrupt


@dataclass(frozen=True, kw_only=True)
class Corrupted(BaseAttack):
    """Every image under one corruption (see `loradar.data.corrupt`). Neither model nor labels are asked."""

    spec_name: ClassVar[str] = "corrupted"

    corruption: Corruption
    severity: int = setting(3, "From 1, faint, to 5.", limits=Interval(low=1, high=SEVERITIES))
    seed: int = seed_setting()

    @property
    def traits(self) -> Traits:
        """The model is not asked."""
        return Traits(needs_gradients=False)

    def __call__(self, model: nn.Module, x: Images, y: Labels) -> Images:  # noqa: ARG002
        """(batch, 3, H, W) in [0, 1]."""
        return corrupt(x, self.corruption, self.severity, seed=self.seed)


def corruption_of(index: int) -> tuple[Corruption, int]:
    """The kind and severity that a task of this number meets; as many tasks as there are pairs meet each once."""
    pair = (index * 37 + 11) % (len(CORRUPTIONS) * SEVERITIES)  # a stride without a common divisor meets every pair
    return CORRUPTIONS[pair % len(CORRUPTIONS)], 1 + pair // len(CORRUPTIONS)
