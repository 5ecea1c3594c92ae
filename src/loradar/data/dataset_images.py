"""A map-style dataset of `torch.utils.data` (or anything with a length and items) as a labelled set of images."""

import random
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Subset

from loradar.core.errors import BadDataError
from loradar.core.types import Images, Labels
from loradar.data import images as sets
from loradar.data.checking import checked_image, checked_labels
from loradar.data.decoding import scaled
from loradar.data.images import as_floats, fingerprint_of, pixel_digest
from loradar.data.labels import IMAGE_NAMES, LABEL_NAMES

_PROBES = 8
_SAMPLED = 256


def image_and_label(item: Any, name: str) -> tuple[Any, Any]:
    """Take an item apart: a pair, or a mapping with the usual names (`image`, `label` ...). Raises BadDataError."""
    if isinstance(item, Mapping):
        image, label = (next((k for k in names if k in item), None) for names in (IMAGE_NAMES, LABEL_NAMES))
        if image is not None and label is not None:
            return item[image], item[label]
        raise BadDataError(f"{name} has the keys {', '.join(map(repr, item))}; expected 'image' and 'label'")
    if isinstance(item, tuple | list) and len(item) == 2:
        return item[0], item[1]
    size = f" of {len(item)}" if isinstance(item, tuple | list) else ""
    raise BadDataError(f"{name} is a {type(item).__name__}{size}; expected a pair (image, label)")


def checked_label(label: Any, name: str) -> int:
    """Check the label of one item, an integer or an array of one. Raises BadDataError."""
    plain = label if isinstance(label, Tensor | np.ndarray) else torch.as_tensor(label) if _is_number(label) else None
    if plain is None:
        raise BadDataError(f"{name}: its label is a {type(label).__name__}; expected an integer")
    shape = tuple(plain.shape)
    if shape not in ((), (1,)):
        raise BadDataError(f"{name}: its label has shape {shape}; expected one integer (one-hot: label.argmax())")
    return int(checked_labels(plain.reshape(1), count=1, name=name))


def _is_number(label: Any) -> bool:
    return isinstance(label, bool | int | float | np.generic) and not isinstance(label, np.str_ | np.bytes_)


class Items:
    """The images and labels of a dataset, read by their index.

    Args:
        dataset: Anything with a length and items (image, label); an image is what `checked_image` takes.
        name: What an error calls it.
        size: (height, width) that all images are brought to; without it they must have one size.

    Raises:
        BadDataError: For an empty dataset, an item that cannot be read or is no such pair, and where reading an image
            again gives another one (a random transform).
    """

    def __init__(self, dataset: Any, *, name: str, size: tuple[int, int] | None) -> None:
        self._dataset, self._name, self._size = dataset, name, size
        self._count = len(dataset)
        if self._count == 0:
            raise BadDataError(f"{name} holds no images")
        self._like: Tensor | None = None
        with kept_randomness():
            self._like, _ = self._item(0)
            self._probe()

    def __len__(self) -> int:
        return self._count

    @property
    def shape(self) -> tuple[int, int, int]:
        channels, height, width = self._first.shape
        return channels, height, width

    @property
    def _first(self) -> Tensor:
        assert self._like is not None
        return self._like

    def fits(self, count: int) -> bool:
        """Whether the pixels of `count` images may be held."""
        return count * self._first.nbytes <= sets.MEMORY

    @cached_property
    def held(self) -> Tensor:
        """The pixels of all images; only for a dataset whose pixels fit."""
        return self.read(torch.arange(self._count))

    @cached_property
    def labels(self) -> Labels:
        """The labels: those that the dataset declares, else those of one pass over its items."""
        declared = _declared(self._dataset, self._name)
        if declared is not None and all(declared[i] == label for i, label in self._probed.items()):
            return declared
        pixels = self._room(self._count) if self.fits(self._count) else None
        labels = torch.empty(self._count, dtype=torch.int64)
        for index in range(self._count):
            image, label = self._raw(index)
            labels[index] = checked_label(label, self._called(index))
            if pixels is not None:
                pixels[index] = self._checked(image, index)
        if pixels is not None:
            self.held = pixels
        return labels

    def read(self, indices: Tensor) -> Tensor:
        """Read (len(indices), channels, height, width), uint8 or float32. Raises BadDataError that names the item."""
        pixels = self._room(len(indices))
        for slot, index in enumerate(indices.tolist()):
            pixels[slot] = self._item(index)[0]
        return pixels

    def _room(self, count: int) -> Tensor:
        return torch.empty(count, *self.shape, dtype=self._first.dtype)

    def _probe(self) -> None:
        """Read a few items twice."""
        self._probed: dict[int, int] = {}
        for index in torch.linspace(0, self._count - 1, min(_PROBES, self._count)).long().tolist():
            (first, label), (again, _) = self._item(index), self._item(index)
            if not torch.equal(first, again):
                raise BadDataError(
                    f"{self._called(index)} is another image each time it is read (a random transform?); give the dataset "
                    "without it: training flips and crops by itself"
                )
            self._probed[index] = checked_label(label, self._called(index))

    def _item(self, index: int) -> tuple[Tensor, Any]:
        image, label = self._raw(index)
        return self._checked(image, index), label

    def _raw(self, index: int) -> tuple[Any, Any]:
        try:
            item = self._dataset[index]
        except Exception as error:  # whatever a dataset of the user's raises
            reason = " ".join(str(error).split())[:200]
            raise BadDataError(f"{self._called(index)} cannot be read ({type(error).__name__}: {reason})") from error
        return image_and_label(item, self._called(index))

    def _checked(self, image: Any, index: int) -> Tensor:
        pixels = scaled(checked_image(image, self._called(index))[None], self._size)[0]
        like = self._like
        if like is not None and (pixels.shape, pixels.dtype) != (like.shape, like.dtype):
            raise BadDataError(
                f"{self._called(index)} is {pixels.dtype} of shape {tuple(pixels.shape)}; expected {like.dtype} of shape "
                f"{tuple(like.shape)} like the first (sizes: --size N, in Python size=(height, width))"
            )
        return pixels

    def _called(self, index: int) -> str:
        return f"{self._name}, item {index}"


@dataclass(frozen=True, kw_only=True, eq=False)
class DatasetImages:
    """An ImageSet over a dataset. It is read once where it fits into MEMORY, or where the selection does; otherwise at
    every fetch, and its fingerprint covers its labels and a few hundred of its images alone."""

    items: Items
    labels: Labels
    classes: tuple[str, ...]
    name: str
    origin: Tensor

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def groups(self) -> None:
        return None

    @property
    def size(self) -> tuple[int, int]:
        return self.items.shape[1], self.items.shape[2]

    def fetch(self, indices: Tensor) -> tuple[Images, Labels]:
        return as_floats(self._pixels(indices)), self.labels[indices]

    def select(self, indices: Tensor) -> "DatasetImages":
        return replace(self, labels=self.labels[indices], origin=self.origin[indices])

    def digests(self) -> list[bytes] | None:
        return self._digests(torch.arange(len(self))) if self.items.fits(len(self)) else None

    @cached_property
    def fingerprint(self) -> str:
        some = torch.linspace(0, len(self) - 1, min(_SAMPLED, len(self))).long()
        return fingerprint_of(self, self.digests() or self._digests(some))

    def _digests(self, indices: Tensor) -> list[bytes]:
        parts = (indices[start : start + _SAMPLED] for start in range(0, len(indices), _SAMPLED))
        return [pixel_digest(image.numpy().tobytes()) for part in parts for image in self._pixels(part)]

    def _pixels(self, indices: Tensor) -> Tensor:
        if self.items.fits(len(self.items)):
            return self.items.held[self.origin[indices]]
        if self.items.fits(len(self)):
            return self._held[indices]
        return self.items.read(self.origin[indices])

    @cached_property
    def _held(self) -> Tensor:
        return self.items.read(self.origin)


@contextmanager
def kept_randomness() -> Iterator[None]:
    """Put the global generators back where they were: a dataset or a loader may draw from them."""
    states: tuple[tuple[Callable[..., Any], Any], ...] = (
        (torch.set_rng_state, torch.get_rng_state()),
        (random.setstate, random.getstate()),
        (np.random.set_state, np.random.get_state()),
    )
    try:
        yield
    finally:
        for put_back, state in states:
            put_back(state)


def _declared(dataset: Any, name: str) -> Labels | None:
    """Find the labels that a dataset says it has, without reading its items."""
    if isinstance(dataset, Subset):
        inner = _declared(dataset.dataset, name)
        return None if inner is None else inner[torch.as_tensor(dataset.indices, dtype=torch.int64)]
    for attribute in ("targets", "labels"):
        declared = getattr(dataset, attribute, None)
        if declared is None or callable(declared):
            continue
        try:
            return checked_labels(declared, count=len(dataset), name=name)
        except BadDataError:  # boxes, words or several labels for each image: the items say what is meant
            return None
    return None


def dataset_classes(dataset: Any) -> tuple[str, ...] | None:
    """Find the names of a dataset's classes, where it has them as `classes` or in the features of Hugging Face."""
    if isinstance(dataset, Subset):
        return dataset_classes(dataset.dataset)
    names: Any = getattr(dataset, "classes", None)
    features = getattr(dataset, "features", None)
    if names is None and isinstance(features, Mapping):
        label = next((name for name in LABEL_NAMES if name in features), None)
        names = None if label is None else getattr(features[label], "names", None)
    if not isinstance(names, list | tuple) or not names:
        return None
    # ImageNet has a tuple of synonyms for each class
    return tuple(", ".join(map(str, n)) if isinstance(n, tuple | list) else str(n) for n in names)
