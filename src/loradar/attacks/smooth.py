"""Smooth, a low-frequency attack: a coarse grid of changes, upsampled to the image."""

from dataclasses import dataclass
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from loradar.attacks.ascend import ascend
from loradar.attacks.base import NormAttack
from loradar.attacks.objectives import LOSSES, BestIterate, LabelLoss, borrowed
from loradar.attacks.registry import register
from loradar.attacks.settings import count, seed_setting, setting
from loradar.attacks.worst_of import worst_case_by_index
from loradar.core.balls import Linf
from loradar.core.errors import BadConfigError
from loradar.core.randomness import mix, uniform
from loradar.core.types import Images, Labels, Traits

_CENTRE = 0.5
"""What a cell holds that changes nothing: cells are kept in [0, 1], as images are, for the loop that they share."""
_TINY = 1e-12


@register("smooth")
@dataclass(frozen=True, kw_only=True)
class Smooth(NormAttack):
    """PGD on a grid of `cells` by `cells` values per channel, upsampled bilinearly (after Guo et al., "Low Frequency
    Adversarial Perturbation", UAI 2019, with a grid in the place of their cosines).

    In L-inf, a cell moves its pixels by up to eps; in L2, the upsampled change has the length eps. Detectors and defences that
    look for noise do not see it. Sign steps fall from a quarter of a cell's range to nothing, from random cells; the best
    iterate is kept, and of `restarts` the strongest.
    """

    cells: int = count(8, "Cells along each side of the grid.", high=1024)
    steps: int = count(20, "Gradient steps.")
    restarts: int = count(1, "Runs of which each image keeps the strongest.", high=1000)
    loss: LabelLoss = setting("cross_entropy", "What is ascended.")
    seed: int = seed_setting()

    @property
    def traits(self) -> Traits:
        """Restarts go on with what still resists."""
        return Traits(region=self.ball, whole_batches=self.restarts == 1)

    def __call__(self, model: nn.Module, x: Images, y: Labels) -> Images:
        """(batch, C, H, W) in [0, 1] and in the ball around `x`.

        Raises BadImagesError, and BadConfigError for more cells than pixels.
        """
        if self.cells > min(x.shape[2:]):
            raise BadConfigError(
                f"a grid of {self.cells} x {self.cells} cells is finer than an image of {x.shape[2]} x {x.shape[3]}; give fewer"
            )
        with borrowed(model, x, y) as (x, y):
            runs = [partial(self._craft, model, x, y, restart) for restart in range(self.restarts)]
            return worst_case_by_index(model, x, y, runs)

    def _craft(self, model: nn.Module, x: Images, y: Labels, restart: int, rows: Tensor) -> Images:
        x, y = x[rows], y[rows]
        best = BestIterate(model, y, LOSSES[self.loss])
        start = uniform(x, mix(self.seed, restart), (x.shape[1], self.cells, self.cells))
        last = ascend(
            lambda cells: best(self._applied(x, cells)),
            torch.full_like(start, _CENTRE),
            start,
            ball=Linf(radius=_CENTRE),
            step_size=_CENTRE / 2,
            steps=self.steps,
            schedule="linear",
        )
        with torch.no_grad():
            best(self._applied(x, last))
        return best.images

    def _applied(self, x: Images, cells: Tensor) -> Images:
        """`x` under the change that `cells` (batch, C, cells, cells) in [0, 1] stand for."""
        change = F.interpolate(2 * cells - 1, size=x.shape[2:], mode="bilinear", align_corners=False)
        if self.norm == "l2":
            length = change.flatten(1).norm(dim=1).clamp_min(_TINY)
            change = change / length[:, None, None, None]
        # project: a product may round to a little outside
        return self.ball.project(x + self.eps * change, x).clamp(0, 1)
