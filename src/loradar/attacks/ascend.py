"""The one inner loop of the gradient attacks: projected steepest ascent, with or without momentum."""

import torch

from loradar.attacks.door import Objective, gradient
from loradar.core.types import Ball, Images


def ascend(
    objective: Objective, x: Images, start: Images, *, ball: Ball, step: float, steps: int, momentum: float = 0.0
) -> Images:
    """The last of `steps` iterates from `start`: step along the ball's steepest direction, project, clamp to [0, 1].

    `objective` maps (batch, C, H, W) to (batch,), each value of its own image alone. `step` is in units of [0, 1]
    pixels, measured in the norm of the ball around `x`. With `momentum`, the direction is the running sum of gradients,
    each divided by its mean absolute value per image (Dong et al., "Boosting Adversarial Attacks with Momentum", 2018,
    equations 6 and 7).
    """
    x_adv, direction = start.detach(), torch.zeros_like(x)
    for _ in range(steps):
        grad = gradient(objective, x_adv)
        if momentum:
            size = grad.abs().mean((1, 2, 3), keepdim=True)
            # the smallest normal number, not an epsilon of taste: gradients of confident models are tiny
            direction = momentum * direction + grad / size.clamp_min(torch.finfo(grad.dtype).tiny)
        else:
            direction = grad
        # project last: the step may leave the ball; clamping then only moves towards x, which is in [0, 1]
        x_adv = ball.project(x_adv + step * ball.steepest(direction), x).clamp(0, 1)
    return x_adv
