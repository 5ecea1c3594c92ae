"""FGSM, the fast gradient sign method: one step to the border of the ball."""

from dataclasses import dataclass

from torch import nn

from loradar.attacks.ascend import ascend
from loradar.attacks.base import NormAttack
from loradar.attacks.objectives import borrowed, loss_of
from loradar.attacks.registry import register
from loradar.attacks.settings import seed_setting
from loradar.core.losses import cross_entropy
from loradar.core.types import Images, Labels


@register("fgsm")
@dataclass(frozen=True, kw_only=True)
class FGSM(NormAttack):
    """Goodfellow et al., "Explaining and Harnessing Adversarial Examples", 2015, section 4.

    With the L2 norm, the step is along the gradient itself. Nothing is drawn: `seed` is there as in every attack.
    """

    seed: int = seed_setting()

    def __call__(self, model: nn.Module, x: Images, y: Labels) -> Images:
        """(batch, C, H, W) in [0, 1] and in the ball around `x`. Raises BadImagesError."""
        with borrowed(model, x, y) as (x, y):
            return ascend(loss_of(model, y, cross_entropy), x, x, ball=self.ball, step_size=self.eps, steps=1)
