"""FGSM, the fast gradient sign method: one step to the border of the ball, from the image or from a random start."""

import dataclasses
from dataclasses import dataclass

from torch import nn

from loradar.attacks.ascend import ascend
from loradar.attacks.base import NormAttack
from loradar.attacks.objectives import borrowed, loss_of
from loradar.attacks.registry import register
from loradar.attacks.settings import Interval, pixels, seed_setting, setting
from loradar.core.balls import L2, Linf, norm_ball
from loradar.core.losses import cross_entropy
from loradar.core.types import Images, Labels


@register("fgsm")
@dataclass(frozen=True, kw_only=True)
class FGSM(NormAttack):
    """Goodfellow et al., "Explaining and Harnessing Adversarial Examples", 2015, section 4.

    With the L2 norm, the step is along the gradient itself. A random start is `noise` times `eps` wide: noise=1 is
    Wong et al., "Fast is better than free", ICLR 2020, section 4; without `clip` the step is not brought back into the
    ball, and with noise=2,clip=false it is N-FGSM (de Jorge et al., "Make Some Noise", NeurIPS 2022, algorithm 1), which
    is meant to be trained on: its images leave the ball by up to the noise, the threat that it is trained against is
    the ball itself. `step_size` is `eps` unless given.
    """

    noise: float = setting(0.0, "Width of the random start, in multiples of eps.", limits=Interval(low=0, high=10))
    step_size: float | None = pixels(None, "Size of the step; none means eps.")
    clip: bool = setting(True, "Bring the image back into the ball after the step.")
    seed: int = seed_setting()

    @property
    def _reach(self) -> Linf | L2:
        """What images move in: wider than the ball by the noise where they are not brought back."""
        return self.ball if self.clip else norm_ball(self.norm, self.noise * self.eps + self._step)

    @property
    def _step(self) -> float:
        return self.eps if self.step_size is None else self.step_size

    def __call__(self, model: nn.Module, x: Images, y: Labels) -> Images:
        """(batch, C, H, W) in [0, 1] and in the ball around `x`, unless `clip` is off. Raises BadImagesError."""
        with borrowed(model, x, y) as (x, y):
            start = x
            if self.noise:
                # a model is shown images alone, also where the noise is wide
                start = dataclasses.replace(self.ball, radius=self.noise * self.eps).sample(x, self.seed).clamp(0, 1)
            return ascend(loss_of(model, y, cross_entropy), x, start, ball=self._reach, step_size=self._step, steps=1)
