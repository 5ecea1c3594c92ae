"""What `FewShotClassifier` is given, checked and brought to one form: bases, images and labels."""

from typing import Any, TypeAlias

import numpy as np
import torch
from torch import Tensor, nn

from loradar.core.checks import check_images
from loradar.core.errors import BadConfigError, BadDataError, BadImagesError, LoradarError, did_you_mean
from loradar.core.types import Images
from loradar.evaluation import device_of
from loradar.models import Base, open_base

Array: TypeAlias = np.ndarray[Any, np.dtype[Any]]
Shape: TypeAlias = tuple[int, ...]


def opened(base: nn.Module | Base | str) -> tuple[nn.Module, Shape | None]:
    """Returns the module, and the shape (c, h, w) of its images where it is known. Raises BadConfigError."""
    if isinstance(base, str):
        base = open_base(base, "auto")
    if isinstance(base, Base):
        return base.model, base.input_size
    if not isinstance(base, nn.Module):
        raise BadConfigError(f"base is a {type(base).__name__}; expected a torch.nn.Module, a Base, or a spec")
    return base, None


def as_images(x: Tensor | Array, shape: Shape | None, of: str) -> Images:
    """Converts `x` to float32 images (n, *shape), which `of` takes. Raises BadImagesError."""
    try:
        images = x.detach() if isinstance(x, Tensor) else torch.from_numpy(np.ascontiguousarray(x))
    except TypeError as error:
        raise BadImagesError(
            f"images are a {type(x).__name__} of {getattr(x, 'dtype', 'no type')}; expected a tensor or an array of floats "
            "(n, channels, height, width) in [0, 1]"
        ) from error
    check_images(images)
    if shape is not None and tuple(images.shape[1:]) != tuple(shape):
        raise BadImagesError(
            f"images have shape {tuple(images.shape)}, {of} takes (n, {', '.join(map(str, shape))}); resize them"
        )
    return images.float()


def as_labels(y: Any, count: int) -> Array:
    """Converts `y` to an array (count,) of integers or text. Raises BadDataError."""
    values = y.detach().cpu().numpy() if isinstance(y, Tensor) else y
    try:
        labels = np.asarray(values)
    except ValueError as error:
        raise BadDataError("labels are nested lists of several lengths; expected one label for each image") from error
    if labels.shape != (count,):
        raise BadDataError(f"labels have shape {labels.shape}, images are {count}; expected one label for each image")
    if labels.dtype.kind in "iu":
        return labels.astype(np.int64)
    # numpy makes text of a list that holds both
    if labels.dtype.kind not in "OU" or not all(isinstance(one, str) for one in values):
        raise BadDataError(f"labels are {labels.dtype} or of several types; expected integers for all, or text for all")
    return labels.astype(str)


def codes_of(labels: Array, classes: Array) -> Array:
    """Returns the index of each label in `classes`. Raises BadDataError for one that is not there."""
    known = {label: index for index, label in enumerate(classes.tolist())}
    for label in labels.tolist():
        if label not in known:
            raise BadDataError(f"label {label!r} is none of the task's; {did_you_mean(str(label), map(str, known))}")
    return np.array([known[label] for label in labels.tolist()], dtype=np.int64)


def check_features(features: nn.Module, x: Images) -> None:
    """Raises BadImagesError where `features` cannot take the images, BadDataError where it gives no (n, d) features."""
    try:
        with torch.no_grad():
            found = features(x.to(device_of(features)))
    except LoradarError:
        raise
    except (RuntimeError, ValueError, AssertionError, IndexError, TypeError) as error:
        reason = str(error).strip().split("\n")[0]
        raise BadImagesError(f"the base cannot take images of shape {tuple(x.shape[1:])}: {reason}") from error
    if not isinstance(found, Tensor) or found.ndim != 2:
        kind = f"shape {tuple(found.shape)}" if isinstance(found, Tensor) else type(found).__name__
        raise BadDataError(f"the base gives features of {kind} for 1 image; expected a tensor (1, d)")
