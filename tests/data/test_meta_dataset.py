"""Data sets of Meta-Dataset: the three kinds of specifications that its converter writes, and damaged ones."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch

from loradar.core.errors import BadDataError
from loradar.data import load_source
from tests.data.pictures import coded, pixels, png
from tests.data.tfrecords import example, write_records, write_spec

NAMES = {str(i): name for i, name in enumerate(("A340-300", "A318", "Falcon 2000", "737-200", "DC-3", "BAE-125"))}


def _spec(**changes: Any) -> dict[str, Any]:
    spec = {
        "name": "aircraft",
        "classes_per_split": {"TRAIN": 3, "VALID": 1, "TEST": 2},
        "images_per_class": {number: int(number) + 1 for number in NAMES},
        "class_names": NAMES,
        "path": "/path/to/records/aircraft",
        "file_pattern": "{}.tfrecords",
        "__class__": "DatasetSpecification",
    }
    return {name: value for name, value in (spec | changes).items() if value is not None}


def _converted(root: Path, spec: Mapping[str, Any]) -> Path:
    """Class i has i + 1 images; image k of it is noise of the seed 10 i + k."""
    for number in range(len(spec["class_names"])):
        contents = [example(png(10 * number + k), number) for k in range(number + 1)]
        write_records(root / f"{number}.tfrecords", contents)
    write_spec(root, spec)
    return root


@pytest.fixture
def aircraft(tmp_path: Path) -> Path:
    return _converted(tmp_path / "aircraft", _spec())


@pytest.mark.parametrize(
    ("split", "numbers"), [("train", [0, 1, 2]), ("valid", [3]), ("test", [4, 5]), ("all", [0, 1, 2, 3, 4, 5])]
)
def test_a_split_has_classes_of_its_own(aircraft: Path, split: str, numbers: list[int]) -> None:
    source = load_source(f"meta-dataset:{aircraft}" + (f":split={split}" if split != "all" else ""))
    assert source.classes == tuple(NAMES[str(number)] for number in numbers)
    assert (source.name, source.test) == (f"aircraft/{split}", None)
    x, y = source.train.fetch(torch.arange(len(source.train)))
    assert y.tolist() == [place for place, number in enumerate(numbers) for _ in range(number + 1)]
    seeds = [10 * number + k for number in numbers for k in range(number + 1)]
    for image, seed in zip((x * 255).round().to(torch.uint8), seeds, strict=True):
        assert torch.equal(image.permute(1, 2, 0), torch.from_numpy(pixels(seed)))


def test_pictures_of_any_size_are_brought_to_one(aircraft: Path) -> None:
    jpeg = coded(pixels(1, height=30, width=20), "JPEG")
    write_records(aircraft / "4.tfrecords", [example(jpeg, 4)] * 5)
    source = load_source(f"meta-dataset:{aircraft}:split=test", size=(16, 16))
    assert source.train.fetch(torch.arange(11))[0].shape == (11, 3, 16, 16)
    with pytest.raises(BadDataError, match=r"aircraft/5\.tfrecords, record 0 is 8x8; expected 30x20"):
        load_source(f"meta-dataset:{aircraft}:split=test").train.fetch(torch.arange(11))


def test_two_levels_as_in_omniglot(tmp_path: Path) -> None:
    spec = _spec(
        classes_per_split=None,
        superclasses_per_split={"TRAIN": 1, "VALID": 1, "TEST": 1},
        classes_per_superclass={"0": 2, "1": 1, "2": 3},
        superclass_names={"0": "Greek", "1": "Latin", "2": "Tifinagh"},
        __class__="BiLevelDatasetSpecification",
    )
    root = _converted(tmp_path / "omniglot", spec)
    assert load_source(f"meta-dataset:{root}:split=valid").classes == ("Falcon 2000",)
    assert load_source(f"meta-dataset:{root}:split=test").train.labels.tolist() == [0] * 4 + [1] * 5 + [2] * 6
    for sizes, message in (({"0": 2, "1": 1}, "its splits have 3 classes, 2 are there"), ({}, "have 3 classes, 0")):
        write_spec(root, spec | {"classes_per_superclass": sizes})
        with pytest.raises(BadDataError, match=message):
            load_source(f"meta-dataset:{root}")
    write_spec(root, spec | {"classes_per_superclass": {"0": 2, "1": 1, "7": 3}})
    with pytest.raises(BadDataError, match="gives no size of superclass 2"):
        load_source(f"meta-dataset:{root}")


def _synset(name: str, *children: str) -> dict[str, Any]:
    return {"wn_id": name, "words": f"words of {name}", "children_ids": list(children), "parents_ids": []}


def test_a_graph_as_in_imagenet(tmp_path: Path) -> None:
    names = {str(i): f"n{i}" for i in range(3)}
    spec = _spec(
        classes_per_split=None,
        class_names=names,
        split_subgraphs={
            "TRAIN": [_synset("n9", "n1", "n0"), _synset("n1"), _synset("n0")],
            "VALID": [],
            "TEST": [_synset("n8", "n2"), _synset("n2")],
        },
        images_per_class={"TRAIN": {"n9": 3, "n1": 2, "n0": 1}, "VALID": {}, "TEST": {"n8": 3, "n2": 3}},
        __class__="HierarchicalDatasetSpecification",
    )
    root = _converted(tmp_path / "ilsvrc_2012", spec)
    assert load_source(f"meta-dataset:{root}:split=train").classes == ("n0", "n1")
    assert load_source(f"meta-dataset:{root}:split=test").train.labels.tolist() == [0, 0, 0]
    with pytest.raises(BadDataError, match=r"no classes in the split 'valid'; .*\(classes: train 2, valid 0, test 1\)"):
        load_source(f"meta-dataset:{root}:split=valid")
    write_spec(root, spec | {"split_subgraphs": {"TEST": [_synset("n7")]}})
    with pytest.raises(BadDataError, match="'n7' is a leaf and no class"):
        load_source(f"meta-dataset:{root}:split=test")


def test_a_class_may_have_a_file_for_each_pool(tmp_path: Path) -> None:
    spec = _spec(
        file_pattern="{}_{}.tfrecords",
        class_names={"0": "zero", "1": "one"},
        classes_per_split={"TRAIN": 0, "VALID": 0, "TEST": 2},
        images_per_class={"0": {"train": 2, "test": 1}, "1": {"train": 1, "test": 0}},
    )
    for file, count in (("0_train", 2), ("0_test", 1), ("1_train", 1), ("1_test", 0), ("10_train", 9)):
        write_records(tmp_path / "mnist" / f"{file}.tfrecords", [example(png(k), int(file[0])) for k in range(count)])
    write_spec(tmp_path / "mnist", spec)
    images = load_source(f"meta-dataset:{tmp_path / 'mnist'}:split=test").train
    assert images.fetch(torch.arange(4))[1].tolist() == [0, 0, 0, 1]


def test_damage_is_named_by_file_and_record(aircraft: Path) -> None:
    path = aircraft / "5.tfrecords"
    whole = path.read_bytes()
    write_records(path, [example(png(50 + k), 5) for k in range(5)])
    with pytest.raises(BadDataError, match=r"5\.tfrecords: class 5 has 5 images and dataset_spec\.json says 6"):
        _ = load_source(f"meta-dataset:{aircraft}").train
    path.write_bytes(whole[:-3])
    with pytest.raises(BadDataError, match=r"5\.tfrecords: record 5 is cut off"):
        _ = load_source(f"meta-dataset:{aircraft}").train
    assert len(load_source(f"meta-dataset:{aircraft}:split=train").train) == 6
    path.write_bytes(whole[:-40] + b"?" + whole[-39:])
    images = load_source(f"meta-dataset:{aircraft}:split=test").train
    with pytest.raises(BadDataError, match=r"aircraft/5\.tfrecords, record 5 is damaged") as raised:
        images.fetch(torch.arange(2))
    assert "\n" not in str(raised.value)
    path.unlink()
    with pytest.raises(BadDataError, match=r"there is no .*5\.tfrecords; convert it again"):
        load_source(f"meta-dataset:{aircraft}")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"class_names": None}, "class_names: Field required"),
        ({"file_pattern": "../../{}.tfrecords"}, "file_pattern: Input should be"),
        ({"classes_per_split": {"TRAIN": -1}}, "classes_per_split.TRAIN: Input should be greater"),
        ({"classes_per_split": {"TRAIN": 10**12}}, "its splits have 1,000,000,000,000 classes, 6 are there"),
        ({"classes_per_split": None}, "says of no split what classes it has"),
        ({"classes_per_split": {"TRAIN": 6}, "class_names": NAMES | {"0": "A318"}}, "the same name"),
        ({"class_names": {"0": "a", "9": "b"}, "classes_per_split": {"TRAIN": 2}}, "names no class 1"),
        ({"images_per_class": {"0": 1}}, "does not say how many images class 1 has"),
    ],
)
def test_a_specification_that_cannot_be_is_refused(aircraft: Path, changes: dict[str, Any], message: str) -> None:
    write_spec(aircraft, _spec(**changes))
    with pytest.raises(BadDataError, match=message) as raised:
        _ = load_source(f"meta-dataset:{aircraft}").train
    assert "\n" not in str(raised.value)


def test_a_wrong_name_says_what_there_is(aircraft: Path) -> None:
    with pytest.raises(
        BadDataError, match=r"could not read .*; expected a converted data set \(give one .*aircraft\?\)"
    ):
        load_source(f"meta-dataset:{aircraft.parent}")
    with pytest.raises(BadDataError, match="there is no folder"):
        load_source("meta-dataset:nowhere")
    with pytest.raises(BadDataError, match="has no split 'tset'; did you mean 'test'"):
        load_source(f"meta-dataset:{aircraft}:split=tset")
    with pytest.raises(BadDataError, match="has no option 'part'"):
        load_source(f"meta-dataset:{aircraft}:part=test")
    (aircraft / "dataset_spec.json").write_text("[" * 9)
    with pytest.raises(BadDataError, match="is damaged"):
        load_source(f"meta-dataset:{aircraft}")
