"""Images that can only be iterated over: held after one pass."""

from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor

from loradar.core.errors import BadDataError
from loradar.core.types import Labels
from loradar.data import images as sets
from loradar.data.checking import checked_batch, checked_image, checked_labels
from loradar.data.dataset_images import checked_label, image_and_label, kept_randomness
from loradar.data.decoding import scaled

_MOST = 8
"""Times MEMORY that a stream may fill; longer ones, or endless ones, are refused."""


def streamed(data: Iterable[Any], *, size: tuple[int, int] | None, name: str) -> tuple[Tensor, Labels]:
    """Iterate over items or batches once, and hold them.

    Args:
        data: An iterable dataset, or a loader; items (image, label), or batches (x, y) of them.
        size: (height, width) that all images are brought to.
        name: What an error calls the data.

    Returns:
        Pixels (count, channels, height, width), uint8 or float32, and labels.

    Raises:
        BadDataError: Where there are no images, an item is not as expected, images differ in shape or type, or there
            are too many to be held.
    """
    pixels: list[Tensor] = []
    labels: list[Labels] = []
    total = 0
    with kept_randomness():
        # a shuffling loader gives the same order in each run
        torch.default_generator.manual_seed(0)
        for x, y in _batches(data, size, name):
            if pixels and (x.shape[1:], x.dtype) != (pixels[0].shape[1:], pixels[0].dtype):
                raise BadDataError(
                    f"{name}, image {sum(map(len, pixels))} is {x.dtype} of shape {tuple(x.shape[1:])}; expected "
                    f"{pixels[0].dtype} of shape {tuple(pixels[0].shape[1:])} like the first (sizes: --size N, in Python "
                    "size=(height, width))"
                )
            pixels.append(x)
            labels.append(y)
            total += x.nbytes
            if total > _MOST * sets.MEMORY:
                raise BadDataError(
                    f"{name} gives more than {_MOST * sets.MEMORY >> 20} MiB of images; expected a dataset with a length and "
                    "items, which is read bit by bit"
                )
    if not pixels:
        raise BadDataError(f"{name} holds no images")
    return torch.cat(pixels), torch.cat(labels)


def _batches(data: Iterable[Any], size: tuple[int, int] | None, name: str) -> Iterator[tuple[Tensor, Labels]]:
    for number, item in enumerate(_caught(data, name)):
        called = f"{name}, item {number}"
        image, label = image_and_label(item, called)
        if isinstance(image, Tensor | np.ndarray) and image.ndim == 4:
            x = checked_batch(image, called)
            yield scaled(x, size), checked_labels(label, count=len(x), name=called)
        else:
            x = checked_image(image, called)[None]
            # a copy: an iterable may give one buffer again and again
            yield scaled(x, size).clone(), torch.tensor([checked_label(label, called)])


def _caught(data: Iterable[Any], name: str) -> Iterator[Any]:
    try:
        yield from data
    except Exception as error:  # whatever a dataset of the user's raises
        reason = " ".join(str(error).split())[:200]
        raise BadDataError(f"{name} cannot be read to its end ({type(error).__name__}: {reason})") from error
