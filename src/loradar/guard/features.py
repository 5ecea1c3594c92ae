"""The identifier's input: label-free statistics of an image and of the votes on it. All of it is differentiable."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from loradar.core.types import Images

_BLOCK = 8
_LEAST = 1e-6


def residual_statistics(x: Images, *, window: tuple[int, int]) -> Tensor:
    """Computes (batch, 5 + 15 * C) statistics of what smoothing removes: noise over the image, and one rectangle of it.

    Logarithms of: mean absolute residual of first and second order; the largest residual energy in a rectangle of `window`
    (height, width), and that over the mean; 15 bands of the 8 x 8 block DCT, low to high, of all channels, then of each
    difference of neighbouring channels. Photographs have little fine detail in colour, perturbations as much as in
    brightness. Last, the largest share of extreme pixel values in such a rectangle above that of the image.
    """
    residual = highpass(x)
    noise = [residual.abs().mean((1, 2, 3)), highpass(residual).abs().mean((1, 2, 3))]
    energy = _windows(residual.square().mean(1, keepdim=True), window)
    largest = energy.amax(1)
    # near 1 at black and white alone: an unbounded attack drives its pixels there
    extreme = _windows((2 * x - 1).abs().pow(8).mean(1, keepdim=True), window)
    logarithms = torch.stack([*noise, largest, largest / energy.mean(1).clamp_min(_LEAST)], dim=1)
    return torch.cat(
        [
            logarithms.clamp_min(_LEAST).log(),
            _bands(x).clamp_min(_LEAST).log(),
            *(_bands(colour[:, None]).clamp_min(_LEAST).log() for colour in x.diff(dim=1).unbind(1)),
            (extreme.amax(1) - extreme.mean(1))[:, None],
        ],
        dim=1,
    )


def vote_features(log_probs: Tensor) -> Tensor:
    """Computes (batch, 3 + 5 * others) features of `log_probs` (1 + others, batch, classes), the base first.

    Of each voter its largest log-probability, the gap to the second, its entropy; of each but the base its total
    variation distance from the base, and the log-probability that it gives the base's answer.
    """
    top = log_probs.topk(2, dim=2).values
    probabilities = log_probs.exp()
    # a confident voter's differences run into the hundreds, which say no more than tens do
    confidences = [top[..., 0], (top[..., 0] - top[..., 1]).clamp_max(20), -(probabilities * log_probs).sum(2)]
    answer = log_probs[0].argmax(1)
    distance = (probabilities[1:] - probabilities[:1]).abs().sum(2) / 2
    agreed = log_probs[1:].gather(2, answer.expand(len(log_probs) - 1, -1)[..., None])[..., 0].clamp_min(-20)
    return torch.cat([*confidences, distance, agreed]).transpose(0, 1)


def highpass(x: Images) -> Tensor:
    """Subtracts the 3 x 3 means from `x`."""
    return x - F.avg_pool2d(F.pad(x, (1, 1, 1, 1), mode="reflect"), 3, stride=1)


def highest_energy_window(x: Images, *, window: tuple[int, int]) -> Tensor:
    """Finds the rectangle with the most residual energy: (batch, 2), row and column of its upper left corner."""
    energy = _windows(highpass(x).square().mean(1, keepdim=True), window)
    columns = x.shape[3] - window[1] + 1
    best = energy.argmax(1)
    return torch.stack([best // columns, best % columns], dim=1)


def _windows(values: Tensor, window: tuple[int, int]) -> Tensor:
    """Averages (batch, 1, height, width) inside the rectangle at every position, row by row: (batch, positions)."""
    return F.avg_pool2d(values, window, stride=1).flatten(1)


def _bands(x: Images) -> Tensor:
    """(batch, 15) mean absolute block-DCT coefficients by frequency, the antidiagonals of an 8 x 8 block, half overlapping.

    Sizes that 4 does not divide lose up to 3 rows and columns.
    """
    basis = block_dct().to(x)
    flat = x.flatten(0, 1)[:, None]
    coefficients = F.conv2d(flat, basis[:, None], stride=_BLOCK // 2).abs().mean((2, 3))
    coefficients = coefficients.view(x.shape[0], x.shape[1], _BLOCK * _BLOCK).mean(1)
    order = torch.arange(_BLOCK, device=x.device)
    bands = F.one_hot((order[:, None] + order[None]).flatten(), 2 * _BLOCK - 1).to(x)
    return coefficients @ (bands / bands.sum(0))


def block_dct() -> Tensor:
    """Returns the orthonormal two-dimensional DCT-II basis of JPEG's blocks, (64, 8, 8), row frequency first."""
    places = torch.arange(_BLOCK, dtype=torch.float64)
    basis = torch.cos((2 * places[None] + 1) * places[:, None] * math.pi / (2 * _BLOCK)) * math.sqrt(2 / _BLOCK)
    basis[0] /= math.sqrt(2)
    return torch.einsum("ij,kl->ikjl", basis, basis).reshape(-1, _BLOCK, _BLOCK).float()
