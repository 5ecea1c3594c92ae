"""CIFAR-10's original layout, in small: read as it was written by Python 2 and 3, and never run."""

import os
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch

from loradar.core.errors import BadDataError
from loradar.data import load_source

NAMES = ["airplane", "automobile", "bird"]


def _rows(seed: int, count: int = 2) -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
    return np.random.default_rng(seed).integers(0, 256, (count, 3072), dtype=np.uint8)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    root = tmp_path / "cifar-10-batches-py"
    root.mkdir()
    for seed, name in enumerate([*(f"data_batch_{i}" for i in range(1, 6)), "test_batch"]):
        batch = {"batch_label": name, "data": _rows(seed), "labels": [seed % 3, 2], "filenames": ["a", "b"]}
        (root / name).write_bytes(pickle.dumps(batch, protocol=2))
    (root / "batches.meta").write_bytes(pickle.dumps({"label_names": NAMES, "num_vis": 3072}, protocol=2))
    return root


def test_batches_are_joined_in_order(folder: Path) -> None:
    for spec in (folder, folder.parent):
        source = load_source(str(spec))
        assert source.classes == tuple(NAMES)
        assert source.train.labels.tolist() == [0, 2, 1, 2, 2, 2, 0, 2, 1, 2]
        assert source.test is not None
        x, y = source.test.fetch(torch.arange(2))
        assert y.tolist() == [2, 2]
        assert torch.equal((x * 255).round().to(torch.uint8), torch.from_numpy(_rows(5)).view(2, 3, 32, 32))
    assert load_source(str(folder), size=(16, 16)).train.size == (16, 16)


def test_what_python_2_wrote_is_read(folder: Path) -> None:
    data = _rows(7, 1).tobytes()
    written = (
        b"\x80\x02}(U\x04datacnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85U\x01b\x87R"
        b"(K\x01K\x01M\x00\x0c\x86cnumpy\ndtype\nU\x02u1K\x00K\x01\x87R(K\x03U\x01|NNNJ\xff\xff\xff\xff"
        b"J\xff\xff\xff\xffK\x00tb\x89T\x00\x0c\x00\x00" + data + b"tbU\x06labels](K\x01eu."
    )
    (folder / "test_batch").write_bytes(written)
    test = load_source(str(folder)).test
    assert test is not None
    x, y = test.fetch(torch.tensor([0]))
    assert y.tolist() == [1]
    assert (x * 255).round().to(torch.uint8).numpy().tobytes() == data


class _Runs:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, tuple[object, ...]]:
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize("name", ["batches.meta", "test_batch"])
def test_a_pickle_that_runs_code_is_refused_and_runs_nothing(folder: Path, name: str) -> None:
    (folder / name).write_bytes(pickle.dumps({"data": _Runs(folder / "ran")}))
    with pytest.raises(BadDataError, match=r"it would import posix\.mkdir"):
        _ = load_source(str(folder)).test
    assert not (folder / "ran").exists()


@pytest.mark.parametrize(
    ("batch", "message"),
    [
        ([1], "holds a list"),
        ({"data": _rows(0)}, "list of labels"),
        ({"data": _rows(0), "labels": [0, 3]}, "labels from 0 to 2"),
        ({"data": _rows(0), "labels": [0]}, r"expected 'data' of bytes, \(1, 3072\)"),
        ({"data": [1, 2], "labels": [0]}, "expected 'data' of bytes"),
        ({"data": np.zeros((1, 3072)), "labels": [0]}, "an array of 'f8', expected bytes"),
    ],
)
def test_a_batch_that_is_not_as_expected_is_refused(folder: Path, batch: object, message: str) -> None:
    (folder / "test_batch").write_bytes(pickle.dumps(batch))
    with pytest.raises(BadDataError, match=message):
        _ = load_source(str(folder)).test


def test_half_a_batch_and_a_missing_one_are_refused(folder: Path) -> None:
    path = folder / "test_batch"
    path.write_bytes(path.read_bytes()[:1000])
    source = load_source(str(folder))
    with pytest.raises(BadDataError, match="no whole batch"):
        _ = source.test
    (folder / "data_batch_3").unlink()
    with pytest.raises(BadDataError, match="could not read"):
        _ = source.train
    (folder / "batches.meta").write_bytes(pickle.dumps({"label_names": "three"}))
    with pytest.raises(BadDataError, match="no list of label_names"):
        load_source(str(folder))
