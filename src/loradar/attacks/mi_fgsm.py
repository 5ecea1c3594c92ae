"""MI-FGSM, the momentum iterative fast gradient sign method: made to transfer between models."""

from dataclasses import dataclass

from torch import nn

from loradar.attacks.ascend import ascend
from loradar.attacks.objectives import LINF_8, NormBall, borrowed, check_counts, loss_of
from loradar.core.losses import cross_entropy
from loradar.core.types import Images, Labels


@dataclass(frozen=True, kw_only=True)
class MIFGSM:
    """Dong et al., "Boosting Adversarial Attacks with Momentum", 2018, algorithm 1.

    `step` defaults to radius / steps. Nothing is drawn: `seed` is there as in every attack.
    """

    ball: NormBall = LINF_8
    step: float | None = None
    steps: int = 10
    momentum: float = 1.0
    seed: int = 0

    def __post_init__(self) -> None:
        check_counts(steps=self.steps)

    def __call__(self, model: nn.Module, x: Images, y: Labels) -> Images:
        """(batch, C, H, W) in [0, 1] and in the ball around `x`. Raises BadImagesError."""
        step = self.ball.radius / self.steps if self.step is None else self.step
        with borrowed(model, x, y) as (x, y):
            objective = loss_of(model, y, cross_entropy)
            return ascend(objective, x, x, ball=self.ball, step=step, steps=self.steps, momentum=self.momentum)
