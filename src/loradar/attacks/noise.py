"""Uniform noise: the control that every gradient attack has to beat."""

from dataclasses import dataclass

from torch import nn

from loradar.attacks.objectives import LINF_8, NormBall, borrowed
from loradar.core.types import Images, Labels


@dataclass(frozen=True, kw_only=True)
class UniformNoise:
    """A uniform point of the ball around each image, clamped to [0, 1]. The model and the labels are not asked."""

    ball: NormBall = LINF_8
    seed: int = 0

    def __call__(self, model: nn.Module, x: Images, y: Labels) -> Images:
        """(batch, C, H, W) in [0, 1] and in the ball around `x`. Raises BadImagesError."""
        with borrowed(model, x, y) as (x, _):
            return self.ball.sample(x, self.seed).clamp(0, 1)
