"""ROA, the rectangular occlusion attack: a rectangle at the most harmful position, filled by PGD."""

from dataclasses import dataclass
from functools import partial
from typing import Literal

import torch
from torch import Tensor, nn

from loradar.attacks.ascend import Schedule, ascend
from loradar.attacks.base import BaseAttack
from loradar.attacks.objectives import (
    LOSSES,
    Keep,
    LabelLoss,
    LogitLoss,
    borrowed,
    images_at_once,
    kept,
    loss_of,
    objective_of,
)
from loradar.attacks.rectangles import GREY, Grid, around, gradient_candidates, grid, most_harmful, sparse
from loradar.attacks.registry import register
from loradar.attacks.settings import MOMENTUM, STEP, count, pixels, seed_setting, setting
from loradar.attacks.worst_of import worst_case_by_index
from loradar.core.balls import Rectangle
from loradar.core.losses import cross_entropy
from loradar.core.randomness import mix
from loradar.core.types import Images, Labels, Traits

# best coarse positions that are looked around; on CIFAR-10 one lost 3 % of the painted loss, three 1.6 %, five 0.8 %
_REFINED = 3


@register("roa")
@dataclass(frozen=True, kw_only=True)
class ROA(BaseAttack):
    """Wu et al., "Defending Against Physically Realizable Attacks on Image Classification", ICLR 2020, section 4.1.

    1. Position, per image. `exhaustive`: paint the rectangle grey at every position, keep the one of highest
       `loss`. `gradient`: paint only the `n_candidates` positions that hold the most squared gradient. `coarse`
       (ours): paint every third position of a row and of a column, then all positions around the three best, a quarter
       of the exhaustive work. Where 90 % of the painted positions tie, or the loss is 0, a random one of them. Positions
       lie `stride` apart and reach the last row and column.
    2. PGD of `steps` sign steps of size `step_size` inside the rectangle, from grey or from uniform pixels; the rectangle
       may take any value in [0, 1]. `momentum` and the `schedule` of the step are ours, off by default (see `ascend`).

    `loss="margin"` (ours) does both with the margin of the logits, whose gradient does not vanish where the model is sure.

    With `restarts`, the k-th works at the k-th most harmful position and, from the second on, starts from uniform
    pixels; each image keeps its strongest outcome, and one that fools the model is not attacked again.
    """

    height: int = count(5, "Height of the rectangle, in pixels.")
    width: int = count(5, "Width of the rectangle, in pixels.")
    stride: int = count(1, "Pixels between the positions that are tried.")
    search: Literal["exhaustive", "coarse", "gradient"] = setting("gradient", "How the position is found.")
    n_candidates: int = count(20, "Positions that a gradient search paints.", high=100_000)
    steps: int = count(30, "Gradient steps.")
    step_size: float = pixels(0.05, "Size of a step.", limits=STEP["linf"])
    schedule: Schedule = setting("constant", "Of the step: the same throughout, or falling in equal parts.")
    momentum: float = setting(0.0, "Share of the running direction that each step keeps.", limits=MOMENTUM)
    loss: LabelLoss = setting("cross_entropy", "What positions are ranked by, and what is ascended.")
    keep: Keep = setting("last", "Which iterate comes back: the last, or for each image the best.")
    init: Literal["grey", "uniform"] = setting("grey", "What the rectangle is filled with at first.")
    restarts: int = count(1, "Positions and starts of which each image keeps the strongest.", high=1000)
    seed: int = seed_setting()

    @property
    def traits(self) -> Traits:
        """It moves in a rectangle; restarts go on with what still resists."""
        return Traits(region=(self.height, self.width), whole_batches=self.restarts == 1)

    def __call__(self, model: nn.Module, x: Images, y: Labels) -> Images:
        """(batch, C, H, W) in [0, 1], equal to `x` outside one rectangle per image.

        Raises BadImagesError, and BadConfigError where the rectangle does not fit the image.
        """
        with borrowed(model, x, y) as (x, y):
            places = grid(x, height=self.height, width=self.width, stride=self.stride)
            positions = self._search(model, x, y, places)
            crafts = [partial(self._fill, model, x, y, places, positions[:, k], k) for k in range(self.restarts)]
            return worst_case_by_index(model, x, y, crafts)

    def _search(self, model: nn.Module, x: Images, y: Labels, places: Grid) -> Tensor:
        """(batch, restarts) positions, the most harmful first."""
        loss = LOSSES[self.loss]
        match self.search:
            case "gradient":
                objective = loss_of(model, y, loss)
                tried = gradient_candidates(objective, x, places, count=self.n_candidates, seed=mix(self.seed, -1))
                losses = painted_losses(model, x, y, places, tried, loss)
            case "exhaustive":
                tried = torch.arange(places.count, device=x.device).expand(len(x), -1)
                losses = painted_losses(model, x, y, places, tried, loss)
            case "coarse":
                first = sparse(places).expand(len(x), -1)
                losses = painted_losses(model, x, y, places, first, loss)
                best = most_harmful(losses, x, count=_REFINED, seed=mix(self.seed, -3))
                near = around(places, first.gather(1, best))
                known = losses.new_full((len(x), places.count), -torch.inf).scatter(1, first, losses)
                known = known.scatter(1, near, painted_losses(model, x, y, places, near, loss))
                # as many as were painted at first, each position once, so that restarts differ
                losses, tried = known.topk(first.shape[1], dim=1)
        return tried.gather(1, most_harmful(losses, x, count=self.restarts, seed=mix(self.seed, -2)))

    def _fill(
        self, model: nn.Module, x: Images, y: Labels, places: Grid, positions: Tensor, restart: int, rows: Tensor
    ) -> Images:
        x, y = x[rows], y[rows]
        ball = Rectangle(mask=places.masks(positions[rows], x))
        uniform_start = restart or self.init == "uniform"
        start = ball.sample(x, mix(self.seed, restart)) if uniform_start else x.masked_fill(ball.mask, GREY)
        objective = objective_of(model, x, y, self.loss, self.keep)
        last = ascend(
            objective,
            x,
            start,
            ball=ball,
            step_size=self.step_size,
            steps=self.steps,
            momentum=self.momentum,
            schedule=self.schedule,
        )
        return kept(objective, last)


@torch.no_grad()
def painted_losses(
    model: nn.Module, x: Images, y: Labels, places: Grid, tried: Tensor, loss: LogitLoss = cross_entropy
) -> Tensor:
    """(batch, k) `loss` with the rectangle grey at each of the positions `tried` (batch, k)."""
    losses = []
    images = torch.arange(len(x), device=x.device).repeat_interleave(tried.shape[1])
    at_once = images_at_once(x)
    chunks = zip(torch.split(images, at_once), torch.split(tried.flatten(), at_once), strict=True)
    for image, position in chunks:
        painted = x[image].masked_fill(places.masks(position, x), GREY)
        losses.append(loss_of(model, y[image], loss)(painted))
    return torch.cat(losses).view(tried.shape)
