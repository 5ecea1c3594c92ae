"""Doors of data sets as they are published: TFRecord files, arrays, tables beside pictures."""

import tempfile
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from hypothesis import strategies as st

from loradar.data import load_source
from tests.data.pictures import pixels, png
from tests.data.tfrecords import example, write_records, write_spec
from tests.fuzz.changes import Change, of_folder, spoil
from tests.fuzz.doors import Door, require

_ISIC = "ISIC2018_Task3_Training_"
_TABLE = f"{_ISIC}GroundTruth.csv"


@cache
def valid() -> Path:
    """A folder of each kind."""
    root = Path(tempfile.mkdtemp())
    for number in range(3):
        write_records(
            root / f"meta-dataset/{number}.tfrecords", [example(png(10 * number + k), number) for k in range(2)]
        )
    spec = {"classes_per_split": {"TRAIN": 1, "VALID": 0, "TEST": 2}, "class_names": {"0": "a", "1": "b", "2": "c"}}
    counts = {"0": 2, "1": 2, "2": 2}
    write_spec(root / "meta-dataset", spec | {"images_per_class": counts, "file_pattern": "{}.tfrecords"})
    (root / "cifar-c").mkdir()
    np.save(root / "cifar-c" / "fog.npy", np.stack([pixels(k, height=32, width=32) for k in range(10)]))
    np.save(root / "cifar-c" / "labels.npy", np.arange(10, dtype=np.uint8) % 2)
    (root / "isic" / f"{_ISIC}Input").mkdir(parents=True)
    (root / "isic" / _TABLE).write_text("image,MEL,NV\none,1.0,0.0\ntwo,0.0,1.0\n")
    (root / "chestx" / "images").mkdir(parents=True)
    (root / "chestx" / "Data_Entry_2017.csv").write_text(
        "Image Index,Finding Labels\none.jpg,Mass\ntwo.jpg,Mass|Nodule\n"
    )
    for k, name in enumerate(("one", "two")):
        (root / "isic" / f"{_ISIC}Input" / f"{name}.jpg").write_bytes(png(k))
        (root / "chestx" / "images" / f"{name}.jpg").write_bytes(png(k))
    return root


def published(given: tuple[str, str, Sequence[Change]], place: Path) -> None:
    kind, options, changes = given
    spoiled = spoil(valid() / kind, place / "one", changes)
    source = load_source(f"{kind}:{spoiled.folder}{options}", size=None if kind == "meta-dataset" else (8, 8))
    x, y = source.train.fetch(torch.arange(len(source.train)))
    require(len(x) == len(y) > 0, "images and labels differ in number")
    require(int(y.min()) >= 0 and int(y.max()) < len(source.classes), "a label that is no class")
    require(float(x.min()) >= 0 and float(x.max()) <= 1, "pixels outside [0, 1]")
    require(len(set(source.classes)) == len(source.classes), f"classes twice: {source.classes[:9]}")
    require(all(isinstance(one, str) for one in source.classes), f"classes that are no names: {source.classes[:9]}")
    if kind == "meta-dataset":  # a record has checksums, so what is let in is what was written
        written = [pixels(10 * number + k).tobytes() for number in range(3) for k in range(2)]
        read = (x * 255).round().to(torch.uint8).permute(0, 2, 3, 1).numpy()
        require(all(one.tobytes() in written for one in read), "a picture that nobody wrote")
    if spoiled.is_same:
        labels = {"meta-dataset": [0, 0, 1, 1], "cifar-c": [0, 1], "isic": [0, 1], "chestx": [4]}[kind]
        require(y.tolist() == labels, f"labels {y.tolist()}")


def _of(kind: str, options: str, *names: str) -> st.SearchStrategy[Any]:
    return st.tuples(st.just(kind), st.just(options), st.just([]) | of_folder(*names))


DOORS: dict[str, Door] = {
    "published data": Door(
        st.one_of(
            _of("meta-dataset", ":split=test", "dataset_spec.json", "1.tfrecords", "2.tfrecords"),
            _of("meta-dataset", ":split=test", "dataset_spec.json"),
            _of("cifar-c", ":corruption=fog,severity=4", "fog.npy", "labels.npy"),
            _of("isic", "", _TABLE),
            _of("chestx", "", "Data_Entry_2017.csv", "images/one.jpg"),
        ),
        published,
        4,
    ),
}
