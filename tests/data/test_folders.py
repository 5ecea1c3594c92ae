"""Folders of images."""

from pathlib import Path

import pytest
import torch

from loradar.core.errors import BadDataError
from loradar.data import load_source
from tests.data.pictures import coded, pixels, png


def _put(path: Path, data: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)


def test_a_folder_for_each_class(tmp_path: Path) -> None:
    _put(tmp_path / "dog" / "1.png", png(1))
    _put(tmp_path / "cat" / "deep" / "b.JPG", coded(pixels(2), "JPEG"))
    _put(tmp_path / "cat" / "a.png", png(0))
    _put(tmp_path / "cat" / "._a.png", b"what macOS leaves")
    _put(tmp_path / "cat" / "notes.txt", b"no picture")
    (tmp_path / "empty").mkdir()
    _put(tmp_path / ".cache" / "x.png", png(9))
    source = load_source(str(tmp_path))
    assert source.classes == ("cat", "dog")
    assert source.test is None
    x, y = source.train.fetch(torch.arange(3))
    assert y.tolist() == [0, 0, 1]
    assert torch.equal((x[2] * 255).round().to(torch.uint8).permute(1, 2, 0), torch.from_numpy(pixels(1)))


@pytest.mark.parametrize("second", ["test", "val"])
def test_train_and_test_above_the_classes(tmp_path: Path, second: str) -> None:
    for split, shift in (("train", 0), (second, 10)):
        for number, name in enumerate(("cat", "dog")):
            _put(tmp_path / split / name / "1.png", png(number + shift))
    source = load_source(str(tmp_path))
    assert source.test is not None
    assert source.test.name == f"{tmp_path.name}/{second}"
    assert source.test.fingerprint != source.train.fingerprint
    _put(tmp_path / second / "eel" / "1.png", png(5))
    with pytest.raises(BadDataError, match="only one of them has 'eel'"):
        load_source(str(tmp_path))


def test_a_broken_picture_is_named_by_its_path(tmp_path: Path) -> None:
    _put(tmp_path / "cat" / "1.png", png(0))
    _put(tmp_path / "dog" / "7.png", png(1)[:40])
    train = load_source(str(tmp_path)).train
    with pytest.raises(BadDataError, match=r"dog/7\.png cannot be read as an image"):
        train.fetch(torch.tensor([0]))
    assert train.select(torch.tensor([0])).fetch(torch.tensor([0]))[1].tolist() == [0]
    (tmp_path / "dog" / "7.png").unlink()
    with pytest.raises(BadDataError, match=r"could not read dog/7\.png"):
        train.fetch(torch.tensor([0]))


def test_a_folder_without_pictures_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BadDataError, match="holds no images"):
        load_source(str(tmp_path))
