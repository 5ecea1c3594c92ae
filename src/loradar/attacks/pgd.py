"""PGD, projected gradient descent: steepest ascent of the loss inside a norm ball."""

from dataclasses import dataclass
from functools import partial
from typing import Literal

from torch import nn

from loradar.attacks.ascend import ascend
from loradar.attacks.door import LINF_8, NormBall, borrowed, check_counts, loss_of
from loradar.attacks.worst_of import strongest
from loradar.core.losses import cross_entropy, margin
from loradar.core.randomness import mix
from loradar.core.types import Images, Labels

LOSSES = {"cross_entropy": cross_entropy, "margin": margin}


@dataclass(frozen=True, kw_only=True)
class PGD:
    """Madry et al., "Towards Deep Learning Models Resistant to Adversarial Attacks", 2018, section 2.1.

    `step` defaults to 2.5 * radius / steps, enough to cross the ball. With `restarts`, each image keeps its strongest
    outcome; every restart but the first starts at random even without `random_start`, else it would repeat the first.
    """

    ball: NormBall = LINF_8
    step: float | None = None
    steps: int = 10
    restarts: int = 1
    random_start: bool = True
    loss: Literal["cross_entropy", "margin"] = "cross_entropy"
    seed: int = 0

    def __post_init__(self) -> None:
        check_counts(steps=self.steps, restarts=self.restarts)

    def __call__(self, model: nn.Module, x: Images, y: Labels) -> Images:
        """(batch, C, H, W) in [0, 1] and in the ball around `x`. Raises BadImagesError."""
        with borrowed(model, x, y) as (x, y):
            return strongest(model, x, y, [partial(self._craft, model, k) for k in range(self.restarts)])

    def _craft(self, model: nn.Module, restart: int, x: Images, y: Labels) -> Images:
        start = x
        if self.random_start or restart:
            start = self.ball.sample(x, mix(self.seed, restart)).clamp(0, 1)
        step = 2.5 * self.ball.radius / self.steps if self.step is None else self.step
        return ascend(loss_of(model, y, LOSSES[self.loss]), x, start, ball=self.ball, step=step, steps=self.steps)
