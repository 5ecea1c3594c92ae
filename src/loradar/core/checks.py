"""What comes in at the door: images, labels. Checked once, with the numbers in the message."""

import torch

from loradar.core.errors import BadImagesError
from loradar.core.types import Images, Labels


def check_images(x: Images) -> None:
    """Raises BadImagesError unless `x` is (batch, channels, height, width), floating point, finite, in [0, 1]."""
    if x.ndim != 4:
        raise BadImagesError(f"images have shape {tuple(x.shape)}; expected (batch, channels, height, width)")
    if not x.is_floating_point():
        raise BadImagesError(f"images are {x.dtype}; expected floats in [0, 1] (8-bit images: x.float() / 255)")
    if x.numel() == 0:
        raise BadImagesError(f"images have shape {tuple(x.shape)}: there is nothing in the batch")
    low, high = x.aminmax()
    # NaN and infinity spread to the extremes, so this one pass sees them too
    if not bool(torch.isfinite(low) & torch.isfinite(high)):
        raise BadImagesError("images hold NaN or infinite values; expected floats in [0, 1]")
    if low < 0 or high > 1:
        raise BadImagesError(
            f"images span [{low.item():.4g}, {high.item():.4g}]; expected [0, 1] (normalisation belongs inside the "
            "model: see loradar.models.Normalized)"
        )


def check_labels(y: Labels, *, count: int, classes: int | None = None) -> None:
    """Raises BadImagesError unless `y` holds `count` integers, each in [0, classes)."""
    if y.shape != (count,) or y.is_floating_point() or y.dtype == torch.bool:
        raise BadImagesError(f"labels are {y.dtype} of shape {tuple(y.shape)}; expected {count} integers")
    if count and (int(y.min()) < 0 or (classes is not None and int(y.max()) >= classes)):
        upper = "" if classes is None else f"; the model has {classes} classes, so expected 0 to {classes - 1}"
        raise BadImagesError(f"labels span [{int(y.min())}, {int(y.max())}]{upper or '; expected none below 0'}")
