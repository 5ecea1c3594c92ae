"""Labels to the names of classes and their indices."""

import re
from collections.abc import Iterable, Mapping
from decimal import Decimal
from typing import Any

import pyarrow as pa
import torch

from loradar.core.errors import BadDataError, did_you_mean
from loradar.core.types import Labels

_FEW = 1000
_NUMBER = re.compile(r"[+-]?[0-9]+")
LABEL_NAMES = ("label", "labels", "fine_label", "class", "target")
IMAGE_NAMES = ("image", "img", "images")
"""What columns and keys of labels and images are usually called, the likeliest first."""


def sorted_names(names: Iterable[str]) -> tuple[str, ...]:
    """Sort names of classes: by number where all are whole numbers, negative ones too, else as words.

    >>> sorted_names(["2", "10", "0"]), sorted_names(["0", "-1", "-10"]), sorted_names(["b", "10", "9"])
    (('0', '2', '10'), ('-10', '-1', '0'), ('10', '9', 'b'))
    """
    words = sorted(names)
    if all(_NUMBER.fullmatch(word) for word in words):
        words.sort(key=Decimal)
    return tuple(words)


def are_ids(numbers: Iterable[int]) -> bool:
    """Whether different label numbers are ids (dates, postcodes) rather than the indices of classes.

    >>> are_ids([20230101, 20230102]), are_ids([0, 999]), are_ids(range(21_841))
    (True, False, False)
    """
    values = set(numbers)
    count = max(values, default=-1) + 1
    return count > _FEW and count > 10 * len(values)


Index = Mapping[Any, int]
"""Labels as they are stored to the indices of their classes."""


def column_classes(
    columns: Mapping[str, pa.ChunkedArray], names: tuple[str, ...] | None
) -> tuple[tuple[str, ...], Index | None]:
    """Find the classes of one data set.

    `names` are those that its schema gives. Otherwise the classes are the words found, sorted; the numbers up to the
    largest; or, for ids, the numbers found.

    Args:
        columns: The label column of each split, by the split's name.
        names: The names of the classes, where they are known.

    Returns:
        The names of the classes, and the index of each label; None where labels are indices already.

    Raises:
        BadDataError: For labels of other types than integers and words, negative ones, mixed ones and missing ones.
    """
    words = {_has_words(column, where) for where, column in columns.items()}
    if names:
        return names, {name: i for i, name in enumerate(names)} if True in words else None
    values = {value for column in columns.values() for value in column.unique().to_pylist()} - {None}
    where = next(iter(columns))
    if len(words) > 1:
        raise BadDataError(f"{where}: labels are integers in one split and words in another; expected one kind")
    if True in words:
        found = sorted_names(values)
        return found, {name: i for i, name in enumerate(found)}
    if values and min(values) < 0:
        raise BadDataError(
            f"{where}: labels span [{min(values)}, {max(values)}]; expected none below 0 (leave rows without a label out)"
        )
    if are_ids(values):
        ids = sorted(values)
        return tuple(map(str, ids)), {value: i for i, value in enumerate(ids)}
    return tuple(map(str, range(max(values, default=-1) + 1))), None


def _has_words(column: pa.ChunkedArray, where: str) -> bool:
    kind = column.type.value_type if pa.types.is_dictionary(column.type) else column.type
    # pyarrow has an own kind of short words since its version 16
    if pa.types.is_string(kind) or pa.types.is_large_string(kind) or getattr(pa.types, "is_string_view", _never)(kind):
        return True
    if not (pa.types.is_integer(kind) or pa.types.is_null(kind)):
        nested = pa.types.is_nested(kind)
        mend = (
            "for a one-hot row give the index of its 1"
            if nested
            else "convert them, or say another column (label=NAME)"
        )
        raise BadDataError(f"{where}: labels are {kind}; expected one integer or word in each row ({mend})")
    return False


def _never(_kind: pa.DataType) -> bool:
    return False


def column_labels(column: pa.ChunkedArray, index: Index | None, where: str) -> Labels:
    """Read the labels of a split. Raises BadDataError that names the first row without one."""
    values = column.to_pylist()
    for missing in (None, ""):
        if missing in values:
            raise BadDataError(f"{where}: row {values.index(missing)} has no label; fill it in, or leave the row out")
    if index is not None:
        unknown = next((value for value in values if value not in index), None)
        if unknown is not None:
            raise BadDataError(f"{where}: label {unknown!r} is no class; {did_you_mean(str(unknown), map(str, index))}")
        values = [index[value] for value in values]
    return torch.tensor(values, dtype=torch.int64)
