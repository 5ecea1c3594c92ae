"""Sets of images: held as pixels, decoded at the first fetch, or at every fetch."""

from dataclasses import dataclass, field

import numpy as np
import pytest
import torch
from torch import Tensor

from loradar.core.errors import BadDataError
from loradar.data import ImageSet, images
from loradar.data.gathering import decoded, gather
from tests.data.pictures import pixels, png

CLASSES = ("cat", "dog", "eel")


@dataclass
class Shelf:
    """Coded pictures that count how often they are read."""

    pictures: list[bytes]
    reads: list[int] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.pictures)

    def read(self, index: int) -> bytes:
        self.reads.append(index)
        return self.pictures[index]

    def name(self, index: int) -> str:
        return f"picture {index}"

    def length(self, index: int) -> int:
        return len(self.pictures[index])


def _labels(count: int) -> torch.Tensor:
    return torch.arange(count) % 3


def _both(count: int) -> tuple[ImageSet, ImageSet]:
    raw = torch.from_numpy(np.stack([pixels(i) for i in range(count)])).permute(0, 3, 1, 2).contiguous()
    held = decoded(raw, _labels(count), classes=CLASSES, name="s/train")
    shelf = Shelf([png(i) for i in range(count)])
    return held, gather(shelf, _labels(count), classes=CLASSES, name="s/train", size=None)


@pytest.mark.parametrize("which", [0, 1])
def test_fetch_gives_floats_and_labels_of_these_indices(which: int) -> None:
    images = _both(7)[which]
    x, y = images.fetch(torch.tensor([5, 0, 5]))
    assert (x.dtype, y.dtype) == (torch.float32, torch.int64)
    expected = torch.from_numpy(np.stack([pixels(i) for i in (5, 0, 5)])).permute(0, 3, 1, 2).float() / 255
    assert torch.equal(x, expected)
    assert y.tolist() == [2, 0, 2]
    assert (len(images), images.size, images.classes) == (7, (8, 8), CLASSES)


@pytest.mark.parametrize("which", [0, 1])
def test_a_selection_of_a_selection_remembers_where_it_came_from(which: int) -> None:
    images = _both(9)[which]
    part = images.select(torch.tensor([8, 2, 4, 6])).select(torch.tensor([3, 0]))
    assert part.origin.tolist() == [6, 8]
    assert torch.equal(part.fetch(torch.arange(2))[0], images.fetch(torch.tensor([6, 8]))[0])
    assert part.labels.tolist() == [0, 2]
    assert len(images) == 9


def test_the_fingerprint_covers_the_labels() -> None:
    def images(labels: Tensor) -> ImageSet:
        return gather(Shelf([png(0), png(1)]), labels, classes=CLASSES, name="s/train", size=None)

    assert images(torch.tensor([0, 1])).fingerprint != images(torch.tensor([0, 2])).fingerprint


@pytest.mark.parametrize("which", [0, 1])
def test_the_fingerprint_is_of_the_content_in_its_order(which: int) -> None:
    images, again = _both(6)[which], _both(6)[which]
    order = torch.arange(6)
    assert images.fingerprint == again.fingerprint == images.select(order).fingerprint
    assert images.select(order.flip(0)).fingerprint != images.fingerprint
    assert images.select(order[:5]).fingerprint != images.fingerprint
    assert images.select(torch.tensor([0, 1, 2, 3, 4, 4])).fingerprint != images.fingerprint


def test_pictures_are_decoded_once_and_only_where_asked() -> None:
    shelf = Shelf([png(i) for i in range(20)])
    images = gather(shelf, _labels(20), classes=CLASSES, name="s/train", size=(8, 8))
    assert shelf.reads == []
    part = images.select(torch.tensor([3, 5]))
    for _ in range(3):
        part.fetch(torch.tensor([1]))
    assert sorted(shelf.reads) == [3, 5]


def test_a_set_too_large_for_memory_is_decoded_at_every_fetch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(images, "MEMORY", 3 * 8 * 8 * 4)
    shelf = Shelf([png(i) for i in range(5)])
    large = gather(shelf, _labels(5), classes=CLASSES, name="s/train", size=(8, 8))
    first, again = (large.fetch(torch.tensor([4, 1]))[0] for _ in range(2))
    assert sorted(shelf.reads) == [1, 1, 4, 4]
    assert torch.equal(first, again)
    assert large.digests() is None
    other = Shelf([*shelf.pictures[:4], b"longer" * 100])
    assert gather(other, _labels(5), classes=CLASSES, name="s/train", size=(8, 8)).fingerprint != large.fingerprint
    assert large.select(torch.tensor([0])).digests() is not None


def test_a_broken_picture_among_many_is_named() -> None:
    shelf = Shelf([png(i) for i in range(600)])
    shelf.pictures[431] = b"broken"
    images = gather(shelf, _labels(600), classes=CLASSES, name="s/train", size=None)
    with pytest.raises(BadDataError, match="picture 431 cannot be read"):
        images.fetch(torch.tensor([0]))
    shelf.pictures[431] = png(0, height=9)
    with pytest.raises(BadDataError, match="picture 431 is 9x8; expected 8x8"):
        images.fetch(torch.tensor([0]))


def test_a_size_brings_all_to_it() -> None:
    shelf = Shelf([png(0), png(1, height=20, width=11)])
    images = gather(shelf, _labels(2), classes=CLASSES, name="s/train", size=(6, 5))
    assert images.fetch(torch.arange(2))[0].shape == (2, 3, 6, 5)


def test_an_empty_set_and_labels_out_of_range_are_refused() -> None:
    with pytest.raises(BadDataError, match="s/train holds no images"):
        gather(Shelf([]), torch.zeros(0, dtype=torch.int64), classes=CLASSES, name="s/train", size=None)
    for label in (-1, 3):
        with pytest.raises(BadDataError, match="expected 0 to 2"):
            gather(Shelf([png(0)]), torch.tensor([label]), classes=CLASSES, name="s/train", size=None)
