"""APGD, PGD that chooses its own step: halved where the loss stalls, from the best iterate on."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import Literal

import torch
from torch import Tensor, nn

from loradar.attacks.ascend import steepest_or_aside
from loradar.attacks.base import NormAttack
from loradar.attacks.objectives import BestIterate, LogitLoss, borrowed, detour, kept, logits_of, valued_gradient
from loradar.attacks.registry import register
from loradar.attacks.settings import count, seed_setting, setting
from loradar.attacks.worst_of import worst_case_by_index
from loradar.core.balls import L2, Linf
from loradar.core.errors import BadConfigError
from loradar.core.losses import cross_entropy, dlr, margin, targeted_dlr
from loradar.core.randomness import mix
from loradar.core.types import Images, Labels, Traits

_LOSSES: dict[str, LogitLoss] = {"cross_entropy": cross_entropy, "margin": margin, "dlr": dlr}
_CLASSES = {"dlr": 3, "dlr-targeted": 4}
"""Classes that a loss needs at least; the others need 2."""
_MOMENTUM = 0.75
_ENOUGH = 0.75
"""Share of the steps since the last checkpoint that must have raised the loss, or the step is halved."""


@register("apgd")
@dataclass(frozen=True, kw_only=True)
class APGD(NormAttack):
    """Croce and Hein, "Reliable evaluation of adversarial robustness with an ensemble of ...", ICML 2020, section 3.

    Steps begin at 2 * eps and are halved, image by image, at checkpoints where too few steps raised the loss. Every image
    gives back its best iterate: one that fools the model first, then the highest loss. `dlr` needs 3 classes;
    `dlr-targeted` needs 4 and goes for each of the `n_targets` likeliest wrong classes in turn. Of `restarts` and targets
    each image keeps the strongest, and one that fools the model is not attacked again.
    """

    loss: Literal["cross_entropy", "margin", "dlr", "dlr-targeted"] = setting("cross_entropy", "What is ascended.")
    steps: int = count(100, "Gradient steps.")
    restarts: int = count(1, "Runs of which each image keeps the strongest.", high=1000)
    n_targets: int = count(9, "Classes that dlr-targeted goes for, as many as there are at most.")
    seed: int = seed_setting()

    @property
    def traits(self) -> Traits:
        """Restarts and targets go on with what still resists."""
        return Traits(region=self.ball, whole_batches=self.restarts == 1 and self.loss != "dlr-targeted")

    def __call__(self, model: nn.Module, x: Images, y: Labels) -> Images:
        """(batch, C, H, W) in [0, 1] and in the ball around `x`.

        Raises BadImagesError, and BadConfigError for a loss that needs more classes than there are.
        """
        with borrowed(model, x, y) as (x, y):
            targets = self._targets(model, x, y)
            runs = [
                partial(self._craft, model, x, y, target, mix(self.seed, restart, index))
                for restart in range(self.restarts)
                for index, target in enumerate(targets)
            ]
            return worst_case_by_index(model, x, y, runs)

    def _targets(self, model: nn.Module, x: Images, y: Labels) -> list[Labels | None]:
        """The classes to go for, (batch,) each, the likeliest wrong one first; one None where the loss has no target."""
        if self.loss not in _CLASSES:
            return [None]
        with torch.no_grad():
            logits = logits_of(model, x[:1] if self.loss == "dlr" else x)
        classes = logits.shape[1]
        if classes < _CLASSES[self.loss]:
            raise BadConfigError(
                f"loss {self.loss!r} needs {_CLASSES[self.loss]} classes or more, the model has {classes}; use loss=margin"
            )
        if self.loss == "dlr":
            return [None]
        # a label outside the classes is reported by the loss, in its own words
        others = logits.nan_to_num().scatter(1, y.clamp(0, classes - 1)[:, None], -torch.inf)
        ranked = others.argsort(dim=1, descending=True, stable=True)
        return list(ranked[:, : min(self.n_targets, classes - 1)].unbind(1))

    def _craft(self, model: nn.Module, x: Images, y: Labels, target: Labels | None, seed: int, rows: Tensor) -> Images:
        x, y = x[rows], y[rows]
        loss = _LOSSES[self.loss] if target is None else partial(targeted_dlr, target=target[rows])
        best = BestIterate(model, y, loss)
        return climb(best, x, self.ball.sample(x, seed).clamp(0, 1), ball=self.ball, steps=self.steps)


def climb(objective: BestIterate, x: Images, start: Images, *, ball: Linf | L2, steps: int) -> Images:
    """The best of `steps` iterates from `start` (algorithm 1 of the paper). The last one needs no gradient."""

    def inside(moved: Images) -> Images:
        return ball.project(moved, x).clamp(0, 1)

    aside = ball.steepest(detour(x))
    x_adv = before = start.detach()
    values, grad, gaps = _finite(valued_gradient(objective, x_adv))
    top, top_value, top_grad, top_gaps = x_adv, values, grad, gaps
    step = x.new_full((len(x), 1, 1, 1), 2 * ball.radius)
    rises, value_then, halved = torch.zeros_like(values), values, torch.ones_like(gaps)
    since, checkpoints = 0, _windows(steps)
    window = next(checkpoints)
    for k in range(steps):
        ahead = inside(x_adv + step * steepest_or_aside(ball, grad, gaps, aside))
        share = _MOMENTUM if k else 1.0
        before, x_adv = x_adv, inside(x_adv + share * (ahead - x_adv) + (1 - share) * (x_adv - before))
        if k + 1 == steps:
            break
        value_before = values
        values, grad, gaps = _finite(valued_gradient(objective, x_adv))
        rises = rises + (values > value_before)
        higher = values > top_value
        top, top_grad = _where(higher, x_adv, top), _where(higher, grad, top_grad)
        top_value, top_gaps = torch.where(higher, values, top_value), torch.where(higher, gaps, top_gaps)
        since += 1
        if since == window:
            stalled = (rises <= _ENOUGH * window) | (~halved & (top_value <= value_then))
            step = _where(stalled, step / 2, step)
            x_adv, grad = _where(stalled, top, x_adv), _where(stalled, top_grad, grad)
            values, gaps = torch.where(stalled, top_value, values), torch.where(stalled, top_gaps, gaps)
            rises, value_then, halved = torch.zeros_like(rises), top_value, stalled
            since, window = 0, next(checkpoints)
    return kept(objective, x_adv)


def _windows(steps: int) -> Iterator[int]:
    """Steps from one checkpoint to the next: 22 % of all at first, 3 % fewer each time, 6 % at least."""
    window, fewer, least = (max(int(share * steps), 1) for share in (0.22, 0.03, 0.06))
    while True:
        yield window
        window = max(window - fewer, least)


def _finite(passed: tuple[Tensor, Tensor, Tensor]) -> tuple[Tensor, Tensor, Tensor]:
    """A value that is NaN is the lowest of all: whatever comes after is higher."""
    values, grad, gaps = passed
    return torch.where(values.isnan(), -torch.inf, values), grad, gaps


def _where(rows: Tensor, a: Tensor, b: Tensor) -> Tensor:
    return torch.where(rows[:, None, None, None], a, b)
