"""The one inner loop of the gradient attacks: projected steepest ascent, with or without momentum."""

from typing import Literal, TypeAlias

import torch
from torch import Tensor

from loradar.attacks.objectives import Objective, detour, gradient_and_gaps
from loradar.core.types import Ball, Images

Schedule: TypeAlias = Literal["constant", "linear"]
"""Of the step: the same size throughout, or falling in equal parts, the last of them one part."""


def ascend(
    objective: Objective,
    x: Images,
    start: Images,
    *,
    ball: Ball,
    step_size: float,
    steps: int,
    momentum: float = 0.0,
    schedule: Schedule = "constant",
) -> Images:
    """The last of `steps` iterates from `start`: step along the ball's steepest direction, project, clamp to [0, 1].

    `objective` maps (batch, C, H, W) to (batch,), each value of its own image alone. `step_size` is in units of [0, 1]
    pixels, measured in the norm of the ball around `x`. With `momentum`, the direction is the running sum of gradients,
    each divided by its mean absolute value per image (Dong et al., "Boosting Adversarial Attacks with Momentum", 2018,
    equations 6 and 7). By a `linear` schedule, `step_size` is the first of steps that shrink: large ones find a corner of
    the ball, small ones settle there, so that half as many reach the same loss. Where the gradient of an image is not
    finite and leaves nothing to follow, its step is a `detour`: the next one may find a gradient again.
    """
    x_adv, direction, aside = start.detach(), torch.zeros_like(x), ball.steepest(detour(x))
    for k in range(steps):
        grad, gaps = gradient_and_gaps(objective, x_adv)
        if momentum:
            size = grad.abs().mean((1, 2, 3), keepdim=True)
            # the smallest normal number, not an epsilon of taste: gradients of confident models are tiny
            direction = momentum * direction + grad / size.clamp_min(torch.finfo(grad.dtype).tiny)
        else:
            direction = grad
        size_now = step_size * (1 - k / steps) if schedule == "linear" else step_size
        steepest = steepest_or_aside(ball, direction, gaps, aside)
        # project last: the step may leave the ball; clamping then only moves towards x, which is in [0, 1]
        x_adv = ball.project(x_adv + size_now * steepest, x).clamp(0, 1)
    return x_adv


def steepest_or_aside(ball: Ball, grad: Tensor, gaps: Tensor, aside: Tensor) -> Tensor:
    """The ball's steepest step along `grad`; `aside` for an image with `gaps` whose gradient leaves nothing to follow."""
    steepest = ball.steepest(grad)
    lost = gaps & ~steepest.flatten(1).any(1)
    return torch.where(lost[:, None, None, None], aside, steepest)
