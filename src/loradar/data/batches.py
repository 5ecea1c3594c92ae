"""CIFAR-10 in its original layout, `cifar-10-batches-py`: pickles, read without running anything from them."""

import io
import pickle
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from loradar.core.errors import BadDataError
from loradar.core.files import read_regular
from loradar.data.decoding import scaled
from loradar.data.gathering import decoded
from loradar.data.images import ImageSet
from loradar.data.source import Source

FOLDER, META = "cifar-10-batches-py", "batches.meta"
_SPLITS = {"train": [f"data_batch_{i}" for i in range(1, 6)], "test": ["test_batch"]}
_SIDE = 32


def batches_source(folder: Path, *, size: tuple[int, int] | None) -> Source:
    """The folder with `batches.meta`, or the one above it. Raises BadDataError for a file that is not as expected."""
    folder = folder / FOLDER if (folder / FOLDER).is_dir() else folder
    names = _open(folder / META).get("label_names")
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise BadDataError(f"{folder / META} holds no list of label_names")

    def split_set(split: str) -> ImageSet:
        return _split(folder, split, tuple(names), size)

    return Source(name="cifar10", classes=tuple(names), splits={s: partial(split_set, s) for s in _SPLITS})


def has_batches(folder: Path) -> bool:
    return (folder / META).is_file() or (folder / FOLDER / META).is_file()


def _split(folder: Path, split: str, classes: tuple[str, ...], size: tuple[int, int] | None) -> ImageSet:
    pixels: list[torch.Tensor] = []
    labels: list[int] = []
    for file in _SPLITS[split]:
        batch = _open(folder / file)
        data, found = batch.get("data"), batch.get("labels")
        if not isinstance(found, list) or not all(isinstance(n, int) and 0 <= n < len(classes) for n in found):
            raise BadDataError(f"{folder / file}: expected a list of labels from 0 to {len(classes) - 1}")
        count, row = len(found), 3 * _SIDE * _SIDE
        if not isinstance(data, np.ndarray) or data.dtype != np.uint8 or data.shape != (count, row):
            raise BadDataError(f"{folder / file}: expected 'data' of bytes, ({count}, {row}), one row for each label")
        pixels.append(torch.from_numpy(data.reshape(count, 3, _SIDE, _SIDE).copy()))
        labels.extend(found)
    return decoded(scaled(torch.cat(pixels), size), torch.tensor(labels), classes=classes, name=f"cifar10/{split}")


def _open(path: Path) -> dict[str, Any]:
    try:
        # latin1: what Python 2 wrote as text is bytes to Python 3, and latin1 keeps every one of them
        batch = _ArraysOnly(io.BytesIO(read_regular(path)), encoding="latin1").load()
    except OSError as error:
        raise BadDataError(f"could not read {path}: {error.strerror or error}") from error
    except Exception as error:  # a broken pickle can raise almost anything
        raise BadDataError(f"{path} is no whole batch of CIFAR-10 ({error}); fetch it again") from error
    if not isinstance(batch, dict):
        raise BadDataError(f"{path} holds a {type(batch).__name__}; expected a dict")
    return batch


def _bytes_type(code: str, align: int = 0, copy: int = 0) -> np.dtype[Any]:
    if code != "u1":
        raise pickle.UnpicklingError(f"an array of {code!r}, expected bytes")
    return np.dtype(code, align=bool(align), copy=bool(copy))


class _ArraysOnly(pickle.Unpickler):
    """Builds arrays of bytes, and the containers and numbers that need no import; anything else is refused."""

    def find_class(self, module: str, name: str) -> Any:
        if module in ("numpy.core.multiarray", "numpy._core.multiarray") and name == "_reconstruct":
            # numpy moved it once; wherever it is, this is what rebuilds an array
            return np.empty(0).__reduce__()[0]
        if (module, name) == ("numpy", "ndarray"):
            return np.ndarray
        if (module, name) == ("numpy", "dtype"):
            return _bytes_type
        if (module, name) == ("_codecs", "encode"):
            return _latin1
        raise pickle.UnpicklingError(f"it would import {module}.{name}, which no batch needs")


def _latin1(text: str, _encoding: str) -> bytes:
    return text.encode("latin1")
