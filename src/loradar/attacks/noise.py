"""Uniform noise: the control that every gradient attack has to beat."""

from dataclasses import dataclass

from torch import nn

from loradar.attacks.base import NormAttack
from loradar.attacks.objectives import borrowed
from loradar.attacks.registry import register
from loradar.attacks.settings import seed_setting
from loradar.core.types import Images, Labels, Traits


@register("noise")
@dataclass(frozen=True, kw_only=True)
class UniformNoise(NormAttack):
    """A uniform point of the ball around each image, clamped to [0, 1]. The model and the labels are not asked."""

    seed: int = seed_setting()

    @property
    def traits(self) -> Traits:
        """No gradient attack: the model is not asked."""
        return Traits(needs_gradients=False, region=self.ball)

    def __call__(self, model: nn.Module, x: Images, y: Labels) -> Images:
        """(batch, C, H, W) in [0, 1] and in the ball around `x`. Raises BadImagesError."""
        with borrowed(model, x, y) as (x, _):
            return self.ball.sample(x, self.seed).clamp(0, 1)
