"""PGD, projected gradient descent: steepest ascent of the loss inside a norm ball."""

from dataclasses import dataclass
from functools import partial
from typing import Literal

from torch import nn

from loradar.attacks.ascend import ascend
from loradar.attacks.objectives import (
    LINF_8,
    NormBall,
    Objective,
    borrowed,
    check_counts,
    check_divergence_starts_at_random,
    divergence_of,
    loss_of,
)
from loradar.attacks.worst_of import strongest
from loradar.core.losses import cross_entropy, margin
from loradar.core.randomness import mix
from loradar.core.types import Images, Labels

LOSSES = {"cross_entropy": cross_entropy, "margin": margin}


def objective_of(model: nn.Module, x: Images, y: Labels, loss: Literal["cross_entropy", "margin", "kl"]) -> Objective:
    """What is ascended: a loss of the labels, or for `kl` the divergence from the clean answers."""
    return divergence_of(model, x, y) if loss == "kl" else loss_of(model, y, LOSSES[loss])


@dataclass(frozen=True, kw_only=True)
class PGD:
    """Madry et al., "Towards Deep Learning Models Resistant to Adversarial Attacks", 2018, section 2.1.

    `step` defaults to 2.5 * radius / steps, enough to cross the ball. With `restarts`, each image keeps its strongest
    outcome; every restart but the first starts at random even without `random_start`, else it would repeat the first.
    `loss="kl"` ascends KL(clean || attacked) (Zhang et al., "TRADES", 2019) and must start at random.
    """

    ball: NormBall = LINF_8
    step: float | None = None
    steps: int = 10
    restarts: int = 1
    random_start: bool = True
    loss: Literal["cross_entropy", "margin", "kl"] = "cross_entropy"
    seed: int = 0

    def __post_init__(self) -> None:
        check_counts(steps=self.steps, restarts=self.restarts)
        check_divergence_starts_at_random(self.loss, random_start=self.random_start)

    def __call__(self, model: nn.Module, x: Images, y: Labels) -> Images:
        """(batch, C, H, W) in [0, 1] and in the ball around `x`. Raises BadImagesError."""
        with borrowed(model, x, y) as (x, y):
            return strongest(model, x, y, [partial(self._craft, model, k) for k in range(self.restarts)])

    def _craft(self, model: nn.Module, restart: int, x: Images, y: Labels) -> Images:
        start = x
        if self.random_start or restart:
            start = self.ball.sample(x, mix(self.seed, restart)).clamp(0, 1)
        step = 2.5 * self.ball.radius / self.steps if self.step is None else self.step
        objective = objective_of(model, x, y, self.loss)
        return ascend(objective, x, start, ball=self.ball, step=step, steps=self.steps)
