"""Checks of images and labels, with the numbers in the message."""

import numpy as np
import torch
from torch import Tensor

from loradar.core.errors import BadImagesError
from loradar.core.types import Images, Labels


def check_images(x: Images) -> None:
    """Raises BadImagesError unless `x` is a dense tensor (batch, channels, height, width) of finite floats in [0, 1]."""
    if x.layout != torch.strided or x.is_meta:
        kind = "on the device 'meta', which holds no values" if x.is_meta else f"of layout {x.layout}"
        raise BadImagesError(
            f"images are {kind}; expected a dense tensor of values" + ("" if x.is_meta else ": x.to_dense()")
        )
    if x.ndim != 4:
        hint = "; a single image is x[None]" if x.ndim == 3 else ""
        raise BadImagesError(f"images have shape {tuple(x.shape)}; expected (batch, channels, height, width){hint}")
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


def as_images(x: object, *, input_size: tuple[int, int, int] | None = None) -> Images:
    """Converts images of any floating type to a float32 tensor, after checking them; for doors that anyone may call.

    The gradient goes through.

    Args: `x` a tensor or numpy array (batch, channels, height, width) in [0, 1]; `input_size` the (channels, height,
    width) that a model takes, where it is known. Raises BadImagesError.
    """
    if isinstance(x, np.ndarray):
        try:
            x = torch.tensor(np.ascontiguousarray(x, dtype=x.dtype.newbyteorder("=")))
        except TypeError as error:
            raise BadImagesError(f"images are a numpy array of {x.dtype}; expected floats in [0, 1]") from error
    if not isinstance(x, Tensor):
        raise BadImagesError(
            f"images are a {type(x).__name__}; expected a tensor or numpy array (batch, channels, height, width)"
        )
    images = x.float() if x.is_floating_point() and x.layout == torch.strided else x
    if input_size is not None and images.ndim == 4 and images.shape[1:] != input_size:
        found, expected = ("x".join(map(str, size)) for size in (images.shape[1:], input_size))
        channels_last = images.shape[1:] == (*input_size[1:], input_size[0])
        mend = "move the channels first, numpy.moveaxis(x, 3, 1)" if channels_last else "resize or convert them"
        raise BadImagesError(f"images are {found}; expected {expected} (channels x height x width): {mend}")
    check_images(images)
    return images


def check_labels(y: Labels, *, count: int, classes: int | None = None) -> None:
    """Raises BadImagesError unless `y` holds `count` integers, each in [0, classes)."""
    if y.shape != (count,) or y.is_floating_point() or y.dtype == torch.bool:
        raise BadImagesError(f"labels are {y.dtype} of shape {tuple(y.shape)}; expected {count} integers")
    if count and (int(y.min()) < 0 or (classes is not None and int(y.max()) >= classes)):
        upper = "" if classes is None else f"; the model has {classes} classes, so expected 0 to {classes - 1}"
        raise BadImagesError(f"labels span [{int(y.min())}, {int(y.max())}]{upper or '; expected none below 0'}")
