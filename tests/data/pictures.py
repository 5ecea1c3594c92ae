"""Pictures and files of pictures, made on the spot."""

import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from loradar.data import load_source


def pixels(seed: int, *, height: int = 8, width: int = 8) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """(height, width, 3) noise."""
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def coded(array: np.ndarray[Any, np.dtype[np.uint8]], kind: str = "PNG") -> bytes:
    file = io.BytesIO()
    Image.fromarray(array).save(file, format=kind)
    return file.getvalue()


def needs(kind: str) -> None:
    """Skip a test of a format that this build of Pillow cannot write."""
    Image.init()
    if kind not in Image.SAVE:
        pytest.skip(f"this Pillow writes no {kind}")


def png(seed: int, *, height: int = 8, width: int = 8) -> bytes:
    return coded(pixels(seed, height=height, width=width))


def parquet(
    path: Path, pictures: Sequence[bytes], labels: Sequence[object], *, names: Sequence[str] | None = None
) -> Path:
    """A file as Hugging Face `datasets` writes it, columns `image` and `label`; without `names` there is no schema."""
    structs = [{"bytes": picture, "path": None} for picture in pictures]
    kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    table = pa.table({"image": pa.array(structs, kind), "label": pa.array(list(labels))})
    if names is not None:
        features = {"image": {"_type": "Image"}, "label": {"names": list(names), "_type": "ClassLabel"}}
        table = table.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})})
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(table, path)
    return path


def digits_folder(folder: Path, *, classes: int, each: int) -> Path:
    """Built-in digits as a folder of pictures by class: `digit0/0.png` and so on."""
    images = load_source("digits").train
    for label in range(classes):
        found, _ = images.fetch((images.labels == label).nonzero().squeeze(1)[:each])
        (folder / f"digit{label}").mkdir(parents=True)
        for i, picture in enumerate(found):
            array = (picture * 255).round().byte().permute(1, 2, 0).numpy()
            (folder / f"digit{label}" / f"{i}.png").write_bytes(coded(array))
    return folder
