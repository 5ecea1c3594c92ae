"""Defenses that change an image before it is classified again. Each maps images in [0, 1] to images in [0, 1].

Rounding has no gradient; where a defense rounds, its gradient is that of the identity (Athalye, Carlini and Wagner,
"Obfuscated Gradients Give a False Sense of Security", 2018, section 4.1), so that attacks can go through it.
"""

from collections.abc import Callable, Mapping
from typing import Literal, TypeAlias

import torch
import torch.nn.functional as F
from torch import Tensor

from loradar.core.types import Images
from loradar.guard.features import block_dct, highest_energy_window

Transform: TypeAlias = Literal["inpaint", "smooth", "jpeg", "bit-depth"]
Defense: TypeAlias = Literal["mask", "inpaint", "smooth", "jpeg", "bit-depth"]
DEFENSES: tuple[Defense, ...] = ("mask", "inpaint", "smooth", "jpeg", "bit-depth")
"""`mask` answers by two-round masking (see `masking`); the others change the image, which is then classified again."""

BITS = 4
QUALITY = 60
_DIFFUSIONS = 24


def smooth(x: Images) -> Images:
    """Applies a 3 x 3 binomial blur: noise whose sign changes from pixel to pixel keeps a quarter of its size or less."""
    line = torch.tensor([1.0, 2.0, 1.0], device=x.device, dtype=x.dtype) / 4
    kernel = (line[:, None] * line).expand(x.shape[1], 1, 3, 3)
    return F.conv2d(F.pad(x, (1, 1, 1, 1), mode="reflect"), kernel, groups=x.shape[1])


def bit_depth(x: Images, *, bits: int = BITS) -> Images:
    """Rounds to 2 ** bits levels (Xu, Evans and Qi, "Feature Squeezing", 2018, section III-A)."""
    levels = 2**bits - 1
    return _straight_through((x * levels).round() / levels, x)


def jpeg(x: Images, *, quality: int = QUALITY) -> Images:
    """Compresses as JPEG does, without chroma subsampling: block DCT of YCbCr, quantised by the standard's Annex K tables.

    Sides that 8 does not divide are padded with their last rows and columns. The gradient is that of the identity.
    """
    with torch.no_grad():
        height, width = x.shape[2:]
        padded = F.pad(x, (0, -width % 8, 0, -height % 8), mode="replicate")
        blocks = F.conv2d(
            (_to_ycc(padded) * 255 - 128).flatten(0, 1)[:, None], (basis := block_dct().to(x))[:, None], stride=8
        )
        table = _tables(quality).to(x)[torch.arange(blocks.shape[0], device=x.device) % 3][:, :, None, None]
        restored = F.conv_transpose2d((blocks / table).round() * table, basis[:, None], stride=8)
        decoded = _to_rgb((restored.view_as(padded) + 128) / 255)[:, :, :height, :width]
    return _straight_through(decoded.clamp(0, 1), x)


def inpaint(x: Images, *, window: tuple[int, int]) -> Images:
    """Fills the rectangle of `window` with the most residual energy from its rim, by diffusion (harmonic inpainting)."""
    corner = highest_energy_window(x, window=window)
    rows, columns = (torch.arange(size, device=x.device) for size in x.shape[2:])
    inside_rows = (rows >= corner[:, :1]) & (rows < corner[:, :1] + window[0])
    inside_columns = (columns >= corner[:, 1:]) & (columns < corner[:, 1:] + window[1])
    mask = (inside_rows[:, :, None] & inside_columns[:, None, :])[:, None]
    filled = torch.where(mask, x.mean((2, 3), keepdim=True), x)
    for _ in range(_DIFFUSIONS):
        spread = F.avg_pool2d(F.pad(filled, (1, 1, 1, 1), mode="reflect"), 3, stride=1)
        filled = torch.where(mask, spread, x)
    return filled


def transforms(window: tuple[int, int]) -> Mapping[Transform, Callable[[Images], Images]]:
    """Returns the defenses that change an image, by name, in the order in which several are applied."""
    return {
        "inpaint": lambda x: inpaint(x, window=window),
        "smooth": smooth,
        "jpeg": jpeg,
        "bit-depth": bit_depth,
    }


def _straight_through(value: Tensor, x: Tensor) -> Tensor:
    """Returns `value` with the gradient of `x`."""
    return x + (value - x).detach()


# ITU-T T.81, tables K.1 (luminance) and K.2 (chrominance), row by row
_LUMINANCE = (
    (16, 11, 10, 16, 24, 40, 51, 61),
    (12, 12, 14, 19, 26, 58, 60, 55),
    (14, 13, 16, 24, 40, 57, 69, 56),
    (14, 17, 22, 29, 51, 87, 80, 62),
    (18, 22, 37, 56, 68, 109, 103, 77),
    (24, 35, 55, 64, 81, 104, 113, 92),
    (49, 64, 78, 87, 103, 121, 120, 101),
    (72, 92, 95, 98, 112, 100, 103, 99),
)
_CHROMINANCE = ((17, 18, 24, 47), (18, 21, 26, 66), (24, 26, 56, 99), (47, 66, 99, 99))


def _tables(quality: int) -> Tensor:
    """(3, 64) divisors for Y, Cb, Cr at `quality` in 1 to 100, scaled as libjpeg does."""
    luminance = torch.tensor(_LUMINANCE)
    chrominance = torch.full((8, 8), 99)
    chrominance[:4, :4] = torch.tensor(_CHROMINANCE)
    scale = 5000 // quality if quality < 50 else 200 - 2 * quality
    both = torch.stack([luminance, chrominance, chrominance]).flatten(1)
    return ((both * scale + 50) // 100).clamp(1, 255).float()


_YCC = ((0.299, 0.587, 0.114), (-0.168736, -0.331264, 0.5), (0.5, -0.418688, -0.081312))
_RGB = torch.linalg.inv(torch.tensor(_YCC, dtype=torch.float64)).tolist()
"""Once, since ONNX inverts no matrices."""


def _to_ycc(x: Images) -> Images:
    matrix = torch.tensor(_YCC, device=x.device, dtype=x.dtype)
    shift = torch.tensor([0.0, 128 / 255, 128 / 255], device=x.device, dtype=x.dtype)
    return torch.einsum("ij,bjhw->bihw", matrix, x) + shift[:, None, None]


def _to_rgb(x: Images) -> Images:
    matrix = torch.tensor(_RGB, device=x.device, dtype=x.dtype)
    shift = torch.tensor([0.0, 128 / 255, 128 / 255], device=x.device, dtype=x.dtype)
    return torch.einsum("ij,bjhw->bihw", matrix, x - shift[:, None, None])
