"""Pictures in TFRecord files, read without TensorFlow: records with checksums, each a `tf.train.Example`."""

import os
from array import array
from bisect import bisect_right
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import google_crc32c
import numpy as np
import numpy.typing as npt

from loradar.core.errors import BadDataError
from loradar.core.files import open_regular

_HEADER = 12
"""Bytes before a record's content: its length and the checksum of that. Four of the content's checksum follow it."""
_LARGEST = 1 << 28
_FEATURES = 64
"""Bytes of a record and features in it beyond which it is nobody's picture."""

Spans = npt.NDArray[np.int64]
"""(records, 2): where the content of each record begins in its file, and how long it is."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Records:
    """Pictures of classes, each in a file or several of its own.

    `files` are below `root`; `labels` has the number that every record of a file must carry, `spans` its records and
    `firsts` the index of the first.
    """

    root: Path
    files: list[Path]
    labels: list[int]
    spans: list[Spans]
    firsts: list[int]

    def __len__(self) -> int:
        return sum(map(len, self.spans))

    def read(self, index: int) -> bytes:
        """The picture's bytes. Raises BadDataError that names the file and the record where it is damaged."""
        number, record = self._place(index)
        start, length = self.spans[number][record].tolist()
        try:
            with open_regular(self.files[number]) as file:
                file.seek(start)
                content = file.read(length + 4)
        except OSError as error:
            raise BadDataError(f"could not read {self.name(index)}: {error.strerror}") from error
        if len(content) != length + 4 or _checksum(content[:length]) != content[length:]:
            raise BadDataError(f"{self.name(index)} is damaged (its checksum is another); fetch or convert it again")
        try:
            picture, label = parse_example(content[:length])
        except ValueError as error:
            raise BadDataError(
                f"{self.name(index)} is no example with an image and a label ({error}); convert it again"
            ) from error
        if label != self.labels[number]:
            raise BadDataError(
                f"{self.name(index)} has label {label}; expected {self.labels[number]}, the number of its file"
            )
        return picture

    def name(self, index: int) -> str:
        number, record = self._place(index)
        return f"{self.root.name}/{self.files[number].name}, record {record}"

    def length(self, index: int) -> int:
        number, record = self._place(index)
        return int(self.spans[number][record, 1])

    def _place(self, index: int) -> tuple[int, int]:
        number = bisect_right(self.firsts, index) - 1
        return number, index - self.firsts[number]


def find_records(path: Path) -> Spans:
    """Find the records of a TFRecord file by their lengths, without reading their contents.

    Raises BadDataError, naming the file and the record, where a length is damaged or the file ends within a record.
    """
    found = array("q")
    try:
        with open_regular(path) as file:
            size = os.fstat(file.fileno()).st_size
            at = 0
            while header := file.read(_HEADER):
                at += _HEADER
                length = _length(header, size - at)
                found.extend((at, length))
                at += length + 4
                file.seek(at)
    except OSError as error:
        raise BadDataError(f"could not read {path}: {error.strerror}") from error
    except ValueError as error:
        raise BadDataError(f"{path}: record {len(found) // 2} {error}; fetch or convert it again") from error
    return np.frombuffer(found, dtype=np.int64).reshape(-1, 2)


def _length(header: bytes, left: int) -> int:
    """The length of a record's content, of which `left` bytes may be there. Raises ValueError."""
    if len(header) < _HEADER:
        raise ValueError("is cut off")
    if _checksum(header[:8]) != header[8:]:
        raise ValueError("has a damaged length (or this is no plain TFRecord file)")
    length = int.from_bytes(header[:8], "little")
    if length > left - 4:
        raise ValueError(f"is cut off: {length:,} bytes and a checksum, {left:,} bytes are left")
    if length > _LARGEST:
        raise ValueError(f"is {length:,} bytes; expected a picture, at most {_LARGEST:,}")
    return length


def _checksum(data: bytes) -> bytes:
    """CRC-32C, rotated and shifted as TFRecord files have it, in four bytes."""
    crc: int = google_crc32c.value(data)
    return (((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF).to_bytes(4, "little")


def parse_example(data: bytes) -> tuple[bytes, int]:
    """Parse the features `image`, one text of bytes, and `label`, one integer, out of a serialized `tf.train.Example`.

    Other features are skipped. What is accepted is read as protobuf reads it; where protobuf would take the last of
    several, or merge them, this raises.

    Raises:
        ValueError: For bytes that are no message, and for features that are missing or of another kind.
    """
    features: dict[bytes, memoryview] = {}
    for count, (number, entry) in enumerate(_fields(_message(memoryview(data), 1, "features"))):
        if count >= _FEATURES:
            raise ValueError(f"it has more than {_FEATURES} features")
        if number != 1 or not isinstance(entry, memoryview):
            raise ValueError("it holds something else than features")
        key, value = _entry(entry)
        if key in features:
            raise ValueError("a feature stands in it twice")
        features[key] = value
    for key in (b"image", b"label"):
        if key not in features:
            raise ValueError(f"it has no feature {key.decode()!r}")
    image = _message(_message(features[b"image"], 1, "image, bytes"), 1, "image, one picture")
    number, label = _single(_message(features[b"label"], 3, "label, integers"), "label, one integer")
    if isinstance(label, memoryview):  # packed, as writers do it today
        label, end = _varint(packed := label, 0)
        if end < len(packed):
            raise ValueError("expected label, one integer")
    if number != 1:
        raise ValueError("expected label, one integer")
    return bytes(image), label if label < 1 << 63 else label - (1 << 64)


def _entry(entry: memoryview) -> tuple[bytes, memoryview]:
    """The key and the value of an entry of a map."""
    fields = list(islice(_fields(entry), 3))
    found = {number: value for number, value in fields if isinstance(value, memoryview)}
    if len(fields) != 2 or set(found) != {1, 2}:
        raise ValueError("a feature is no name with a value")
    key = bytes(found[1])
    key.decode()  # raises UnicodeDecodeError, a ValueError
    return key, found[2]


def _message(data: memoryview, number: int, what: str) -> memoryview:
    """The content of the one field there is, which must have this number and be delimited by a length."""
    found, value = _single(data, what)
    if found != number or not isinstance(value, memoryview):
        raise ValueError(f"expected {what}")
    return value


def _single(data: memoryview, what: str) -> tuple[int, int | memoryview]:
    fields = list(islice(_fields(data), 2))  # two are enough to know, however many there are
    if len(fields) != 1:
        raise ValueError(f"expected {what}")
    return fields[0]


def _fields(data: memoryview) -> Iterator[tuple[int, int | memoryview]]:
    """The fields of a message by their numbers; integers, and contents that are delimited by a length."""
    at = 0
    while at < len(data):
        tag, at = _varint(data, at)
        number, kind = tag >> 3, tag & 7
        if not 1 <= number < 1 << 29:
            raise ValueError(f"a field has the number {number}")
        if kind == 0:
            value, at = _varint(data, at)
            yield number, value
        elif kind == 2:
            length, at = _varint(data, at)
            if length > len(data) - at:
                raise ValueError("a field is longer than what holds it")
            yield number, data[at : at + length]
            at += length
        else:
            raise ValueError(f"a field is of the wire type {kind}; expected 0 or 2")


def _varint(data: memoryview, at: int) -> tuple[int, int]:
    """An unsigned integer in groups of seven bits from `at`, and where it ends."""
    value = 0
    for place, byte in enumerate(data[at : at + 10]):
        value |= (byte & 0x7F) << (7 * place)
        if byte < 0x80:
            if value >= 1 << 64:
                raise ValueError("an integer has more than 64 bits")
            return value, at + place + 1
    raise ValueError("an integer does not end")
