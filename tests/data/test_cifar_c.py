"""Corruptions read from files: CIFAR-C's arrays, and ImageNet-C's folders."""

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from loradar.core.errors import BadDataError
from loradar.data import load_source
from tests.data.pictures import png

EACH = 6


def _images(seed: int, count: int = 5 * EACH) -> np.ndarray[Any, np.dtype[np.uint8]]:
    return np.random.default_rng(seed).integers(0, 256, (count, 32, 32, 3), dtype=np.uint8)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    root = tmp_path / "CIFAR-10-C"
    root.mkdir()
    for seed, name in enumerate(("fog", "gaussian_noise")):
        np.save(root / f"{name}.npy", _images(seed))
    np.save(root / "labels.npy", np.tile(np.array([3, 8, 0, 9, 1, 1], dtype=np.uint8), 5))
    (root / "._fog.npy").write_bytes(b"what macOS leaves")
    return root


@pytest.mark.parametrize("severity", [1, 3, 5])
def test_a_severity_is_a_fifth_of_the_file(folder: Path, severity: int) -> None:
    source = load_source(f"cifar-c:{folder}:corruption=gaussian_noise,severity={severity}")
    assert (source.name, source.test) == ("CIFAR-10-C", None)
    assert source.classes == tuple(map(str, range(10)))
    assert source.train.name == f"CIFAR-10-C/gaussian_noise-{severity}"
    x, y = source.train.fetch(torch.arange(EACH))
    assert y.tolist() == [3, 8, 0, 9, 1, 1]
    expected = _images(1)[(severity - 1) * EACH : severity * EACH]
    assert torch.equal((x * 255).round().to(torch.uint8).permute(0, 2, 3, 1), torch.from_numpy(expected))


def test_labels_of_one_severity_serve_all_and_sizes_are_met(folder: Path) -> None:
    np.save(folder / "labels.npy", np.array([3, 8, 0, 99, 1, 1]))
    source = load_source(f"cifar-c:{folder}:corruption=fog,severity=2", size=(48, 48))
    assert len(source.classes) == 100
    assert source.train.fetch(torch.arange(EACH))[0].shape == (EACH, 3, 48, 48)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("", r"corruption='' is not in .*known: 'fog', 'gaussian_noise'"),
        (":corruption=frog,severity=1", "corruption='frog' is not in .*did you mean 'fog'"),
        (":corruption=../fog,severity=1", "is not in"),
        (":corruption=labels,severity=1", "is not in"),
        (":corruption=fog", "severity=; expected severity=1 to severity=5"),
        (":corruption=fog,severity=6", "severity=6; expected"),
        (":corruption=fog,severity=03", "severity=03; expected"),
        (":corruption=fog,kind=1", "has no option 'kind'"),
    ],
)
def test_options_that_are_not_there_are_refused(folder: Path, options: str, message: str) -> None:
    with pytest.raises(BadDataError, match=message):
        load_source(f"cifar-c:{folder}{options}")


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (_images(0).astype(np.float32), "is float32 of shape"),
        (_images(0)[:-1], r"\(29, 32, 32, 3\); expected uint8 \(5 times"),
        (_images(0)[:, :16], r"\(30, 16, 32, 3\); expected"),
        (_images(0)[:0], r"\(0, 32, 32, 3\); expected"),
        (np.uint8(3), r"shape \(\); expected"),
        (_images(0, 50), "has 50 images and labels.npy 30"),
        (np.array([None] * 5), r"no whole array of numbers \(.*Python objects"),
    ],
)
def test_an_array_of_another_kind_is_refused(folder: Path, array: Any, message: str) -> None:
    np.save(folder / "fog.npy", array)
    with pytest.raises(BadDataError, match=message) as raised:
        _ = load_source(f"cifar-c:{folder}:corruption=fog,severity=1").train
    assert "\n" not in str(raised.value)


def test_a_file_that_is_no_array_is_refused(folder: Path) -> None:
    spec = f"cifar-c:{folder}:corruption=fog,severity=1"
    path = folder / "fog.npy"
    whole = path.read_bytes()
    for content in (b"", b"no array", whole[:-1], whole[:60], whole.replace(b"(30,", b"(9" + b"9" * 30 + b",", 1)):
        path.write_bytes(content)
        with pytest.raises(BadDataError, match="is no whole array of numbers"):
            _ = load_source(spec).train
    np.savez(path.with_suffix(""), images=_images(0))
    path.with_suffix(".npz").replace(path)
    with pytest.raises(BadDataError, match="is an archive"):
        _ = load_source(spec).train
    path.unlink()
    os.mkfifo(path)
    with pytest.raises(BadDataError, match="there is no file"):
        _ = load_source(spec).train
    for labels, message in ((np.ones((30, 10)), r"labels have shape \(30, 10\)"), (np.ones(0, int), "holds no labels")):
        np.save(folder / "labels.npy", labels)
        with pytest.raises(BadDataError, match=message):
            load_source(spec)
    (folder / "labels.npy").unlink()
    with pytest.raises(BadDataError, match=r"there is no file .*labels\.npy"):
        load_source(spec)
    with pytest.raises(BadDataError, match=r"holds no corruption such as fog\.npy"):
        load_source(f"cifar-c:{folder.parent}")


def test_one_severity_of_imagenet_c_is_a_folder_of_classes(tmp_path: Path) -> None:
    for severity in range(1, 6):
        for number, name in enumerate(
            ("fog/{}/n01440764", "fog/{}/n01443537", "frost/{}/n01440764", "frost/{}/n01443537")
        ):
            path = tmp_path / name.format(severity) / "ILSVRC2012_val_00000293.JPEG"
            path.parent.mkdir(parents=True)
            path.write_bytes(png(10 * severity + number))
    source = load_source(str(tmp_path / "fog" / "3"))
    assert source.classes == ("n01440764", "n01443537")
    assert source.train.labels.tolist() == [0, 1]
    with pytest.raises(BadDataError, match=r"holds the severities of one corruption; give one .*fog/3\)"):
        load_source(str(tmp_path / "fog"))
    with pytest.raises(BadDataError, match=r"holds corruptions by severity; give one .*fog/3\)"):
        load_source(str(tmp_path))
