"""MI-FGSM, the momentum iterative fast gradient sign method: made to transfer between models."""

from dataclasses import dataclass

from torch import nn

from loradar.attacks.ascend import ascend
from loradar.attacks.base import NormAttack
from loradar.attacks.objectives import borrowed, loss_of
from loradar.attacks.registry import register
from loradar.attacks.settings import MOMENTUM, count, pixels, seed_setting, setting
from loradar.core.losses import cross_entropy
from loradar.core.types import Images, Labels


@register("mi-fgsm")
@dataclass(frozen=True, kw_only=True)
class MIFGSM(NormAttack):
    """Dong et al., "Boosting Adversarial Attacks with Momentum", 2018, algorithm 1.

    `step_size` defaults to eps / steps. Nothing is drawn: `seed` is there as in every attack.
    """

    steps: int = count(10, "Gradient steps.")
    step_size: float | None = pixels(None, "Size of a step; none means eps / steps.")
    momentum: float = setting(1.0, "Share of the running direction that each step keeps.", limits=MOMENTUM)
    seed: int = seed_setting()

    def __call__(self, model: nn.Module, x: Images, y: Labels) -> Images:
        """(batch, C, H, W) in [0, 1] and in the ball around `x`. Raises BadImagesError."""
        step_size = self.eps / self.steps if self.step_size is None else self.step_size
        with borrowed(model, x, y) as (x, y):
            objective = loss_of(model, y, cross_entropy)
            return ascend(
                objective, x, x, ball=self.ball, step_size=step_size, steps=self.steps, momentum=self.momentum
            )
