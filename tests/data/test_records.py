"""TFRecord files and the examples in them, beside protobuf and tensorboard."""

import os
import struct
from pathlib import Path

import pytest
from google.protobuf.message import DecodeError
from hypothesis import given, settings
from hypothesis import strategies as st

from loradar.core.errors import BadDataError
from loradar.data.records import Records, find_records, parse_example
from tests.data.tfrecords import Example, example, write_records

INT64 = st.integers(min_value=-(1 << 63), max_value=(1 << 63) - 1)
OTHERS = st.dictionaries(
    st.text(max_size=4).filter(lambda key: key not in ("image", "label")),
    st.one_of(st.lists(st.binary(max_size=4)), st.lists(st.floats(width=32)), st.lists(INT64)),
    max_size=3,
)


def _records(path: Path) -> Records:
    return Records(root=path.parent, files=[path], labels=[7], spans=[find_records(path)], firsts=[0])


@settings(deadline=None)
@given(image=st.binary(max_size=300), label=INT64, others=OTHERS)
def test_what_protobuf_writes_is_read(image: bytes, label: int, others: dict[str, list[object]]) -> None:
    made = Example()
    made.features.feature["image"].bytes_list.value.append(image)
    made.features.feature["label"].int64_list.value.append(label)
    for key, values in others.items():
        kind = {bytes: "bytes_list", float: "float_list", int: "int64_list"}[type(values[0]) if values else int]
        getattr(made.features.feature[key], kind).value.extend(values)
    assert parse_example(made.SerializeToString()) == (image, label)


def _as_protobuf(data: bytes) -> tuple[bytes, int] | None:
    try:
        feature = Example.FromString(data).features.feature
    except DecodeError:
        return None
    (image,), (label,) = feature["image"].bytes_list.value, feature["label"].int64_list.value
    return image, label


@settings(deadline=None)
@given(
    start=st.binary(max_size=20),
    label=st.integers(0, 300),
    changes=st.lists(st.tuples(st.floats(0, 0.999), st.integers(1, 255)), max_size=4),
    cut=st.integers(0, 3),
)
def test_damaged_bytes_are_refused_or_read_as_protobuf_reads_them(
    start: bytes, label: int, changes: list[tuple[float, int]], cut: int
) -> None:
    data = bytearray(example(start, label))
    for where, mask in changes:
        data[int(where * len(data))] ^= mask
    damaged = bytes(data[: len(data) - cut])
    try:
        accepted = parse_example(damaged)
    except ValueError:
        return
    assert accepted == _as_protobuf(damaged)


@settings(deadline=None)
@given(st.binary(max_size=200))
def test_any_bytes_are_refused_or_read_as_protobuf_reads_them(data: bytes) -> None:
    try:
        accepted = parse_example(data)
    except ValueError:
        return
    assert accepted == _as_protobuf(data)


def test_a_label_that_is_not_packed_is_read() -> None:
    entry = b"\x0a\x05image\x12\x05\x0a\x03\x0a\x01x"
    label = b"\x0a\x05label\x12\x04\x1a\x02\x08\x05"
    features = b"".join(b"\x0a" + bytes([len(part)]) + part for part in (entry, label))
    data = b"\x0a" + bytes([len(features)]) + features
    assert parse_example(data) == _as_protobuf(data) == (b"x", 5)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "expected features"),
        (b"\x0a\x7f", "a field is longer than what holds it"),
        (b"\xff" * 11, "an integer does not end"),
        (b"\xff" * 9 + b"\x7f", "an integer has more than 64 bits"),
        (b"\x0b", "wire type 3"),
        (b"\x02\x00", "the number 0"),
        (b"\x0a\x00", "no feature 'image'"),
        (b"\x0a\xc0\x01" + b"\x08\x00" * 96, "something else than features"),
    ],
)
def test_what_is_no_example_is_said(data: bytes, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        parse_example(data)


def test_features_without_end_are_refused() -> None:
    made = Example()
    for number in range(70):
        made.features.feature[str(number)].int64_list.value.append(1)
    with pytest.raises(ValueError, match="more than 64 features"):
        parse_example(made.SerializeToString())


@pytest.mark.parametrize("kind", ["two", "none", "words", "missing"])
def test_an_image_is_one_and_a_label_is_one_integer(kind: str) -> None:
    made = Example()
    made.features.feature["image"].bytes_list.value.append(b"x")
    label = made.features.feature["label"]
    if kind == "words":
        label.bytes_list.value.append(b"cat")
    elif kind == "missing":
        del made.features.feature["label"]
    else:
        label.int64_list.value.extend([1, 2] if kind == "two" else [])
    with pytest.raises(ValueError, match="label"):
        parse_example(made.SerializeToString())


def test_records_are_found_and_read_by_their_number(tmp_path: Path) -> None:
    pictures = [b"first", b"", b"third" * 5000]
    records = _records(write_records(tmp_path / "7.tfrecords", [example(picture, 7) for picture in pictures]))
    assert [records.read(i) for i in range(len(records))] == pictures
    assert records.name(2).endswith("/7.tfrecords, record 2")
    assert records.length(2) == len(example(pictures[2], 7))
    assert len(find_records(write_records(tmp_path / "none.tfrecords", []))) == 0


def test_every_damaged_byte_is_seen(tmp_path: Path) -> None:
    path = write_records(tmp_path / "7.tfrecords", [example(b"one", 7), example(b"two", 7)])
    whole = path.read_bytes()
    for place in range(len(whole)):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 0x10]) + whole[place + 1 :])
        with pytest.raises(BadDataError, match=rf"record {place // (len(whole) // 2)} "):
            [_records(path).read(i) for i in range(2)]


def test_a_file_that_is_cut_off_is_refused_wherever_it_is_cut(tmp_path: Path) -> None:
    path = write_records(tmp_path / "7.tfrecords", [example(b"one", 7), example(b"two", 7)])
    whole = path.read_bytes()
    for length in set(range(1, len(whole))) - {len(whole) // 2}:
        path.write_bytes(whole[:length])
        with pytest.raises(BadDataError, match=rf"record {length // (len(whole) // 2)} is cut off"):
            find_records(path)


def test_a_length_is_checked_against_the_file_and_against_sense(tmp_path: Path) -> None:
    path = write_records(tmp_path / "7.tfrecords", [b"x" * 10])
    long = write_records(tmp_path / "long.tfrecords", [b"x" * 99])
    path.write_bytes(long.read_bytes()[:12] + path.read_bytes()[12:])
    with pytest.raises(BadDataError, match=r"record 0 is cut off: 99 bytes and a checksum, 14 bytes are left"):
        find_records(path)
    # the checksum of this length, as tensorboard's writer computes it; the file is sparse
    from tensorboard.summary.writer.record_writer import masked_crc32c

    length = struct.pack("<Q", 1 << 40)
    path.write_bytes(length + struct.pack("<I", masked_crc32c(length)))
    os.truncate(path, (1 << 40) + 16)
    with pytest.raises(BadDataError, match="expected a picture, at most"):
        find_records(path)


def test_a_record_of_another_class_and_one_without_an_image_are_named(tmp_path: Path) -> None:
    records = _records(write_records(tmp_path / "7.tfrecords", [example(b"x", 7), example(b"x", 8), b"no message"]))
    with pytest.raises(BadDataError, match=r"7\.tfrecords, record 1 has label 8; expected 7"):
        records.read(1)
    with pytest.raises(BadDataError, match=r"7\.tfrecords, record 2 is no example with an image and a label"):
        records.read(2)
    records.files[0].unlink()
    with pytest.raises(BadDataError, match=r"could not read .*record 0: No such file"):
        records.read(0)


def test_a_pipe_is_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "7.tfrecords")
    with pytest.raises(BadDataError, match="it is no regular file"):
        find_records(tmp_path / "7.tfrecords")
