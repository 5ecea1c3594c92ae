"""Random crops and flips alike for everything that belongs to an image; light and place for what stands alone."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from loradar.core.errors import BadImagesError
from loradar.core.randomness import generator, uniform
from loradar.core.types import Images


def augment(
    images: Sequence[Tensor], *, crop: int = 4, flip: bool = True, seed: int, first: int = 0, batch: int | None = None
) -> tuple[Tensor, ...]:
    """Shifts each image by up to `crop` pixels each way, reflecting at the borders, and mirrors half of them.

    `images` are tensors (batch, channels, height, width) of one batch, clean and adversarial: row i of each gets the same
    draw, so that a perturbation stays on its pixels. The same `seed` gives the same draws. Images that are the rows from
    `first` on of a larger `batch` get the draws that they would get in it. Raises BadImagesError where the tensors differ in
    batch, height or width, or where `crop` is not smaller than the images.
    """
    shapes = {(len(x), *x.shape[2:]) for x in images}
    if len(shapes) != 1 or any(x.ndim != 4 for x in images):
        raise BadImagesError(
            f"images have shapes {[tuple(x.shape) for x in images]}; expected one batch, height and width"
        )
    ((count, height, width),) = shapes
    if not 0 <= crop < min(height, width):
        raise BadImagesError(f"crop is {crop}; expected 0 to {min(height, width) - 1} for images {height}x{width}")
    draws = generator(seed)
    whole, own = batch or count, slice(first, first + count)
    shifts = torch.randint(-crop, crop + 1, (2, whole, 1), generator=draws)[:, own]
    mirrored = (torch.rand(whole, 1, generator=draws)[own] < 0.5) & flip
    rows = _reflected(torch.arange(height) + shifts[0], height)
    columns = torch.arange(width).expand(count, -1)
    columns = _reflected(torch.where(mirrored, columns.flip(1), columns) + shifts[1], width)
    return tuple(_taken(x, rows.to(x.device), columns.to(x.device)) for x in images)


def varied(x: Images, seed: int, *, shift: float = 0.125) -> Images:
    """Each image in another light and another place: brightness, saturation, contrast, and a shift over zeros.

    The shift is up to the share `shift` of the side each way. An image's draws depend on `seed` and on its own pixels. Zhao
    et al., "Differentiable Augmentation", 2020, policy "color,translation", as PMF uses it; clamped to [0, 1].
    """
    draws = uniform(x, seed, (5,))
    brightness, saturation, contrast = (draws[:, i, None, None, None] for i in range(3))
    out = x + brightness - 0.5
    grey = out.mean(1, keepdim=True)
    out = (out - grey) * (2 * saturation) + grey
    level = out.mean((1, 2, 3), keepdim=True)
    out = ((out - level) * (contrast + 0.5) + level).clamp(0, 1)
    height, width = x.shape[2:]
    reach = [round(side * shift) for side in (height, width)]
    padded = F.pad(out, (reach[1], reach[1], reach[0], reach[0]))
    down, right = ((draws[:, 3 + i] * (2 * reach[i] + 1)).long().tolist() for i in range(2))
    return torch.stack(
        [padded[i, :, d : d + height, r : r + width] for i, (d, r) in enumerate(zip(down, right, strict=True))]
    )


def _reflected(index: Tensor, length: int) -> Tensor:
    """Indices that run over either end, turned back at the last pixel, which is not repeated."""
    last = length - 1
    return last - (last - index.abs()).abs()


def _taken(x: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """`x[i, :, rows[i], columns[i]]` for every image i."""
    which = torch.arange(len(x), device=x.device)[:, None, None]
    return x[which, :, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2).contiguous()
