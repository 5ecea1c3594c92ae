"""ROA and FIA as their papers write them, plainly: what there is to be faster than, where no package has the attack."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

GREY = 0.5


def roa(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    *,
    size: int = 5,
    candidates: int | None = 20,
    steps: int = 30,
    step: float = 0.05,
) -> Tensor:
    """Wu et al., ICLR 2020, section 4.1: positions by gradient (or every one, for None), then PGD inside the rectangle.

    One forward pass of the batch for each candidate.
    """
    places = x.shape[3] - size + 1
    if candidates is None:
        tried = torch.arange(places * places).expand(len(x), -1)
    else:
        grad = _gradient(model, x, y).square().sum(1, keepdim=True)
        tried = F.avg_pool2d(grad, size, stride=1).flatten(1).topk(candidates).indices
    best, chosen = torch.full((len(x),), -1.0), tried[:, 0].clone()
    with torch.no_grad():
        for position in tried.T:
            painted = x.masked_fill(_mask(position, places, size, x), GREY)
            loss = F.cross_entropy(model(painted), y, reduction="none")
            chosen = torch.where(loss > best, position, chosen)
            best = torch.maximum(loss, best)
    mask = _mask(chosen, places, size, x)
    x_adv = x.masked_fill(mask, GREY)
    for _ in range(steps):
        x_adv = (x_adv + step * _gradient(model, x_adv, y).sign() * mask).clamp(0, 1)
    return x_adv


def _mask(position: Tensor, places: int, size: int, x: Tensor) -> Tensor:
    top, left = (position // places)[:, None], (position % places)[:, None]
    pixels = torch.arange(x.shape[3])
    rows, columns = (pixels >= top) & (pixels < top + size), (pixels >= left) & (pixels < left + size)
    return (rows[:, :, None] & columns[:, None, :])[:, None]


def fia(
    model: nn.Module,
    layer: nn.Module,
    x: Tensor,
    y: Tensor,
    *,
    masks: int = 30,
    drop: float = 0.3,
    steps: int = 10,
    radius: float = 16 / 255,
    step: float = 1.6 / 255,
) -> Tensor:
    """Wang et al., ICCV 2021, sections 3.2 and 3.3: one forward and backward pass of the batch for each mask and step."""
    features: list[Tensor] = []
    handle = layer.register_forward_hook(lambda _module, _args, out: features.append(out))
    try:
        total, draws = torch.zeros(()), torch.Generator().manual_seed(0)
        for _ in range(masks):
            features.clear()
            keep = torch.rand(x.shape, generator=draws) >= drop
            logits = model((x * keep).requires_grad_())
            total = total + torch.autograd.grad(logits.gather(1, y[:, None]).sum(), features[0])[0].float()
        importance = -F.normalize(total.flatten(1)).view_as(total)

        def gradient(x_adv: Tensor) -> Tensor:
            features.clear()
            leaf = x_adv.detach().requires_grad_()
            model(leaf)
            return torch.autograd.grad((importance * features[0]).sum(), leaf)[0]

        return _with_momentum(gradient, x, steps=steps, step=step, radius=radius)
    finally:
        handle.remove()


def _with_momentum(
    gradient: Callable[[Tensor], Tensor], x: Tensor, *, steps: int, step: float, radius: float
) -> Tensor:
    x_adv, direction = x, torch.zeros_like(x)
    for _ in range(steps):
        grad = gradient(x_adv)
        direction = direction + grad / grad.abs().mean((1, 2, 3), keepdim=True)
        x_adv = (x + (x_adv + step * direction.sign() - x).clamp(-radius, radius)).clamp(0, 1)
    return x_adv


def _gradient(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    leaf = x.detach().requires_grad_()
    return torch.autograd.grad(F.cross_entropy(model(leaf), y, reduction="sum"), leaf)[0]
