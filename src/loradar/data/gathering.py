"""Pictures and labels to an ImageSet."""

from collections.abc import Sequence

import torch
from torch import Tensor

from loradar.core.errors import BadDataError
from loradar.core.types import Labels
from loradar.data.decoding import Coded, decode
from loradar.data.images import CodedImages, DecodedImages


def gather(
    coded: Coded,
    labels: Labels,
    *,
    classes: Sequence[str],
    name: str,
    size: tuple[int, int] | None,
    groups: Labels | None = None,
) -> CodedImages:
    """The set `name` of one split; without a `size` all pictures must have that of the first.

    Raises BadDataError for an empty split, a label that is no class, or a first picture that cannot be read.
    """
    if len(coded) == 0:
        raise BadDataError(f"{name} holds no images")
    low, high = int(labels.min()), int(labels.max())
    if low < 0 or high >= len(classes):
        raise BadDataError(f"{name}: labels span [{low}, {high}]; expected 0 to {len(classes) - 1}, one of the classes")
    if size is None:
        _, height, width = decode(coded.read(0), coded.name(0)).shape
    else:
        height, width = size
    return CodedImages(
        coded=coded,
        size=(height, width),
        scale=size is not None,
        labels=labels,
        classes=tuple(classes),
        name=name,
        origin=torch.arange(len(coded)),
        groups=groups,
    )


def decoded(pixels: Tensor, labels: Labels, *, classes: Sequence[str], name: str) -> DecodedImages:
    """Make a set of pixels that are there already, (count, channels, height, width) uint8 or float32."""
    order = torch.arange(len(pixels))
    return DecodedImages(pixels=pixels, labels=labels, classes=tuple(classes), name=name, origin=order)
