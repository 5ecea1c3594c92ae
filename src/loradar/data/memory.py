"""Data that somebody holds in Python, as a source."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from os import PathLike, fspath
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import (
    DataLoader,
    IterableDataset,
    RandomSampler,
    SequentialSampler,
    Subset,
    SubsetRandomSampler,
    TensorDataset,
    WeightedRandomSampler,
    default_collate,
    default_convert,
)

from loradar.core.errors import BadDataError
from loradar.data.checking import checked_batch, checked_labels, numbered_classes
from loradar.data.dataset_images import DatasetImages, Items, dataset_classes
from loradar.data.decoding import scaled
from loradar.data.gathering import decoded
from loradar.data.images import CodedImages, DecodedImages, ImageSet
from loradar.data.source import TEST, TRAIN, Source
from loradar.data.sources import load_source
from loradar.data.streams import streamed

_Named = tuple[ImageSet, bool]
"""Images, and whether the names of their classes are known."""
_Size = tuple[int, int] | None
_EXPECTED = (
    "a source string, a pair (x, y) of tensors or arrays, a Dataset or a DataLoader of torch.utils.data, or a mapping of "
    "'train' and 'test' to these"
)


def as_source(
    data: Any, *, size: tuple[int, int] | None = None, classes: Sequence[str] | None = None, name: str = "memory"
) -> Source:
    """Make a source of data in memory, or of anything that names or holds data.

    | data | what |
    |---|---|
    | a string or a path | what `load_source` makes of it |
    | a Source | itself |
    | a pair `(x, y)` | x (count, channels, height, width), uint8 or floats in [0, 1] (kept exactly); y (count,) integers |
    | a Dataset with a length | items (image, label); an image is a tensor, an array or a picture of Pillow (made RGB) |
    | a DataLoader | its dataset in the dataset's order; iterated once where its `collate_fn` or sampler is its own |
    | an iterable dataset | iterated once, and held |
    | a mapping | `{"train": ..., "test": ...}` of any of these |

    uint8 is divided by 255; an uint8 array may have its channels last. A dataset that is larger than memory allows is
    read item by item, each time. Labels are read in one pass, unless the dataset has them as `targets` or `labels`.

    Args:
        data: The data.
        size: (height, width) that all images are brought to: scaled until they cover it, cropped about the centre.
            A Source is left as it is.
        classes: The names of the classes. By default those of the dataset's `classes`, else the numbers up to the
            largest label.
        name: What the source is called.

    Returns:
        A source whose `train`, and `test` for a mapping that has one, are sets of images in [0, 1].

    Raises:
        BadDataError: For data of another kind, and for images or labels outside their contract.

    >>> import torch
    >>> source = as_source((torch.rand(6, 1, 8, 8), torch.arange(6) % 3), classes=["a", "b", "c"])
    >>> source.classes, source.train.size, source.test
    (('a', 'b', 'c'), (8, 8), None)
    """
    if isinstance(data, str | PathLike):
        return _with_classes(load_source(fspath(data), size=size), classes)
    if isinstance(data, Source):
        return _with_classes(data, classes)
    parts = _splits(data) if isinstance(data, Mapping) else {"all": data}
    sets = {part: _images(value, size=size, name=f"{name}/{part}") for part, value in parts.items()}
    names = _classes(sets, None if classes is None else tuple(classes), name)
    return Source(name=name, classes=names, splits={part: _ready(images, names) for part, (images, _) in sets.items()})


def _ready(images: ImageSet, names: tuple[str, ...]) -> Callable[[], ImageSet]:
    if images.classes != names:
        images = replace(cast(DecodedImages, images), classes=names)
    return lambda: images


def _with_classes(source: Source, classes: Sequence[str] | None) -> Source:
    if classes is not None and tuple(classes) != source.classes:
        raise BadDataError(f"{source.name} names its classes itself: {source.classes[:3]} ...; leave classes= out")
    return source


def _splits(data: Mapping[Any, Any]) -> dict[str, Any]:
    for key in data:
        if not isinstance(key, str) or key.lower() not in TRAIN + TEST:
            raise BadDataError(f"a mapping with the key {key!r}; expected 'train' and 'test'")
    parts = {key.lower(): value for key, value in data.items()}
    if not parts:
        raise BadDataError("an empty mapping; expected 'train' and 'test'")
    if len(parts) < len(data):
        raise BadDataError(f"keys {', '.join(map(repr, data))} name one split twice; expected 'train' and 'test'")
    return parts


def _classes(sets: Mapping[str, _Named], said: tuple[str, ...] | None, name: str) -> tuple[str, ...]:
    """Find the one list of classes of all splits."""
    named = {part: images.classes for part, (images, known) in sets.items() if known}
    labels = torch.cat([images.labels for images, _ in sets.values()])
    first = next(iter(named), "")
    names = said or named.get(first) or numbered_classes(labels, name)
    for part, other in named.items():
        if said is None and other != names:
            odd = next((c for c in (*other, *names) if (c in other) != (c in names)), other[0])
            raise BadDataError(
                f"{name}: {part!r} and {first!r} have other classes, or another order ({odd!r}); expected one"
            )
    if not all(isinstance(word, str) for word in names):
        raise BadDataError(f"{name}: classes are {names[:5]}; expected a word for each")
    if int(labels.max()) >= len(names):
        raise BadDataError(
            f"{name}: a label is {int(labels.max())}; expected 0 to {len(names) - 1}, one of the classes"
        )
    return names


def _images(data: Any, *, size: _Size, name: str) -> _Named:
    """Make a set of one split; its classes are provisional where they are not known."""
    if isinstance(data, str | PathLike | Source):
        source = as_source(data, size=size)
        test = source.test if name.rpartition("/")[2] in TEST else None
        return source.train if test is None else test, True
    if isinstance(data, DecodedImages | CodedImages | DatasetImages):
        return data, True
    if isinstance(data, DataLoader):
        data = _without_loader(data)
    if type(data) is TensorDataset and len(data.tensors) == 2:
        data = data.tensors
    if _is_pair(data):
        pixels = scaled(checked_batch(data[0], name), size)
        return _held(pixels, checked_labels(data[1], count=len(pixels), name=name), name), False
    if isinstance(data, tuple) and len(data) == 2 and isinstance(data[0], list):
        numbers = checked_labels(data[1], count=len(data[0]), name=name).tolist()
        data = list(zip(data[0], numbers, strict=True))
    if _has_items(data):
        names = dataset_classes(data)
        return _lazy(Items(data, name=name, size=size), names, name), names is not None
    if hasattr(data, "__iter__") and not isinstance(data, Tensor | np.ndarray | tuple):
        pixels, labels = streamed(data, size=size, name=name)
        names = dataset_classes(getattr(data, "dataset", data))
        return _held(pixels, labels, name, names), names is not None
    raise BadDataError(f"{name}: data are a {type(data).__name__}; expected {_EXPECTED}")


def _is_pair(data: Any) -> bool:
    if not (isinstance(data, tuple | list) and len(data) == 2 and isinstance(data[0], Tensor | np.ndarray)):
        return False
    # a list of two tensors is a batch of a loader; its second part is no image
    return isinstance(data, tuple) or getattr(data[1], "ndim", 1) < 3


def _held(pixels: Tensor, labels: Tensor, name: str, names: tuple[str, ...] | None = None) -> DecodedImages:
    return decoded(pixels, labels, classes=names or (), name=name)


def _lazy(items: Items, names: tuple[str, ...] | None, name: str) -> DatasetImages:
    order = torch.arange(len(items))
    return DatasetImages(items=items, labels=items.labels, classes=names or (), name=name, origin=order)


def _has_items(data: Any) -> bool:
    if isinstance(data, IterableDataset | Tensor | np.ndarray) or (isinstance(data, tuple) and not _is_nested(data)):
        return False
    return hasattr(data, "__len__") and hasattr(data, "__getitem__")


def _is_nested(data: tuple[Any, ...]) -> bool:
    return bool(data) and isinstance(data[0], tuple | list)


def _without_loader(loader: DataLoader[Any]) -> Any:
    """Take a loader's dataset where the loader only batches and orders it; otherwise the loader itself."""
    dataset, sampler = loader.dataset, loader.sampler
    if isinstance(dataset, IterableDataset):
        return loader
    usual = loader.batch_sampler is None or type(loader.batch_sampler) is torch.utils.data.BatchSampler
    if loader.collate_fn not in (default_collate, default_convert) or not usual:
        return loader
    if type(sampler) is SubsetRandomSampler:
        return Subset(dataset, [int(i) for i in sampler.indices])
    # draws with replacement or by weight only balance the training; the images are those of the dataset
    return dataset if type(sampler) in (SequentialSampler, RandomSampler, WeightedRandomSampler) else loader
