"""Doors of images: pictures, folders of pictures, tables."""

import io
import json
import os
import struct
import zlib
from collections import Counter
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from hypothesis import strategies as st
from PIL import Image, ImageOps

from loradar.data import load_source
from loradar.data.decoding import decode
from tests.data.pictures import pixels, png
from tests.fuzz.changes import TEXTS, odd, places
from tests.fuzz.doors import Door, require

KINDS = ("PNG", "JPEG", "GIF", "BMP", "TIFF", "WEBP", "PPM", "TGA", "ICO")
MODES = ("1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "I;16", "F", "PA", "YCbCr")
_BIG = (0, 1, 7, 255, 9000, 13_000, 2**16 - 1, 2**24, 2**31 - 1, 2**32 - 1)


@cache
def _picture(kind: str, mode: str, turn: int) -> bytes:
    """A small picture of a kind; RGB where the kind has not the mode."""
    picture = Image.fromarray(pixels(3, height=6, width=9))
    file = io.BytesIO()
    exif = Image.Exif()
    exif[0x0112] = turn
    try:
        picture.convert(mode).save(file, format=kind, exif=exif)
    except (OSError, ValueError, KeyError):
        file = io.BytesIO()
        picture.save(file, format=kind, exif=exif)
    return file.getvalue()


def _sized(kind: str, width: int, height: int) -> bytes:
    """A small file whose header promises `width` x `height`."""
    if kind == "PNG":
        header = struct.pack(">IIBBBBB", width % 2**32, height % 2**32, 8, 2, 0, 0, 0)
        parts = [(b"IHDR", header), (b"IDAT", zlib.compress(bytes(100))), (b"IEND", b"")]
        return b"\x89PNG\r\n\x1a\n" + b"".join(
            struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
            for name, data in parts
        )
    if kind == "GIF":
        size = struct.pack("<HH", width % 2**16, height % 2**16)
        return b"GIF89a" + size + b"\x80\0\0\0\0\0\xff\xff\xff,\0\0\0\0" + size + b"\0\x02\x02D\x01\0;"
    if kind == "PPM":
        return f"P6 {width} {height} 255\n".encode() + bytes(300)
    return (
        b"BM"
        + struct.pack("<IHHI", 154, 0, 0, 54)
        + struct.pack("<IiiHHIIiiII", 40, width % 2**31, height % 2**31, 1, 24, 0, 0, 0, 0, 0, 0)
        + bytes(100)
    )


def picture_bytes(given: tuple[Any, ...]) -> bytes:
    """The bytes that an input of the door of pictures stands for."""
    how, *rest = given
    if how == "sized":
        return _sized(*rest)
    if how == "bytes":
        return bytes(rest[0])
    kind, mode, turn, changes = rest
    data = _picture(kind, mode, turn)
    for place, length, more in changes:
        at = int(place * len(data))
        data = data[:at] + more + data[at + length :]
    return data


def picture(given: tuple[Any, ...], _: Path) -> None:
    data = picture_bytes(given)
    found = decode(data, "one")
    with Image.open(io.BytesIO(data)) as opened:
        opened.load()
        try:
            turned = ImageOps.exif_transpose(opened)
        except Exception:  # of a damaged EXIF block it knows less than we do
            return
        expected = np.asarray(
            turned.convert("RGBA").convert("RGB") if turned.mode in ("P", "PA", "RGBa") else turned.convert("RGB")
        )
    require(found.dtype == torch.uint8 and tuple(found.shape[1:]) == expected.shape[:2], f"{tuple(found.shape)}")
    require(np.array_equal(found.permute(1, 2, 0).numpy(), expected), "other pixels than Pillow's")


def folder(given: Sequence[tuple[str, str, str]], place: Path) -> None:
    root = place / "pictures"
    made: set[Path] = set()
    for index, (label, file, how) in enumerate([("cat", "0.png", "png"), ("dog", "1.png", "png"), *given]):
        if label in ("", ".", "..") or file in ("", ".", "..") or "/" in label.replace("cat/deep", "") + file:
            continue
        path = root / label / file
        if os.path.lexists(path):  # a pipe would wait for a reader, and a link be followed
            continue
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            if how == "pipe":
                os.mkfifo(path)
            elif how == "loop":
                path.symlink_to(path.parent, target_is_directory=True)
            elif how == "broken":
                path.symlink_to("nowhere")
            elif how == "folder":
                path.mkdir()
            else:
                path.write_bytes(png(index) if how == "png" else b"")
                if how == "png" or path.suffix in (".png", ".jpg"):  # any other empty file is no picture
                    made.add(path)
        except (OSError, ValueError):
            continue
    source = load_source(str(root), size=(8, 8))
    images, labels = source.train.fetch(torch.arange(len(source.train)))
    require(len(images) == len(labels), "images and labels differ in number")
    said = Counter(source.classes[one] for one in labels.tolist())
    # notes and editors' copies are no pictures, whatever they hold
    pictures = [path for path in made if path.suffix != ".txt" and not path.name.endswith("~")]
    parts = [path.resolve().relative_to(root.resolve()).parts for path in pictures]
    seen = [part for part in parts if not any(each.startswith(".") or each == "@eaDir" for each in part)]
    on_disk = Counter(part[0] for part in seen)
    require(said == on_disk or "train" in on_disk or "test" in on_disk, f"{said}, on disk {on_disk}")


def table(given: tuple[list[Any], str, Any, list[tuple[float, int]], dict[str, str]], place: Path) -> None:
    values, kind, features, flips, options = given
    path = place / "one.parquet"
    place.mkdir(parents=True, exist_ok=True)
    pictures = [{"bytes": png(i), "path": None} for i in range(len(values))]
    try:
        label = pa.array(values, None if kind == "any" else getattr(pa, kind)())
    except (pa.ArrowException, OverflowError, TypeError, ValueError):
        return
    content = pa.table({"image": pa.array(pictures), "label": label})
    if features is not None:
        text = features if isinstance(features, str) else json.dumps(features)
        content = content.replace_schema_metadata({"huggingface": text.encode("utf-8", "surrogatepass")})
    try:
        pq.write_table(content, path)
    except (pa.ArrowException, OSError):
        return
    data = bytearray(path.read_bytes())
    for where, mask in flips:
        data[int(where * len(data))] ^= mask
    path.write_bytes(data)
    spec = ":".join(filter(None, [str(path), ",".join(f"{k}={v}" for k, v in options.items())]))
    source = load_source(spec, size=(8, 8))
    images, labels = source.train.fetch(torch.arange(len(source.train)))
    require(len(images) == len(labels) and int(labels.max()) < len(source.classes), "labels that are no classes")
    require(len(set(source.classes)) == len(source.classes), f"classes twice: {source.classes[:9]}")
    require(all(isinstance(one, str) for one in source.classes), f"classes that are no names: {source.classes[:9]}")
    if not flips and features is None and not options:
        said = [source.classes[label] for label in labels.tolist()]
        require(said == [str(value) for value in label.to_pylist()], f"{values} are read as {said}")


_LABELS = (None, 20230101, 2**40, "a", "10", "", 0.5, True, [1])
_roles = st.sampled_from(["image", "label", "group"])
_words = st.sampled_from(TEXTS) | st.text(max_size=8)
_features = st.one_of(
    st.none(),
    odd,
    _words,
    st.builds(lambda v: {"info": {"features": {"label": {"_type": "ClassLabel", "names": v}}}}, odd | st.lists(_words)),
    st.builds(lambda v: {"info": {"features": v}}, odd),
    st.builds(lambda v: {"info": {"features": {"label": v, "image": v}}}, odd),
    st.builds(lambda v: {"info": v}, odd),
)
_flips = st.lists(st.tuples(places, st.integers(1, 255)), min_size=1, max_size=3)
DOORS: dict[str, Door] = {
    "picture": Door(
        st.one_of(
            st.tuples(
                st.just("changed"),
                st.sampled_from(KINDS),
                st.sampled_from(MODES),
                st.integers(0, 9),
                st.lists(st.tuples(places, st.sampled_from([0, 1, 1, 4, 50]), st.binary(max_size=4)), max_size=3),
            ),
            st.tuples(
                st.just("sized"),
                st.sampled_from(["PNG", "GIF", "PPM", "BMP"]),
                st.sampled_from(_BIG),
                st.sampled_from(_BIG),
            ),
            st.tuples(st.just("bytes"), st.binary(max_size=60)),
        ),
        picture,
        5,
    ),
    "picture folder": Door(
        st.lists(
            st.tuples(
                st.sampled_from(["cat", "dog", "train", "test", ".hidden", "@eaDir", "cat/deep", "."]) | _words,
                st.sampled_from(["a.png", "b.txt", "c", "d.PNG", ".png"]) | _words,
                st.sampled_from(["png", "png", "empty", "pipe", "loop", "broken", "folder"]),
            ),
            max_size=4,
        ),
        folder,
    ),
    "label table": Door(
        st.tuples(
            st.lists(
                st.integers(-1, 9) | st.sampled_from([None, 20230101, 2**40, "a", "10", "", 0.5, True, [1]]),
                min_size=1,
                max_size=5,
            )
            | st.lists(st.integers(0, 2000), min_size=1, max_size=5)
            | st.lists(_words, min_size=1, max_size=4),
            st.sampled_from(["any", "int8", "uint64", "string", "float32", "large_string", "bool_", "date32", "null"]),
            _features,
            st.just([]) | _flips,
            st.just({})
            | st.dictionaries(st.sampled_from(["image", "label", "group"]), st.sampled_from(["label", "image", "x"])),
        ),
        table,
        3,
    ),
}
