"""Random crops and flips, one draw per image, alike for everything that belongs to the image."""

from collections.abc import Sequence

import torch
from torch import Tensor

from loradar.core.errors import BadImagesError
from loradar.core.randomness import generator


def augment(images: Sequence[Tensor], *, crop: int = 4, flip: bool = True, seed: int) -> tuple[Tensor, ...]:
    """Shifts each image by up to `crop` pixels each way, reflecting at the borders, and mirrors half of them.

    `images` are tensors (batch, channels, height, width) of one batch, clean and adversarial: row i of each gets the same
    draw, so that a perturbation stays on its pixels. The same `seed` gives the same draws. Raises BadImagesError where
    the tensors differ in batch, height or width, or where `crop` is not smaller than the images.
    """
    shapes = {(len(x), *x.shape[2:]) for x in images}
    if len(shapes) != 1 or any(x.ndim != 4 for x in images):
        raise BadImagesError(
            f"images have shapes {[tuple(x.shape) for x in images]}; expected one batch, height and width"
        )
    ((batch, height, width),) = shapes
    if not 0 <= crop < min(height, width):
        raise BadImagesError(f"crop is {crop}; expected 0 to {min(height, width) - 1} for images {height}x{width}")
    draws = generator(seed)
    shifts = torch.randint(-crop, crop + 1, (2, batch, 1), generator=draws)
    mirrored = (torch.rand(batch, 1, generator=draws) < 0.5) & flip
    rows = _reflected(torch.arange(height) + shifts[0], height)
    columns = torch.arange(width).expand(batch, -1)
    columns = _reflected(torch.where(mirrored, columns.flip(1), columns) + shifts[1], width)
    return tuple(_taken(x, rows.to(x.device), columns.to(x.device)) for x in images)


def _reflected(index: Tensor, length: int) -> Tensor:
    """Indices that run over either end, turned back at the last pixel, which is not repeated."""
    last = length - 1
    return last - (last - index.abs()).abs()


def _taken(x: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """`x[i, :, rows[i], columns[i]]` for every image i."""
    which = torch.arange(len(x), device=x.device)[:, None, None]
    return x[which, :, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2).contiguous()
