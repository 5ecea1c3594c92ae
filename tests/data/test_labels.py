"""Labels to the names of classes and their indices."""

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from loradar.core.errors import BadDataError
from loradar.data import load_source
from loradar.data.labels import column_classes, column_labels, sorted_names
from tests.data.pictures import parquet, png


def _read(*columns: pa.Array, names: tuple[str, ...] | None = None) -> tuple[tuple[str, ...], list[list[int]]]:
    chunked = {f"s/{i}": pa.chunked_array([column]) for i, column in enumerate(columns)}
    classes, index = column_classes(chunked, names)
    return classes, [column_labels(column, index, where).tolist() for where, column in chunked.items()]


@pytest.mark.parametrize(
    ("column", "classes", "labels"),
    [
        (pa.array([0, 2, 1]), ("0", "1", "2"), [0, 2, 1]),
        (pa.array([3, 1], pa.uint8()), ("0", "1", "2", "3"), [3, 1]),
        (pa.array(["0", "10", "2"]), ("0", "2", "10"), [0, 2, 1]),
        (pa.array(["007", "12", "08"]), ("007", "08", "12"), [0, 2, 1]),
        (pa.array(["1", "10", "b"]), ("1", "10", "b"), [0, 1, 2]),
        (pa.array(["-1", "1"]), ("-1", "1"), [0, 1]),
        (pa.array(["0", "-1", "-10", "2"]), ("-10", "-1", "0", "2"), [2, 1, 0, 3]),
        (pa.array(["1.10", "1.9"]), ("1.10", "1.9"), [0, 1]),  # may be versions
        (pa.array(["b", "a"], pa.string_view()), ("a", "b"), [1, 0]),
        (pa.array([20230102, 20230101, 20230102]), ("20230101", "20230102"), [1, 0, 1]),
        (pa.array([2**63 - 1, 5], pa.int64()), ("5", str(2**63 - 1)), [1, 0]),
        (pa.array([2**64 - 1, 5], pa.uint64()), ("5", str(2**64 - 1)), [1, 0]),
        (pa.array(["b", "a", "b"]).dictionary_encode(), ("a", "b"), [1, 0, 1]),
        (pa.array([1, 0]).dictionary_encode(), ("0", "1"), [1, 0]),
        (pa.array(["$^$", "[x]", "\U0001f600"], pa.large_string()), ("$^$", "[x]", "\U0001f600"), [0, 1, 2]),
    ],
)
def test_integers_and_words_name_the_classes(column: pa.Array, classes: tuple[str, ...], labels: list[int]) -> None:
    assert _read(column) == (classes, [labels])


@pytest.mark.parametrize(
    "column",
    [
        *(pa.array([[0], [0, 1]]), pa.array([[1, 0], [0, 1]], pa.list_(pa.int8(), 2)), pa.array([{"id": 0}])),
        *(pa.array([0.0, 1.0]), pa.array([True, False]), pa.array([b"cat"]), pa.array([1, 2], pa.timestamp("s"))),
        *(pa.array([[("a", 1)]], pa.map_(pa.string(), pa.int64())), pa.array([0.5]).dictionary_encode()),
    ],
    ids=lambda column: str(column.type),
)
@pytest.mark.parametrize("names", [None, ("cat", "dog")])
def test_other_types_are_refused_by_their_name(column: pa.Array, names: tuple[str, ...] | None) -> None:
    with pytest.raises(BadDataError, match=r"s/0: labels are .*; expected one integer or word in each row") as raised:
        _read(column, names=names)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ((pa.array([0, None]),), "row 1 has no label"),
        ((pa.array([None, None]),), "row 0 has no label"),
        ((pa.array(["a", "b", ""]),), "row 2 has no label"),
        ((pa.array([1, -1]),), r"labels span \[-1, 1\]; expected none below 0"),
        ((pa.array([0]), pa.array(["a"])), "integers in one split and words in another"),
    ],
)
def test_missing_and_mixed_labels_are_refused(columns: tuple[pa.Array, ...], message: str) -> None:
    with pytest.raises(BadDataError, match=message):
        _read(*columns)


def test_words_that_the_schema_does_not_name_are_refused() -> None:
    assert _read(pa.array(["dog", "cat"]), names=("cat", "dog")) == (("cat", "dog"), [[1, 0]])
    with pytest.raises(BadDataError, match="label 'dig' is no class; did you mean 'dog'"):
        _read(pa.array(["dig"]), names=("cat", "dog"))


def test_splits_share_their_classes() -> None:
    assert _read(pa.array(["b"]), pa.array(["a", "b"])) == (("a", "b"), [[1], [0, 1]])
    assert _read(pa.array([20230101]), pa.array([5])) == (("5", "20230101"), [[1], [0]])


@given(st.lists(st.integers(0, 10**12), min_size=1, max_size=30))
def test_an_integer_column_never_makes_many_more_classes_than_it_holds(values: list[int]) -> None:
    classes, (labels,) = _read(pa.array(values, pa.int64()))
    assert [classes[label] for label in labels] == [str(value) for value in values]
    assert len(classes) <= max(1000, 10 * len(set(values)))


@given(st.sets(st.integers(-(10**20), 10**20)))
def test_whole_numbers_are_sorted_by_number(values: set[int]) -> None:
    assert sorted_names(map(str, values)) == tuple(map(str, sorted(values)))


def test_a_nested_group_column_is_refused(tmp_path: Path) -> None:
    file = parquet(tmp_path / "t.parquet", [png(0), png(1)], [0, 1])
    pq.write_table(pq.read_table(file).append_column("track", pa.array([[1], [2]])), file)
    with pytest.raises(BadDataError, match="column track is list"):
        _ = load_source(f"{file}:group=track").train
    assert load_source(str(file)).train.labels.equal(torch.tensor([0, 1]))
