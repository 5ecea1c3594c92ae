"""Images and labels that somebody holds in memory, to checked tensors."""

from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from loradar.core.errors import BadDataError
from loradar.core.types import Labels
from loradar.data.decoding import picture_pixels
from loradar.data.labels import are_ids

_CHANNELS = (1, 3, 4)


def checked_batch(x: Any, name: str) -> Tensor:
    """Check images in memory.

    Args:
        x: (count, channels, height, width), a tensor or an array: uint8, or floats in [0, 1]. A uint8 array may also
            have its channels last.
        name: What an error calls them.

    Returns:
        uint8 or float32 on the CPU, sharing the memory of `x` where it can.

    Raises:
        BadDataError: For other shapes, types and values, and for no images at all.
    """
    return _pixels(x, name, ("count",))


def checked_image(image: Any, name: str) -> Tensor:
    """Check one image: (channels, height, width) as `checked_batch`, a picture of Pillow, or a grey (height, width) array.

    A picture becomes RGB, turned as its EXIF orientation says. Raises BadDataError.
    """
    if isinstance(image, Image.Image):
        try:
            return picture_pixels(image).contiguous()
        except (BadDataError, OSError, ValueError) as error:
            raise BadDataError(f"{name} {error}") from error
    if isinstance(image, np.ndarray) and image.ndim == 2 and image.dtype == np.uint8:
        image = image[None]
    return _pixels(image, name, ())


def _pixels(x: Any, name: str, count: tuple[str, ...]) -> Tensor:
    if not isinstance(x, Tensor | np.ndarray):
        raise BadDataError(
            f"{name}: images are a {type(x).__name__}; expected a tensor, an array or a picture of Pillow"
        )
    shape, expected = tuple(x.shape), ", ".join((*count, "channels", "height", "width"))
    if len(shape) != len(count) + 3:
        mend = f"; a grey image has one channel (x.unsqueeze({len(count)}))" if len(shape) == len(count) + 2 else ""
        raise BadDataError(f"{name}: images have shape {shape}; expected ({expected}){mend}")
    if 0 in shape:
        raise BadDataError(f"{name} holds no images: their shape is {shape}")
    last = shape[-3] not in _CHANNELS and shape[-1] in _CHANNELS
    if last and isinstance(x, np.ndarray) and x.dtype == np.uint8:
        x = np.moveaxis(x, -1, -3)
    elif last:
        order = "0, 3, 1, 2" if count else "2, 0, 1"
        raise BadDataError(f"{name}: images have shape {shape}; expected ({expected}) (x.permute({order}))")
    return _values(_tensor(x, name), name)


def _tensor(x: Tensor | np.ndarray[Any, Any], name: str) -> Tensor:
    if isinstance(x, Tensor):
        return x.detach().cpu()
    try:
        # torch takes neither the other byte order nor negative strides, and warns of memory it may not write
        plain = x.astype(x.dtype.newbyteorder("="), copy=False)
        usable = plain.flags.writeable and all(step >= 0 for step in plain.strides)
        return torch.from_numpy(plain if usable else plain.copy())
    except TypeError as error:
        raise BadDataError(f"{name}: an array of {x.dtype}; expected numbers of one shape") from error


def _values(x: Tensor, name: str) -> Tensor:
    if x.dtype == torch.uint8:
        return x
    if not x.is_floating_point():
        raise BadDataError(f"{name}: images are {x.dtype}; expected uint8 from 0 to 255, or floats in [0, 1]")
    x = x.float()
    low, high = (float(value) for value in x.aminmax())
    # NaN and infinity spread to the extremes
    if not (np.isfinite(low) and np.isfinite(high)):
        raise BadDataError(f"{name}: images hold NaN or infinite values; expected floats in [0, 1]")
    if low < 0 or high > 1:
        mend = (
            "divide by 255"
            if low >= 0 and 2 < high <= 255
            else "normalisation belongs inside the model: give mean= and std="
        )
        raise BadDataError(f"{name}: images span [{low:.4g}, {high:.4g}]; expected [0, 1] ({mend})")
    return x


def checked_labels(y: Any, *, count: int, name: str) -> Labels:
    """Check labels in memory: `count` integers, as a tensor, an array, a list, or a column of shape (count, 1).

    Returns int64 on the CPU. Raises BadDataError for other types, shapes and numbers.
    """
    try:
        labels = _tensor(y, name) if isinstance(y, Tensor | np.ndarray) else torch.as_tensor(y)
    except (TypeError, ValueError, RuntimeError) as error:
        raise BadDataError(
            f"{name}: labels cannot be read as numbers ({_brief(error)}); expected one integer each"
        ) from error
    kind = str(labels.dtype).removeprefix("torch.")
    whole = not (labels.is_floating_point() or labels.is_complex() or labels.dtype == torch.bool)
    if whole and labels.ndim == 2 and labels.shape[1] == 1:
        labels = labels[:, 0]
    if labels.ndim != 1:
        raise BadDataError(
            f"{name}: labels have shape {tuple(labels.shape)}; expected ({count},), one integer each (one-hot rows: "
            "y.argmax(1))"
        )
    if len(labels) != count:
        raise BadDataError(f"{name}: {count} images and {len(labels)} labels; expected one label for each image")
    if not whole:
        raise BadDataError(f"{name}: labels are {kind}; expected integers (y.long(), if they are whole numbers)")
    # a copy: whoever gave them may change them
    labels = labels.to(torch.int64, copy=True)
    if int(labels.min()) < 0:
        raise BadDataError(f"{name}: labels span [{int(labels.min())}, {int(labels.max())}]; expected none below 0")
    return labels


def numbered_classes(labels: Labels, name: str) -> tuple[str, ...]:
    """Name the classes of labels that have no names: the numbers up to the largest. Raises BadDataError for ids."""
    values: list[int] = torch.unique(labels).tolist()
    if are_ids(values):
        raise BadDataError(
            f"{name}: labels go up to {values[-1]} with {len(values)} different ones; expected indices of classes from 0 "
            "(ids: torch.unique(y, return_inverse=True)[1]; indices of many classes: give their names as classes=)"
        )
    return tuple(map(str, range(values[-1] + 1)))


def _brief(error: Exception) -> str:
    return " ".join(str(error).split())[:120] or type(error).__name__
