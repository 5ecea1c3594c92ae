"""Folders of images."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from PIL import Image

from loradar.core.errors import BadDataError
from loradar.data import load_source
from tests.data.pictures import coded, needs, pixels, png


def _put(path: Path, data: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)


def test_a_folder_for_each_class(tmp_path: Path) -> None:
    _put(tmp_path / "dog" / "1.png", png(1))
    _put(tmp_path / "cat" / "deep" / "b.JPG", coded(pixels(2), "JPEG"))
    _put(tmp_path / "cat" / "a.png", png(0))
    _put(tmp_path / "cat" / "._a.png", b"what macOS leaves")
    _put(tmp_path / "cat" / "notes.txt", b"no picture")
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


def _classes(root: Path, *names: str) -> Path:
    for number, name in enumerate(names):
        _put(root / name / "1.png", png(number))
    return root


def _read(root: Path) -> tuple[tuple[str, ...], list[int]]:
    train = load_source(str(root)).train
    assert train.fetch(torch.arange(len(train)))[0].shape == (len(train), 3, 8, 8)
    return train.classes, train.labels.tolist()


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        *(
            ("a.JPG", "JPEG"),
            ("a.jfif", "JPEG"),
            ("a.jpe", "JPEG"),
            ("a.mpo", "MPO"),
            ("a.PNG", "PNG"),
            ("a.avif", "AVIF"),
        ),
        *(
            ("a.webp", "WEBP"),
            ("a.jp2", "JPEG2000"),
            ("a.tga", "TGA"),
            ("a.Tif", "TIFF"),
            ("a.bmp", "BMP"),
            ("a.gif", "GIF"),
        ),
        *(("a.ppm", "PPM"), ("a.pcx", "PCX"), ("a.ico", "ICO"), ("a.sgi", "SGI"), ("a.qoi", "QOI"), ("a.dds", "DDS")),
        *(("a", "PNG"), ("a", "TGA"), ("a.0001", "JPEG"), ("photo of 3.5 m", "WEBP"), ("a.dat", "PNG")),
    ],
)
def test_a_file_is_a_picture_where_pillow_opens_it(tmp_path: Path, name: str, kind: str) -> None:
    needs(kind)
    _classes(tmp_path, "cat", "dog")
    Image.fromarray(pixels(3, height=16, width=16)).save(tmp_path / "dog" / name, format=kind)
    source = load_source(str(tmp_path), size=(8, 8))
    assert source.train.labels.tolist() == [0, 1, 1]
    assert source.train.fetch(torch.arange(3))[0].shape == (3, 3, 8, 8)


@pytest.mark.parametrize(
    "name",
    [
        *(
            "Thumbs.db",
            "THUMBS.DB",
            "desktop.ini",
            ".DS_Store",
            "._1.png",
            "notes.txt",
            "labels.JSON",
            "list.csv",
            "README",
        ),
        *(
            "1.png~",
            "1.png.bak",
            ".ipynb_checkpoints/1-checkpoint.png",
            "@eaDir/1.png",
            "__MACOSX/1.png",
            ".hidden/a/1.png",
        ),
        *("deep/@eaDir/1.png/thumb.jpg", "deep/.thumbnails/1.png", "deep/__pycache__/a.pyc", "$RECYCLE.BIN/1.png"),
    ],
)
def test_what_systems_and_people_leave_is_skipped_at_any_depth(tmp_path: Path, name: str) -> None:
    _classes(tmp_path, "cat", "dog")
    if not name.startswith("deep"):
        _put(tmp_path / name, png(8))
    _put(tmp_path / "cat" / name, png(9))
    assert _read(tmp_path) == (("cat", "dog"), [0, 1])


@pytest.mark.parametrize("name", ["clip.mp4", "scan.pdf", "1.heic", "unknown", "weights.pt", "1.svg"])
def test_any_other_file_is_named(tmp_path: Path, name: str) -> None:
    _put(_classes(tmp_path, "cat", "dog") / "cat" / name, b"\x01\x02 no picture")
    with pytest.raises(BadDataError, match=rf"cat/{name} cannot be read as an image and is no usual note") as raised:
        load_source(str(tmp_path))
    assert "\n" not in str(raised.value)


def test_a_picture_in_no_class_folder_is_named(tmp_path: Path) -> None:
    _put(_classes(tmp_path, "cat", "dog") / "3.png", png(1))
    with pytest.raises(BadDataError, match=r"3\.png lies in no class folder"):
        load_source(str(tmp_path))
    (tmp_path / "3.png").rename(tmp_path / "list.txt")
    assert _read(tmp_path)[0] == ("cat", "dog")


@pytest.mark.parametrize("name", ["train", "test", "val", "Validation", "dev"])
def test_a_class_called_like_a_split_is_a_class_beside_others(tmp_path: Path, name: str) -> None:
    classes, labels = _read(_classes(tmp_path, "bus", name, "zebra"))
    assert sorted(classes) == sorted(("bus", name, "zebra"))
    assert labels == [0, 1, 2]
    _put(tmp_path / name / "deeper" / "2.png", png(7))
    assert len(_read(tmp_path)[1]) == 4


def test_splits_hold_class_folders_and_nothing_stands_beside_them(tmp_path: Path) -> None:
    for split in ("train", "test"):
        _classes(tmp_path / split, "cat", "dog")
    _put(tmp_path / ".cache" / "1.png", png(0))
    assert load_source(str(tmp_path)).classes == ("cat", "dog")
    _classes(tmp_path, "extra")
    with pytest.raises(BadDataError, match="holds 'extra' beside the splits 'test' and 'train'"):
        load_source(str(tmp_path))
    flat = tmp_path / "flat"
    _classes(flat / "train", "cat", "dog")
    _put(flat / "test" / "1.png", png(0))
    with pytest.raises(BadDataError, match="test is called like a split but holds no class folders"):
        load_source(str(flat))
    twice = tmp_path / "twice"
    for split in ("train", "Train"):
        _classes(twice / split, "cat", "dog")
    with pytest.raises(BadDataError, match="both 'Train' and 'train'"):
        load_source(str(twice))


def test_a_folder_around_the_data_set_is_refused(tmp_path: Path) -> None:
    for split in ("train", "val"):
        _classes(tmp_path / "pets" / split, "cat", "dog")
    with pytest.raises(BadDataError, match=r"expected classes \(give .*pets\?\)"):
        load_source(str(tmp_path))


@pytest.mark.parametrize("left", ["", "notes.txt", ".hidden.png", "@eaDir/1.png", "deep/er/Thumbs.db"])
def test_an_empty_class_folder_is_named(tmp_path: Path, left: str) -> None:
    (_classes(tmp_path, "cat", "dog") / "eel").mkdir()
    if left:
        _put(tmp_path / "eel" / left, png(0))
    with pytest.raises(BadDataError, match="eel is an empty class folder"):
        load_source(str(tmp_path))


def test_names_that_differ_by_case_are_two_classes(tmp_path: Path) -> None:
    assert _read(_classes(tmp_path, "A", "a", "b")) == (("A", "a", "b"), [0, 1, 2])


def test_numbers_are_sorted_as_numbers(tmp_path: Path) -> None:
    assert _read(_classes(tmp_path, *(str(i) for i in range(12))))[0] == tuple(str(i) for i in range(12))


def test_names_pass_unchanged(tmp_path: Path) -> None:
    names = ("$^$", "[red]", "[bold", ":smile:", "\u2603 \U0001f600", "a{b}", "n\u0303", "per%cent", "*")
    assert _read(_classes(tmp_path / "[data] :x:", *names))[0] == tuple(sorted(names))


@pytest.mark.parametrize("link", [os.link, os.symlink])
def test_a_file_of_several_names_counts_once_in_a_class(tmp_path: Path, link: Callable[[Path, Path], None]) -> None:
    root = _classes(tmp_path, "cat", "dog")
    (file,) = (root / "cat").iterdir()
    for name in ("0.png", "z.png", "again.jpg"):
        link(file, root / "cat" / name)
    (root / "cat" / "deeper").mkdir()
    link(file, root / "cat" / "deeper" / "one.png")
    _put(root / "cat" / "copy.png", file.read_bytes())  # a file of its own
    assert _read(root)[1] == [0, 0, 1]
    link(file, root / "dog" / "also.png")  # of another class
    assert _read(root)[1] == [0, 0, 1, 1]


def test_links_are_followed_once(tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    _put(elsewhere / "5.png", png(5))
    root = _classes(tmp_path / "root", "cat", "dog")
    (root / "cat" / "more").symlink_to(elsewhere, target_is_directory=True)
    (root / "cat" / "2.png").symlink_to(elsewhere / "5.png")
    (root / "eel").symlink_to(tmp_path / "other", target_is_directory=True)
    _put(tmp_path / "other" / "1.png", png(6))
    assert _read(root) == (("cat", "dog", "eel"), [0, 0, 1, 2])
    for target in (root, elsewhere, root / "dog"):
        link = root / "cat" / "more too"
        link.symlink_to(target, target_is_directory=True)
        with pytest.raises(BadDataError, match="is a link to a folder that is read already"):
            load_source(str(root))
        link.unlink()
    (root / "cat" / "3.png").symlink_to(tmp_path / "nowhere")
    with pytest.raises(BadDataError, match=r"3\.png is no file that can be read \(a broken link\?\)"):
        load_source(str(root))


def test_sizes_that_differ_say_how_to_bring_them_together(tmp_path: Path) -> None:
    _put(_classes(tmp_path, "cat", "dog") / "dog" / "2.png", png(4, height=12, width=9))
    with pytest.raises(BadDataError, match=r"dog/2\.png is 12x9; expected 8x8 .*--size N"):
        _read(tmp_path)
    images = load_source(str(tmp_path), size=(8, 8)).train
    assert images.fetch(torch.arange(3))[0].shape == (3, 3, 8, 8)
