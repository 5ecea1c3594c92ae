"""The 15 common corruptions at 5 severities, for images of any size, on torch.

Hendrycks and Dietterich, "Benchmarking Neural Network Robustness to Common Corruptions and Perturbations", 2019. The
constants are those of CIFAR-10-C, for 32 pixels; lengths grow with the side of the image. Draws depend on the seed and on
the image alone. Frost is drawn (CIFAR-10-C takes it from photographs), motion blur is a line of Gaussian weights.
"""

import io
import math
from collections.abc import Callable
from typing import Literal, TypeAlias, get_args

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from loradar.core.checks import check_images
from loradar.core.errors import BadConfigError, did_you_mean
from loradar.core.randomness import mix, normal, uniform
from loradar.core.types import Images

Corruption: TypeAlias = Literal[
    "gaussian_noise",
    "shot_noise",
    "impulse_noise",
    "defocus_blur",
    "glass_blur",
    "motion_blur",
    "zoom_blur",
    "snow",
    "frost",
    "fog",
    "brightness",
    "contrast",
    "elastic_transform",
    "pixelate",
    "jpeg_compression",
]
CORRUPTIONS: tuple[Corruption, ...] = get_args(Corruption)
SEVERITIES = 5


def corrupt(x: Images, corruption: Corruption, severity: int, *, seed: int = 0) -> Images:
    """(batch, 3, H, W) in [0, 1], of the dtype and device of `x`, every image corrupted by `severity` 1 to 5.

    Raises BadImagesError, and BadConfigError for a name or a severity that does not exist.
    """
    check_images(x)
    if corruption not in _APPLY:
        raise BadConfigError(f"there is no corruption {corruption!r}; {did_you_mean(corruption, _APPLY)}")
    if not 1 <= severity <= SEVERITIES:
        raise BadConfigError(f"severity is {severity}; expected 1 to {SEVERITIES}")
    pixels = x.detach().float().cpu()
    return _APPLY[corruption](pixels, severity - 1, seed).clamp(0, 1).to(x)


def _gaussian_noise(x: Images, level: int, seed: int) -> Images:
    return x + (0.04, 0.06, 0.08, 0.09, 0.10)[level] * normal(x, seed, tuple(x.shape[1:]))


def _shot_noise(x: Images, level: int, seed: int) -> Images:
    photons = (500.0, 250.0, 100.0, 75.0, 50.0)[level]
    # with this many photons Poisson's law is Gauss's to the eye, and one draw an image keeps the streams apart
    return x + (x / photons).sqrt() * normal(x, seed, tuple(x.shape[1:]))


def _impulse_noise(x: Images, level: int, seed: int) -> Images:
    share = (0.01, 0.02, 0.03, 0.05, 0.07)[level]
    hit, white = (uniform(x, mix(seed, i), tuple(x.shape[1:])) for i in range(2))
    return torch.where(hit < share, (white < 0.5).to(x), x)


def _defocus_blur(x: Images, level: int, seed: int) -> Images:  # noqa: ARG001
    radius, softness = ((0.3, 0.4), (0.4, 0.5), (0.5, 0.6), (1.0, 0.2), (1.5, 0.1))[level]
    radius *= _scale(x)
    reach = max(1, math.ceil(radius))
    line = torch.arange(-reach, reach + 1.0)
    disk = (line[:, None] ** 2 + line[None] ** 2 <= radius**2).float()
    return blurred(filtered(x, disk / disk.sum()), softness)


def _glass_blur(x: Images, level: int, seed: int) -> Images:
    sigma, reach, rounds = ((0.05, 1, 1), (0.25, 1, 1), (0.4, 1, 1), (0.25, 1, 2), (0.4, 1, 2))[level]
    sigma, reach = sigma * _scale(x), max(1, round(reach * _scale(x)))
    moved = blurred(x, sigma)
    for turn in range(rounds):
        # each pixel takes the place of a neighbour
        shifts = (uniform(x, mix(seed, turn), (2, *x.shape[2:])) * (2 * reach + 1)).floor() - reach
        moved = warped(moved, shifts[:, 0], shifts[:, 1], mode="nearest")
    return blurred(moved, sigma)


def _motion_blur(x: Images, level: int, seed: int) -> Images:
    radius, sigma = ((6, 1.0), (6, 1.5), (6, 2.0), (8, 2.0), (9, 2.5))[level]
    angles = (uniform(x, seed, (1,)).squeeze(1) * 2 - 1) * 45
    return _streaked(x, radius * _scale(x), sigma * _scale(x), angles)


def _zoom_blur(x: Images, level: int, seed: int) -> Images:  # noqa: ARG001
    most = (6, 11, 16, 21, 26)[level]
    zoomed = [_zoomed(x, 1 + step / 100) for step in range(most)]
    return (x + torch.stack(zoomed).sum(0)) / (most + 1)


def _snow(x: Images, level: int, seed: int) -> Images:
    mean, spread, zoom, floor, radius, sigma, keep = (
        (0.1, 0.2, 1.0, 0.6, 8, 3.0, 0.95),
        (0.1, 0.2, 1.0, 0.5, 10, 4.0, 0.9),
        (0.15, 0.3, 1.75, 0.55, 10, 4.0, 0.9),
        (0.25, 0.3, 2.25, 0.6, 12, 6.0, 0.85),
        (0.3, 0.3, 1.25, 0.65, 14, 12.0, 0.8),
    )[level]
    flakes = _zoomed(mean + spread * normal(x, seed, (1, *x.shape[2:])), zoom)
    flakes = torch.where(flakes < floor, 0, flakes).clamp(0, 1)
    angles = -135 + 90 * uniform(x, mix(seed, 1), (1,)).squeeze(1)
    flakes = _streaked(flakes, radius * _scale(x), sigma * _scale(x), angles)
    grey = (x * x.new_tensor([0.299, 0.587, 0.114])[:, None, None]).sum(1, keepdim=True)
    whitened = keep * x + (1 - keep) * torch.maximum(x, grey * 1.5 + 0.5)
    return whitened + flakes + flakes.rot90(2, (2, 3))


def _frost(x: Images, level: int, seed: int) -> Images:
    keep, ice = ((1.0, 0.2), (1.0, 0.3), (0.9, 0.4), (0.85, 0.4), (0.75, 0.45))[level]
    # crystals: thin ridges of a fractal, bluish white, thicker towards where it is high
    height = _fractal(x, 1.7, seed)
    ridges = 1 - (2 * _fractal(x, 1.4, mix(seed, 1)) - 1).abs()
    tint = x.new_tensor([0.85, 0.95, 1.0])[:, None, None]
    return keep * x + ice * (0.35 + 0.65 * ridges**3 + 0.3 * height) * tint


def _fog(x: Images, level: int, seed: int) -> Images:
    thickness, decay = ((0.2, 3.0), (0.5, 3.0), (0.75, 2.5), (1.0, 2.0), (1.5, 1.75))[level]
    brightest = x.amax((1, 2, 3), keepdim=True)
    return (x + thickness * _fractal(x, decay, seed)) * brightest / (brightest + thickness)


def _brightness(x: Images, level: int, seed: int) -> Images:  # noqa: ARG001
    value = x.amax(1, keepdim=True)
    brighter = (value + (0.05, 0.1, 0.15, 0.2, 0.3)[level]).clamp_max(1)
    # hue and saturation stay where all channels grow by one factor; black turns grey
    return torch.where(value > 0, x * brighter / value.clamp_min(1e-6), brighter)


def _contrast(x: Images, level: int, seed: int) -> Images:  # noqa: ARG001
    mean = x.mean((2, 3), keepdim=True)
    return (x - mean) * (0.75, 0.5, 0.4, 0.3, 0.15)[level] + mean


def _elastic_transform(x: Images, level: int, seed: int) -> Images:
    strength, smooth, corner = (
        (0, 0, 0.08),
        (0.05, 0.2, 0.07),
        (0.08, 0.06, 0.06),
        (0.1, 0.04, 0.05),
        (0.1, 0.03, 0.03),
    )[level]
    side = min(x.shape[2:])
    third, middle = side // 3, side // 2
    # the affine map that moves three corners of an inner square by a random step each
    fixed = torch.tensor([[1, 1], [1, -1], [-1, -1]]) * float(third) + middle
    pushed = fixed + (uniform(x, seed, (3, 2)) * 2 - 1) * corner * side
    back = torch.linalg.solve(torch.cat([pushed, torch.ones(len(x), 3, 1)], 2), fixed.expand(len(x), 3, 2))
    grid = pixel_grid(x)
    place = torch.cat([grid, torch.ones(*grid.shape[:2], 1)], 2).flatten(0, 1) @ back
    shifts = place.view(len(x), *grid.shape) - grid
    waves = uniform(x, mix(seed, 1), (2, *x.shape[2:])) * 2 - 1
    if strength:
        shifts = shifts + (blurred(waves, smooth * side) * strength * side).permute(0, 2, 3, 1)
    return warped(x, shifts[..., 1], shifts[..., 0], mode="bilinear")


def _pixelate(x: Images, level: int, seed: int) -> Images:  # noqa: ARG001
    share = (0.95, 0.9, 0.85, 0.75, 0.65)[level]
    height, width = x.shape[2:]
    small = [_resized(image, int(height * share), int(width * share)) for image in x]
    return torch.stack([_resized(image, height, width) for image in small])


def _jpeg_compression(x: Images, level: int, seed: int) -> Images:  # noqa: ARG001
    return torch.stack([_jpeg(image, (80, 65, 58, 50, 40)[level]) for image in x])


_APPLY: dict[str, Callable[[Images, int, int], Images]] = {
    "gaussian_noise": _gaussian_noise,
    "shot_noise": _shot_noise,
    "impulse_noise": _impulse_noise,
    "defocus_blur": _defocus_blur,
    "glass_blur": _glass_blur,
    "motion_blur": _motion_blur,
    "zoom_blur": _zoom_blur,
    "snow": _snow,
    "frost": _frost,
    "fog": _fog,
    "brightness": _brightness,
    "contrast": _contrast,
    "elastic_transform": _elastic_transform,
    "pixelate": _pixelate,
    "jpeg_compression": _jpeg_compression,
}


def _scale(x: Images) -> float:
    """How much longer lengths are than in an image of 32 pixels."""
    return min(x.shape[2:]) / 32


def filtered(x: Images, kernel: Tensor) -> Images:
    reach = kernel.shape[0] // 2
    padded = F.pad(x, (reach,) * 4, mode="reflect" if reach < min(x.shape[2:]) else "replicate")
    channels = x.shape[1]
    return F.conv2d(padded, kernel.expand(channels, 1, *kernel.shape), groups=channels)


def blurred(x: Images, sigma: float) -> Images:
    reach = min(math.ceil(3 * sigma), min(x.shape[2:]) - 1)
    line = torch.exp(-(torch.arange(-reach, reach + 1.0) ** 2) / (2 * max(sigma, 1e-6) ** 2))
    line = line / line.sum()
    return filtered(x, line[:, None] * line[None])


def _streaked(x: Images, radius: float, sigma: float, degrees: Tensor) -> Images:
    """Each image blurred along its own direction, with the weights of half a Gaussian."""
    steps = torch.arange(0, max(1, round(radius)) + 1.0)
    weights = torch.exp(-(steps**2) / (2 * sigma**2))
    angle = torch.deg2rad(degrees)
    plane = torch.ones(len(x), *x.shape[2:])
    total = torch.zeros_like(x)
    for step, weight in zip(steps, weights / weights.sum(), strict=True):
        down, right = (angle.sin() * step)[:, None, None] * plane, (angle.cos() * step)[:, None, None] * plane
        total = total + weight * warped(x, down, right, mode="bilinear")
    return total


def pixel_grid(x: Images) -> Tensor:
    """(height, width, 2): the (column, row) of each pixel."""
    rows, columns = torch.meshgrid(*(torch.arange(float(side)) for side in x.shape[2:]), indexing="ij")
    return torch.stack([columns, rows], 2)


def warped(x: Images, down: Tensor, right: Tensor, *, mode: str) -> Images:
    """Each pixel taken from so far down and right, (batch, height, width); reflected at the borders."""
    place = pixel_grid(x) + torch.stack([right, down], 3)
    sides = torch.tensor([x.shape[3] - 1.0, x.shape[2] - 1.0])
    return F.grid_sample(x, place / sides * 2 - 1, mode=mode, padding_mode="reflection", align_corners=True)


def _zoomed(x: Images, factor: float) -> Images:
    centre = torch.tensor([(x.shape[3] - 1) / 2, (x.shape[2] - 1) / 2])
    shifts = (pixel_grid(x) - centre) * (1 / factor - 1)
    plane = shifts.expand(len(x), *shifts.shape)
    return warped(x, plane[..., 1], plane[..., 0], mode="bilinear")


def _fractal(x: Images, decay: float, seed: int) -> Tensor:
    """(batch, 1, height, width) in [0, 1]: octaves of smooth noise, each finer one weaker by `decay`."""
    height, width = x.shape[2:]
    total = torch.zeros(len(x), 1, height, width)
    for octave in range(max(1, int(math.log2(min(height, width))))):
        cells = 2 ** (octave + 1)
        noise = uniform(x, mix(seed, octave), (1, cells, cells))
        total = total + F.interpolate(noise, size=(height, width), mode="bicubic", align_corners=False) / decay**octave
    low, high = total.amin((1, 2, 3), keepdim=True), total.amax((1, 2, 3), keepdim=True)
    return (total - low) / (high - low).clamp_min(1e-6)


def to_picture(image: Tensor) -> Image.Image:
    return Image.fromarray((image * 255).round().byte().permute(1, 2, 0).numpy())


def to_pixels(picture: Image.Image) -> Tensor:
    return torch.from_numpy(np.array(picture)).permute(2, 0, 1).float() / 255


def _resized(image: Tensor, height: int, width: int) -> Tensor:
    return to_pixels(to_picture(image).resize((max(1, width), max(1, height)), Image.Resampling.BOX))


def _jpeg(image: Tensor, quality: int) -> Tensor:
    file = io.BytesIO()
    to_picture(image).save(file, "JPEG", quality=quality)
    with Image.open(file) as picture:
        return to_pixels(picture.convert("RGB"))
