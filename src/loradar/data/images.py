"""A labelled set of images, of one size, in [0, 1]: held as pixels, or decoded when it is first fetched from."""

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Protocol

import torch
from torch import Tensor

from loradar.core.types import Images, Labels
from loradar.data.decoding import Coded, decode_all

MEMORY = 1 << 30
"""Bytes of pixels above which a set stays coded: 350,000 images of 32 x 32, or 7,100 of 224 x 224."""


class ImageSet(Protocol):
    """Images of one size with their labels: RGB from files, of any number of channels from memory.

    `labels` is (count,) int64, `origin` (count,) the indices in the split of the source that `name` says, `size`
    (height, width). `groups` (count,) int64 numbers what belongs together (a track, a patient), where a column says so.
    `fingerprint` is a hash of what is in the set, in its order.
    """

    @property
    def name(self) -> str: ...
    @property
    def classes(self) -> tuple[str, ...]: ...
    @property
    def labels(self) -> Labels: ...
    @property
    def groups(self) -> Labels | None: ...
    @property
    def origin(self) -> Tensor: ...
    @property
    def size(self) -> tuple[int, int]: ...
    @property
    def fingerprint(self) -> str: ...

    def __len__(self) -> int: ...

    def fetch(self, indices: Tensor) -> tuple[Images, Labels]:
        """Images (len(indices), channels, height, width), float32, and their labels, on the CPU.

        Raises BadDataError that names the picture which cannot be read.
        """
        ...

    def select(self, indices: Tensor) -> "ImageSet":
        """The set of these alone, in this order; shares what it can."""
        ...

    def digests(self) -> list[bytes] | None:
        """A hash of each image as it is stored; None for a set too large to be held."""
        ...


def fetch_all(images: ImageSet, count: int | None = None) -> tuple[Images, Labels]:
    """Fetches all images of a set at once, or its first `count`, with their labels."""
    return images.fetch(torch.arange(len(images) if count is None else min(count, len(images))))


@dataclass(frozen=True, kw_only=True, eq=False)
class DecodedImages:
    """An ImageSet of `pixels`, (all, channels, height, width): those of the whole split, which selections share.

    uint8 pixels are divided by 255 where they are fetched; float32 ones are given as they are.
    """

    pixels: Tensor
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
        return int(self.pixels.shape[2]), int(self.pixels.shape[3])

    def fetch(self, indices: Tensor) -> tuple[Images, Labels]:
        return as_floats(self.pixels[self.origin[indices]]), self.labels[indices]

    def select(self, indices: Tensor) -> "DecodedImages":
        return replace(self, labels=self.labels[indices], origin=self.origin[indices])

    def digests(self) -> list[bytes]:
        pixels = self.pixels.numpy()
        return [pixel_digest(pixels[i].tobytes()) for i in self.origin.tolist()]

    @cached_property
    def fingerprint(self) -> str:
        return fingerprint_of(self, self.digests())


@dataclass(frozen=True, kw_only=True, eq=False)
class CodedImages:
    """An ImageSet of stored pictures, brought to `size` (`scale` says whether others are scaled or refused).

    The first fetch decodes all of the set where its pixels fit into MEMORY, so select before you fetch; a larger set is
    decoded picture by picture at every fetch, and its fingerprint covers names and lengths of the pictures alone.
    """

    coded: Coded
    size: tuple[int, int]
    scale: bool
    labels: Labels
    classes: tuple[str, ...]
    name: str
    origin: Tensor
    groups: Labels | None = None

    def __len__(self) -> int:
        return len(self.labels)

    def fetch(self, indices: Tensor) -> tuple[Images, Labels]:
        pixels = self._pixels[indices] if self._fits else self._decoded(self.origin[indices])
        return as_floats(pixels), self.labels[indices]

    def select(self, indices: Tensor) -> "CodedImages":
        groups = None if self.groups is None else self.groups[indices]
        return replace(self, labels=self.labels[indices], origin=self.origin[indices], groups=groups)

    def digests(self) -> list[bytes] | None:
        if not self._fits:
            return None
        return [pixel_digest(self.coded.read(i)) for i in self.origin.tolist()]

    @cached_property
    def fingerprint(self) -> str:
        names = (f"{self.coded.name(i)} {self.coded.length(i)}\n".encode() for i in self.origin.tolist())
        return fingerprint_of(self, self.digests() or names)

    @property
    def _fits(self) -> bool:
        return len(self) * 3 * self.size[0] * self.size[1] <= MEMORY

    @cached_property
    def _pixels(self) -> Tensor:
        return self._decoded(self.origin)

    def _decoded(self, indices: Tensor) -> Tensor:
        return decode_all(self.coded, indices.tolist(), size=self.size, scale=self.scale)


def as_floats(pixels: Tensor) -> Images:
    """Bring fetched pixels to floats in [0, 1]: 8-bit ones are divided by 255."""
    return pixels if pixels.is_floating_point() else pixels.float().div_(255)


def pixel_digest(data: bytes) -> bytes:
    """Hash one image as it is stored."""
    return hashlib.blake2b(data, digest_size=16).digest()


def fingerprint_of(images: ImageSet, parts: Iterable[bytes]) -> str:
    """Hash what is in a set: its size, classes and labels, and a part for each image."""
    head = repr((images.size, images.classes, len(images)))
    digest = hashlib.sha256(head.encode() + images.labels.numpy().tobytes())
    for part in parts:
        digest.update(part)
    return digest.hexdigest()
