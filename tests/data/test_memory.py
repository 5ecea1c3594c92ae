"""Data in memory as a source."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from torch import Tensor
from torch.utils.data import (
    ConcatDataset,
    DataLoader,
    Dataset,
    IterableDataset,
    Subset,
    SubsetRandomSampler,
    TensorDataset,
    WeightedRandomSampler,
)

from loradar.core.errors import BadDataError
from loradar.data import Source, as_source, load_source, split
from tests.data.pictures import digits_folder, pixels

COUNT = 12


def _bytes(channels: int = 3) -> Tensor:
    draws = torch.Generator().manual_seed(1)
    return torch.randint(0, 256, (COUNT, channels, 6, 5), dtype=torch.uint8, generator=draws)


def _floats(channels: int = 3) -> Tensor:
    return torch.rand(COUNT, channels, 6, 5, generator=torch.Generator().manual_seed(2))


Y = torch.arange(COUNT) % 3


class Listed(Dataset[tuple[Any, Any]]):
    """A map-style dataset that counts how often it is read."""

    def __init__(self, images: Any, labels: Any = Y, transform: Callable[[Any], Any] | None = None) -> None:
        self.images, self.given, self.transform, self.reads = images, labels, transform, 0

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> tuple[Any, Any]:
        self.reads += 1
        image = self.images[index]
        return (image if self.transform is None else self.transform(image)), self.given[index]


class Streamed(IterableDataset[tuple[Any, Any]]):
    def __init__(self, images: Any, labels: Any = Y) -> None:
        self.images, self.given = images, labels

    def __iter__(self) -> Iterator[tuple[Any, Any]]:
        yield from zip(self.images, self.given, strict=True)


def _pictures(x: Tensor) -> list[Image.Image]:
    return [Image.fromarray(image.permute(1, 2, 0).numpy()) for image in x]


def _collate(items: list[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
    x, y = zip(*items, strict=True)
    return torch.stack(x), torch.stack(y)


BYTES, FLOATS = _bytes(), _floats()
WAYS: dict[str, Callable[[Tensor], Any]] = {
    "pair of tensors": lambda x: (x, Y),
    "pair of arrays": lambda x: (x.numpy(), Y.numpy()),
    "batch of a loader": lambda x: [x, Y],
    "pair with a list": lambda x: (x, Y.tolist()),
    "column of labels": lambda x: (x, Y[:, None].int()),
    "two lists": lambda x: (list(x), Y.tolist()),
    "list of pairs": lambda x: list(zip(x, Y.tolist(), strict=True)),
    "TensorDataset": lambda x: TensorDataset(x, Y),
    "Dataset": Listed,
    "Dataset of arrays": lambda x: Listed(x.numpy(), Y.numpy()),
    "Dataset of mappings": lambda x: [{"image": image, "label": label} for image, label in zip(x, Y, strict=True)],
    "Subset": lambda x: Subset(Listed(torch.cat([x[:1], x]), torch.cat([Y[:1], Y])), range(1, COUNT + 1)),
    "ConcatDataset": lambda x: ConcatDataset([Listed(x[:5], Y[:5]), Listed(x[5:], Y[5:])]),
    "DataLoader": lambda x: DataLoader(TensorDataset(x, Y), batch_size=5),
    "shuffling DataLoader": lambda x: DataLoader(Listed(x), batch_size=5, shuffle=True, drop_last=True),
    "weighted DataLoader": lambda x: DataLoader(Listed(x), sampler=WeightedRandomSampler([1.0] * COUNT, 50)),
    "DataLoader of a part": lambda x: DataLoader(
        Listed(torch.cat([x, x[:1]]), torch.cat([Y, Y[:1]])), sampler=SubsetRandomSampler(range(COUNT))
    ),
    "DataLoader without batches": lambda x: DataLoader(TensorDataset(x, Y), batch_size=None),
    "DataLoader that collates": lambda x: DataLoader(TensorDataset(x, Y), batch_size=5, collate_fn=_collate),
    "IterableDataset": Streamed,
    "IterableDataset in a DataLoader": lambda x: DataLoader(Streamed(x), batch_size=5),
    "generator": lambda x: ((image, label) for image, label in zip(x, Y, strict=True)),
    "mapping": lambda x: {"train": (x, Y)},
    "ImageSet": lambda x: {"train": as_source((x, Y)).train},
}


@pytest.mark.parametrize(
    "x", [BYTES, FLOATS, _bytes(1), _floats(1), _floats(7)], ids=["u8", "f32", "grey", "f32 grey", "7"]
)
@pytest.mark.parametrize("way", WAYS)
def test_images_come_back_exactly_in_their_order(way: str, x: Tensor) -> None:
    state = torch.get_rng_state()
    source = as_source(WAYS[way](x), name="mine")
    images = source.train
    assert (source.classes, images.classes) == (("0", "1", "2"), ("0", "1", "2"))
    found, labels = images.fetch(torch.arange(COUNT))
    assert found.dtype == torch.float32
    assert torch.equal(found, x if x.is_floating_point() else x.float() / 255)
    assert labels.dtype == torch.int64
    assert labels.tolist() == Y.tolist() == images.labels.tolist()
    same = as_source((x, Y)).train
    assert images.fingerprint == same.fingerprint
    assert images.digests() == same.digests()
    part = images.select(torch.tensor([7, 2, 5])).select(torch.tensor([2, 0]))
    assert part.origin.tolist() == [5, 7]
    assert torch.equal(part.fetch(torch.tensor([1]))[0], images.fetch(torch.tensor([7]))[0])
    assert part.fingerprint == same.select(torch.tensor([5, 7])).fingerprint
    assert json.loads(json.dumps(split(source).record))["duplicates"]["train-reported"] == 0
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize(
    "way", ["two lists", "list of pairs", "Dataset", "shuffling DataLoader", "IterableDataset", "generator"]
)
def test_pictures_of_pillow_become_rgb(way: str) -> None:
    def given(pictures: Any) -> Any:
        return WAYS[way](pictures)

    found = as_source(given(_pictures(BYTES))).train
    assert found.fingerprint == as_source((BYTES, Y)).train.fingerprint
    grey = [picture.convert(("L", "RGBA")[i % 2]) for i, picture in enumerate(_pictures(BYTES))]
    assert as_source(given(grey)).train.fetch(torch.tensor([0]))[0].shape == (1, 3, 6, 5)


def test_bytes_with_channels_last_are_taken_from_arrays() -> None:
    last = np.moveaxis(BYTES.numpy(), 1, -1)
    for data in ((last, Y), Listed(last), (last.copy(), Y)):
        assert as_source(data).train.fingerprint == as_source((BYTES, Y)).train.fingerprint
    flat = as_source(Listed(_bytes(1).numpy()[:, 0])).train
    assert flat.fingerprint == as_source((_bytes(1), Y)).train.fingerprint


@pytest.mark.parametrize(
    "change",
    [
        *(lambda a: a.astype(">f4"), lambda a: a[::-1][::-1], lambda a: a.astype(np.float64), np.asfortranarray),
        *(lambda a: np.broadcast_to(a, a.shape), torch.from_numpy, lambda a: torch.from_numpy(a).requires_grad_()),
    ],
)
def test_arrays_of_every_layout_are_read(change: Callable[[Any], Any]) -> None:
    found = as_source((change(FLOATS.numpy()), Y)).train.fetch(torch.arange(COUNT))[0]
    assert torch.equal(found, FLOATS)
    assert not found.requires_grad


def test_a_size_scales_all_kinds_alike() -> None:
    expected = as_source((BYTES, Y), size=(4, 4)).train
    assert as_source(Listed(_pictures(BYTES)), size=(4, 4)).train.fingerprint == expected.fingerprint
    mixed = Listed([picture.resize((5 + i, 6)) for i, picture in enumerate(_pictures(BYTES))])
    assert as_source(mixed, size=(4, 4)).train.fetch(torch.arange(COUNT))[0].shape == (COUNT, 3, 4, 4)
    with pytest.raises(BadDataError, match=r"item 1 is .* \(3, 6, 6\); expected .* \(3, 6, 5\) .*--size N"):
        as_source(mixed)
    with pytest.raises(BadDataError, match=r"image 1 is .* \(3, 6, 6\); expected"):
        as_source(Streamed(mixed.images))


def test_classes_come_from_the_dataset_or_are_said() -> None:
    data = Listed(BYTES)
    data.classes = ["[a]", ":b:", "$^$", "never"]  # type: ignore[attr-defined]
    for whole in (data, Subset(data, range(COUNT)), DataLoader(data), {"train": data}):
        assert as_source(whole).classes == ("[a]", ":b:", "$^$", "never")
    assert as_source((BYTES, Y), classes=["x", "y", "z"]).classes == ("x", "y", "z")
    both = as_source({"train": data, "val": (BYTES, Y)})
    assert both.test is not None
    assert both.test.classes == both.classes
    data.classes = [("tench", "Tinca tinca"), "goldfish", "shark"]  # type: ignore[attr-defined]
    assert as_source(data).classes == ("tench, Tinca tinca", "goldfish", "shark")
    other = Listed(BYTES)
    other.classes = ["shark", "goldfish", "tench, Tinca tinca"]  # type: ignore[attr-defined]
    for train, test in ((data, other), (data, "digits")):
        with pytest.raises(BadDataError, match="'test' and 'train' have other classes, or another order"):
            as_source({"train": train, "test": test})
    with pytest.raises(BadDataError, match="a label is 2; expected 0 to 1"):
        as_source((BYTES, Y), classes=["x", "y"])
    with pytest.raises(BadDataError, match="expected a word for each"):
        as_source((BYTES, Y), classes=[0, 1, 2])  # type: ignore[list-item]


def test_splits_of_a_mapping() -> None:
    source = as_source({"Train": (BYTES, Y), "test": DataLoader(TensorDataset(FLOATS[:4], Y[:4]))}, name="mine")
    assert source.test is not None
    assert (source.train.name, source.test.name) == ("mine/train", "mine/test")
    assert torch.equal(source.test.fetch(torch.arange(4))[0], FLOATS[:4])
    wider = as_source({"train": (BYTES[:2], Y[:2]), "test": (BYTES, Y)})
    assert wider.train.classes == ("0", "1", "2")


def test_sources_are_taken_as_they_are(tmp_path: Path) -> None:
    source = load_source("digits")
    assert as_source(source) is source
    assert as_source("digits", size=(8, 8)).train.fingerprint == load_source("digits", size=(8, 8)).train.fingerprint
    folder = digits_folder(tmp_path / "d", classes=2, each=3)
    assert as_source(folder).classes == ("digit0", "digit1")
    parts = as_source({"train": str(folder), "test": folder})
    assert parts.test is not None
    assert parts.test.fingerprint == parts.train.fingerprint
    with pytest.raises(BadDataError, match="names its classes itself"):
        as_source("digits", classes=["a"])


def test_declared_labels_spare_a_pass_and_are_checked() -> None:
    data = Listed(BYTES)
    data.targets = Y.tolist()  # type: ignore[attr-defined]
    images = as_source(data).train
    few = data.reads
    assert images.labels.tolist() == Y.tolist()
    images.fetch(torch.arange(3))
    images.select(torch.arange(5)).fetch(torch.arange(5))
    assert data.reads == few + COUNT
    # a target_transform: what the items say counts
    data.targets = [0] * COUNT  # type: ignore[attr-defined]
    assert as_source(data).train.labels.tolist() == Y.tolist()
    data.targets = [{"boxes": []}] * COUNT  # type: ignore[attr-defined]
    assert as_source(data).train.labels.tolist() == Y.tolist()


def test_a_large_dataset_is_read_bit_by_bit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("loradar.data.images.MEMORY", BYTES[:4].nbytes)
    data = Listed(BYTES)
    data.targets = Y  # type: ignore[attr-defined]
    images = as_source(data).train
    assert images.digests() is None
    before, fingerprint = data.reads, images.fingerprint
    assert len(fingerprint) == 64
    before = data.reads
    for _ in range(2):
        assert torch.equal(images.fetch(torch.tensor([9, 3]))[0], BYTES[[9, 3]].float() / 255)
    assert data.reads == before + 4
    part = images.select(torch.arange(4, 8))
    assert part.digests() == as_source((BYTES[4:8], Y[4:8])).train.digests()
    before = data.reads
    assert torch.equal(part.fetch(torch.tensor([1]))[0][0], BYTES[5].float() / 255)
    assert data.reads == before
    assert as_source(Listed(BYTES.flip(0))).train.fingerprint != fingerprint
    with pytest.raises(BadDataError, match=r"gives more than .* MiB of images"):
        as_source((image, 0) for _ in range(100) for image in BYTES)


def test_torchvision_datasets_are_taken(tmp_path: Path) -> None:
    from torchvision.datasets import FakeData, ImageFolder
    from torchvision.transforms import v2

    folder = digits_folder(tmp_path / "d", classes=3, each=2)
    expected = load_source(str(folder)).train
    images = as_source(ImageFolder(folder)).train
    assert images.classes == expected.classes
    assert torch.equal(images.fetch(torch.arange(6))[0], expected.fetch(torch.arange(6))[0])
    to_tensor = v2.Compose([v2.ToImage(), v2.ToDtype(torch.float32, scale=True)])
    floats = as_source(ImageFolder(folder, transform=to_tensor)).train
    # torchvision multiplies by a rounded 1/255
    torch.testing.assert_close(floats.fetch(torch.arange(6))[0], expected.fetch(torch.arange(6))[0])
    random = v2.Compose([to_tensor, v2.RandomCrop(20)])
    with pytest.raises(BadDataError, match="is another image each time it is read"):
        as_source(ImageFolder(folder, transform=random))
    normal = v2.Compose([to_tensor, v2.Normalize((0.5,) * 3, (0.5,) * 3)])
    with pytest.raises(BadDataError, match="give mean= and std="):
        as_source(FakeData(4, (3, 8, 8), 2, transform=normal))


class _Broken(Listed):
    def __getitem__(self, index: int) -> tuple[Any, Any]:
        if index == 5:
            raise OSError("disk\ngone")
        return super().__getitem__(index)


NAN = FLOATS.clone()
NAN[3, 0, 0, 0] = float("nan")
REFUSED: list[tuple[Any, str]] = [
    ((FLOATS * 4 - 2, Y), r"images span \[-1.995, 1.998\]; expected \[0, 1\] \(normalisation .* give mean= and std=\)"),
    ((FLOATS * 200 + 3, Y), r"expected \[0, 1\] \(divide by 255\)"),
    ((NAN, Y), "NaN or infinite"),
    ((FLOATS / 0, Y), "NaN or infinite"),
    ((BYTES.int(), Y), "images are torch.int32; expected uint8 from 0 to 255, or floats"),
    ((BYTES.numpy().astype(np.uint16), Y), "images are torch.uint16"),
    ((FLOATS > 0.5, Y), "images are torch.bool"),
    ((FLOATS[:, 0], Y), r"shape \(12, 6, 5\); expected \(count, channels, height, width\); .* \(x.unsqueeze\(1\)\)"),
    ((FLOATS[0, 0], Y), r"shape \(6, 5\); expected"),
    ((FLOATS.permute(0, 2, 3, 1), Y), r"shape \(12, 6, 5, 3\); expected .* \(x.permute\(0, 3, 1, 2\)\)"),
    ((FLOATS.permute(0, 2, 3, 1).numpy(), Y), r"x.permute\(0, 3, 1, 2\)"),
    ((np.array([None] * 3), Y[:3]), "shape"),
    ((np.empty((2, 3, 4, 4), dtype=object), Y[:2]), "an array of object"),
    ((FLOATS[:0], Y[:0]), "holds no images"),
    ((FLOATS, Y[:7]), "12 images and 7 labels"),
    ((list(FLOATS), Y[:7]), "12 images and 7 labels"),
    ((FLOATS, Y.float()), "labels are float32; expected integers"),
    ((FLOATS, Y > 1), "labels are bool"),
    ((FLOATS, torch.nn.functional.one_hot(Y)), r"labels have shape \(12, 3\); .* \(one-hot rows: y.argmax\(1\)\)"),
    ((FLOATS, Y - 1), r"labels span \[-1, 1\]; expected none below 0"),
    ((FLOATS, ["cat"] * COUNT), "labels cannot be read as numbers"),
    ((FLOATS, np.array(["cat"] * COUNT)), "an array of <U3"),
    ((FLOATS, Y + 20230101), "labels go up to 20230103 with 3 different ones"),
    ((FLOATS, None), "labels cannot be read"),
    (Listed(BYTES[:0]), "holds no images"),
    (Listed(FLOATS * 300), r"item 0: images span"),
    (Listed(NAN), "item 3: images hold NaN"),
    (Listed(FLOATS, Y.float()), "item 0: labels are float32"),
    (Listed(FLOATS, ["cat"] * COUNT), "item 0: its label is a str; expected an integer"),
    (Listed(FLOATS, torch.nn.functional.one_hot(Y)), r"item 0: its label has shape \(3,\)"),
    (Listed(FLOATS, Y - 1), r"item 0: labels span \[-1, -1\]"),
    (Listed(FLOATS[:, 0]), r"item 0: images have shape \(6, 5\); .* \(x.unsqueeze\(0\)\)"),
    (Listed(["a.png"] * COUNT), "images are a str; expected a tensor"),
    (Listed([Image.new("I;16", (4, 4))] * COUNT), "item 0 has mode I;16"),
    (_Broken(BYTES), r"item 5 cannot be read \(OSError: disk gone\)"),
    ([(FLOATS[0], 1, 2)], "item 0 is a tuple of 3; expected a pair"),
    ([{"pixels": FLOATS[0], "label": 1}], "item 0 has the keys 'pixels', 'label'; expected 'image' and 'label'"),
    (Streamed(FLOATS[:0], Y[:0]), "holds no images"),
    (Streamed(NAN), "item 3: images hold NaN"),
    (Streamed(_Broken(BYTES).images, Y[:5]), "cannot be read to its end"),
    (DataLoader(TensorDataset(FLOATS * 9, Y), collate_fn=_collate), "item 0: images span"),
    ({"train": (FLOATS, Y), "odd": (FLOATS, Y)}, "the key 'odd'; expected 'train' and 'test'"),
    ({"train": (FLOATS, Y), "Train": (FLOATS, Y)}, "name one split twice"),
    ({"test": (FLOATS, Y), "val": (FLOATS, Y)}, "has splits 'test', 'val'; expected 'train'"),
    ({}, "an empty mapping"),
    (FLOATS, "data are a Tensor; expected a source string, a pair"),
    ((FLOATS,), "data are a tuple"),
    ((FLOATS, Y, Y), "data are a tuple"),
    (None, "data are a NoneType"),
    (7, "data are a int"),
    ("no/such/place", "there is no data"),
]


@pytest.mark.parametrize(("data", "message"), REFUSED, ids=[message[:40] for _, message in REFUSED])
def test_what_is_no_data_is_refused_in_one_line(data: Any, message: str) -> None:
    with pytest.raises(BadDataError, match=message) as raised:
        _ = as_source(data).train
    assert "\n" not in str(raised.value)


@given(
    st.integers(1, 9),
    st.integers(1, 4),
    st.integers(1, 6),
    st.sampled_from([torch.float16, torch.float32, torch.float64]),
)
def test_floats_are_kept_to_the_bit(count: int, channels: int, side: int, dtype: torch.dtype) -> None:
    x = torch.rand(count, channels, side, 9, generator=torch.Generator().manual_seed(count)).to(dtype)
    source: Source = as_source((x, torch.zeros(count, dtype=torch.int32)))
    assert torch.equal(source.train.fetch(torch.arange(count))[0], x.float())


def test_one_picture_of_each_kind_has_its_size() -> None:
    images = as_source([(Image.fromarray(pixels(0, height=4, width=7)), 0)]).train
    assert images.size == (4, 7)
