"""PGD, projected gradient descent: steepest ascent of the loss inside a norm ball."""

from dataclasses import dataclass
from functools import partial

from torch import nn

from loradar.attacks.ascend import ascend
from loradar.attacks.base import NormAttack
from loradar.attacks.objectives import Keep, Loss, borrowed, check_divergence_starts_at_random, kept, objective_of
from loradar.attacks.registry import register
from loradar.attacks.settings import count, pixels, seed_setting, setting
from loradar.attacks.worst_of import strongest
from loradar.core.randomness import mix
from loradar.core.types import Images, Labels, Traits


@register("pgd")
@dataclass(frozen=True, kw_only=True)
class PGD(NormAttack):
    """Madry et al., "Towards Deep Learning Models Resistant to Adversarial Attacks", 2018, section 2.1.

    `step_size` defaults to 2.5 * eps / steps, enough to cross the ball. With `restarts`, each image keeps its strongest
    outcome; every restart but the first starts at random even without `random_start`, else it would repeat the first.
    `loss="kl"` ascends KL(clean || attacked) (Zhang et al., "TRADES", 2019) and must start at random. `keep="best"`
    gives back an iterate that fools the model before any other, then the one of highest loss, for one more forward pass.
    """

    steps: int = count(10, "Gradient steps.")
    step_size: float | None = pixels(None, "Size of a step; none means 2.5 * eps / steps.")
    restarts: int = count(1, "Runs of which each image keeps the strongest.", high=1000)
    random_start: bool = setting(True, "Start at a random point of the ball, not at the image.")
    loss: Loss = setting("cross_entropy", "What is ascended; kl is the divergence from the clean answers.")
    keep: Keep = setting("last", "Which iterate comes back: the last, or for each image the best.")
    seed: int = seed_setting()

    def __post_init__(self) -> None:
        super().__post_init__()
        check_divergence_starts_at_random(self.loss, random_start=self.random_start)

    @property
    def traits(self) -> Traits:
        """Restarts go on with what still resists."""
        return Traits(region=self.ball, whole_batches=self.restarts == 1)

    def __call__(self, model: nn.Module, x: Images, y: Labels) -> Images:
        """(batch, C, H, W) in [0, 1] and in the ball around `x`. Raises BadImagesError."""
        with borrowed(model, x, y) as (x, y):
            return strongest(model, x, y, [partial(self._craft, model, k) for k in range(self.restarts)])

    def _craft(self, model: nn.Module, restart: int, x: Images, y: Labels) -> Images:
        objective, start = objective_of(model, x, y, self.loss, self.keep), self.start(x, restart)
        last = ascend(objective, x, start, ball=self.ball, step_size=self.size_of_step, steps=self.steps)
        return kept(objective, last)

    @property
    def size_of_step(self) -> float:
        """`step_size`, or what it is where none is given."""
        return 2.5 * self.eps / self.steps if self.step_size is None else self.step_size

    def start(self, x: Images, restart: int = 0) -> Images:
        """Where a run begins: a random point of the ball, or the image itself."""
        if self.random_start or restart:
            return self.ball.sample(x, mix(self.seed, restart)).clamp(0, 1)
        return x
