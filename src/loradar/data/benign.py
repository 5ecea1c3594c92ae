"""Benign changes of an image: what files, cameras and screens do to it on its way, at everyday strengths.

Every kind draws its strength for each image by the seed and the image alone. Draws favour both ends of a range, so that
what is measured on a kind holds there too. Lengths are shares of the image's side.
"""

import io
import math
from collections.abc import Callable, Mapping

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from loradar.core.checks import check_images
from loradar.core.errors import BadConfigError, did_you_mean
from loradar.core.randomness import mix, normal, uniform
from loradar.core.types import Images
from loradar.data.corruptions import blurred, pixel_grid, to_picture, to_pixels, warped

_FILTERS = (Image.Resampling.BILINEAR, Image.Resampling.BICUBIC, Image.Resampling.LANCZOS, Image.Resampling.BOX)
_ROUNDING = 0x8B17


def change_benignly(x: Images, kind: str, *, seed: int = 0) -> Images:
    """Changes each image in one everyday way: (batch, 3, H, W) in [0, 1], of the dtype and device of `x`.

    Half of the images that no picture file made are rounded to 8 bits. Raises BadImagesError, and BadConfigError for a
    kind that is not in BENIGN_KINDS.
    """
    check_images(x)
    if kind not in BENIGN_KINDS:
        raise BadConfigError(f"there is no benign change {kind!r}; {did_you_mean(kind, BENIGN_KINDS)}")
    pixels = x.detach().float().cpu()
    changed = BENIGN_KINDS[kind](pixels, seed).clamp(0, 1)
    rounded = uniform(pixels, mix(seed, _ROUNDING), (1, 1, 1)) < 0.5
    return torch.where(rounded, (changed * 255).round() / 255, changed).to(x)


def _between(x: Images, seed: int, low: float, high: float) -> Tensor:
    """(batch, 1, 1, 1) draws between two bounds; half of them in the outer thirds (the arcsine law)."""
    return low + (high - low) * (0.5 - 0.5 * (math.pi * uniform(x, seed, (1, 1, 1))).cos())


def _coin(x: Images, seed: int, sides: int) -> list[int]:
    """A whole number from 0 to `sides` - 1 for each image."""
    return [int(value) for value in (uniform(x, seed, (1,)) * sides).flatten()]


def _jpeg(x: Images, seed: int) -> Images:
    """Quality 50 to 95, with or without chroma subsampling."""
    options = zip(x, _between(x, seed, 50, 95).flatten().tolist(), _coin(x, mix(seed, 1), 2), strict=True)
    return torch.stack([_coded(i, "JPEG", quality=round(q), subsampling=(0, 2)[s]) for i, q, s in options])


def _webp(x: Images, seed: int) -> Images:
    """Quality 50 to 95."""
    qualities = _between(x, seed, 50, 95).flatten().tolist()
    return torch.stack([_coded(i, "WEBP", quality=round(q)) for i, q in zip(x, qualities, strict=True)])


def _coded(image: Tensor, form: str, **options: int) -> Tensor:
    file = io.BytesIO()
    to_picture(image).save(file, form, **options)
    with Image.open(file) as picture:
        return to_pixels(picture.convert("RGB"))


def _resize(x: Images, seed: int) -> Images:
    """Down to 50 to 95 % of the side and up again, by any of the usual filters."""
    height, width = x.shape[2:]
    changed = []
    for image, share, f in zip(x, _between(x, seed, 0.5, 0.95).flatten(), _coin(x, mix(seed, 1), 4), strict=True):
        small = (max(1, round(width * float(share))), max(1, round(height * float(share))))
        picture = to_picture(image).resize(small, _FILTERS[f])
        changed.append(to_pixels(picture.resize((width, height), _FILTERS[f])))
    return torch.stack(changed)


def _brightness(x: Images, seed: int) -> Images:
    """30 % up or down as light does it, or 0.15 as a slider does."""
    light, slider = x * _between(x, seed, 0.7, 1.3), x + _between(x, mix(seed, 1), -0.15, 0.15)
    return torch.where(uniform(x, mix(seed, 2), (1, 1, 1)) < 0.5, light, slider)


def _contrast(x: Images, seed: int) -> Images:
    """60 to 140 % about the image's mean."""
    mean = x.mean((1, 2, 3), keepdim=True)
    return (x - mean) * _between(x, seed, 0.6, 1.4) + mean


def _shift(x: Images, seed: int) -> Images:
    """A sixteenth of the side at most, a pixel at least, in whole pixels; reflected, black, repeated or rolled in."""
    reach = max(1, round(min(x.shape[2:]) / 16))
    ways = [(d, r) for d in range(-reach, reach + 1) for r in range(-reach, reach + 1) if d or r]
    moved = []
    for image, way, fill in zip(x, _coin(x, seed, len(ways)), _coin(x, mix(seed, 1), 4), strict=True):
        down, right = ways[way]
        if fill == 3:
            moved.append(image.roll((down, right), (1, 2)))
            continue
        mode = ("reflect", "constant", "replicate")[fill]
        wide = F.pad(image[None], (reach,) * 4, mode=mode)[0]
        moved.append(wide[:, reach - down :, reach - right :][:, : image.shape[1], : image.shape[2]])
    return torch.stack(moved)


def _rotation(x: Images, seed: int) -> Images:
    """10 degrees at most; reflected or black at the corners."""
    return _affine(x, _between(x, seed, -10, 10).flatten().deg2rad(), torch.ones(len(x)), mix(seed, 1))


def _zoom(x: Images, seed: int) -> Images:
    """90 to 110 % about the centre; reflected or black at the borders."""
    return _affine(x, torch.zeros(len(x)), _between(x, seed, 0.9, 1.1).flatten(), mix(seed, 1))


def _affine(x: Images, angles: Tensor, factors: Tensor, seed: int) -> Images:
    grid = pixel_grid(x)
    centre = torch.tensor([(x.shape[3] - 1) / 2, (x.shape[2] - 1) / 2])
    cos, sin = (angles.cos() / factors)[:, None, None], (angles.sin() / factors)[:, None, None]
    column, row = (grid - centre).unbind(2)
    columns, rows = column * cos - row * sin + centre[0], column * sin + row * cos + centre[1]
    turned = warped(x, rows - grid[..., 1], columns - grid[..., 0], mode="bilinear")
    outside = (columns < 0) | (columns > x.shape[3] - 1) | (rows < 0) | (rows > x.shape[2] - 1)
    black = torch.tensor(_coin(x, seed, 2))[:, None, None] == 1
    return turned.masked_fill((outside & black)[:, None], 0)


def _sensor_noise(x: Images, seed: int) -> Images:
    """Read noise of deviation 0.005 to 0.025, and shot noise of 1,000 to 8,000 electrons at white."""
    read, electrons = _between(x, seed, 0.005, 0.025), 2 ** _between(x, mix(seed, 1), 10, 13)
    return x + (read.square() + x / electrons).sqrt() * normal(x, mix(seed, 2), tuple(x.shape[1:]))


def _blur(x: Images, seed: int) -> Images:
    """A Gaussian of 1 to 3 % of the side."""
    sigmas = _between(x, seed, 0.01, 0.03).flatten() * min(x.shape[2:])
    return torch.cat([blurred(image[None], float(sigma)) for image, sigma in zip(x, sigmas, strict=True)])


def _gamma(x: Images, seed: int) -> Images:
    """0.7 to 1.4."""
    return x ** _between(x, seed, 0.7, 1.4)


def _white_balance(x: Images, seed: int) -> Images:
    """Each channel 10 % brighter or darker at most."""
    return x * (0.9 + 0.2 * uniform(x, seed, (x.shape[1], 1, 1)))


def _posterize(x: Images, seed: int) -> Images:
    """5 to 7 bits a channel."""
    levels = torch.tensor([31.0, 63.0, 127.0])[_coin(x, seed, 3)][:, None, None, None]
    return (x * levels).round() / levels


BENIGN_KINDS: Mapping[str, Callable[[Images, int], Images]] = {
    "jpeg": _jpeg,
    "webp": _webp,
    "resize": _resize,
    "brightness": _brightness,
    "contrast": _contrast,
    "shift": _shift,
    "rotation": _rotation,
    "sensor-noise": _sensor_noise,
    "blur": _blur,
    "gamma": _gamma,
    "white-balance": _white_balance,
    "zoom": _zoom,
    "posterize": _posterize,
}
"""What an image may go through without being attacked; each maps (images, seed) to images."""
