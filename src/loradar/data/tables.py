"""Splits in tables: parquet files, and data sets of the Hugging Face hub. Both are Arrow tables of coded pictures."""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import torch
from pydantic import TypeAdapter, ValidationError

from loradar.core.errors import BadDataError, did_you_mean
from loradar.core.files import parse_object, read_regular
from loradar.core.types import Labels
from loradar.data.gathering import gather
from loradar.data.images import ImageSet
from loradar.data.labels import IMAGE_NAMES, LABEL_NAMES, column_classes, column_labels
from loradar.data.source import TEST, TRAIN, Source

Size = tuple[int, int] | None
Columns = Mapping[str, str]
"""`image`, `label` and `group` to the names of the columns, where the user says them."""


@dataclass(frozen=True)
class _Info:
    features: dict[str, Any] | None = None


@dataclass(frozen=True)
class _Schema:
    """What Hugging Face `datasets` writes into a table's schema, as far as it is read."""

    info: _Info | None = None


_SCHEMA = TypeAdapter(_Schema)


@dataclass(frozen=True, kw_only=True)
class _Column:
    """Coded pictures of a table, as bytes or as the path of a file."""

    source: str
    values: pa.ChunkedArray

    def __len__(self) -> int:
        return len(self.values)

    def read(self, index: int) -> bytes:
        value = self.values[index].as_py()
        data = value.get("bytes") if isinstance(value, dict) else value
        if data is None and isinstance(value, dict) and value.get("path"):
            try:
                data = read_regular(Path(value["path"]))
            except OSError as error:
                raise BadDataError(f"{self.name(index)}: could not read {value['path']}: {error.strerror}") from error
        if not isinstance(data, bytes):
            raise BadDataError(
                f"{self.name(index)} is {type(value).__name__}; expected a picture's bytes, or a struct with 'bytes' or 'path'"
            )
        return data

    def name(self, index: int) -> str:
        return f"{self.source}, row {index}"

    def length(self, index: int) -> int:
        return len(self.read(index))


def parquet_source(path: Path, *, columns: Columns, size: Size) -> Source:
    """A parquet file, or a folder of them named `train-*`, `test-*` and so on; any other names make one split.

    Raises BadDataError.
    """
    tables = {name: partial(_read, files) for name, files in _files_by_split(path).items()}
    return _source(path.stem, tables, columns=columns, size=size)


def hub_source(name: str, *, config: str | None, columns: Columns, size: Size) -> Source:
    """A data set of the Hugging Face hub, `owner/name`. Raises BadDataError, also where there is no network."""
    if re.fullmatch(r"[\w.-]+/[\w.-]+", name) is None:
        raise BadDataError(f"hub:{name}: expected hub:owner/name")
    import datasets

    try:
        found = datasets.load_dataset(name, config)
    except Exception as error:  # the client raises many kinds: no such name, no network, a script, an option
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise BadDataError(f"could not fetch {name} from the hub: {reason} (is there a network?)") from error
    tables = {str(split): partial(_arrow, data) for split, data in found.items()}
    return _source(name, tables, columns=columns, size=size)


def _arrow(data: Any) -> pa.Table:
    # the schema says which column is the picture, and the names of the classes
    return data.data.table.replace_schema_metadata(data.features.arrow_schema.metadata)


def _files_by_split(path: Path) -> dict[str, list[Path]]:
    if path.is_file():
        return {path.stem: [path]}
    splits: dict[str, list[Path]] = {}
    for file in parquet_files(path):
        word = re.split(r"[-_.]", file.stem)[0].lower()
        splits.setdefault(word if word in TRAIN + TEST else "all", []).append(file)
    if "all" in splits and len(splits) > 1:
        raise BadDataError(f"{path} has {splits['all'][0].name}; expected train-*.parquet and test-*.parquet")
    return splits


def parquet_files(folder: Path) -> list[Path]:
    """List the parquet files of a folder, sorted, without what macOS leaves beside them."""
    return sorted(file for file in folder.glob("*.parquet") if not file.name.startswith("."))


def _read(files: list[Path]) -> pa.Table:
    tables = []
    for file in files:
        try:
            tables.append(pq.ParquetFile(file).read())
        except (OSError, pa.ArrowException, UnicodeDecodeError) as error:  # the last: a damaged name of a column
            reason = str(error).splitlines()[0]
            raise BadDataError(f"{file} is no whole parquet file ({reason}); fetch it again") from error
    try:
        return pa.concat_tables(tables)
    except pa.ArrowException as error:
        raise BadDataError(f"{files[0].name} and the files beside it have different columns") from error


def _source(name: str, tables: Mapping[str, Callable[[], pa.Table]], *, columns: Columns, size: Size) -> Source:
    read = {split: table() for split, table in tables.items()}
    if not read:
        raise BadDataError(f"{name} holds no splits")
    names = {split: _columns(table, columns, f"{name}/{split}") for split, table in read.items()}
    labelled = {f"{name}/{split}": table[names[split][1]] for split, table in read.items()}
    said = (_names(table, names[split][1], f"{name}/{split}") for split, table in read.items())
    classes, index = column_classes(labelled, next(filter(None, said), None))

    def split_set(split: str) -> ImageSet:
        image, _ = names[split]
        where = f"{name}/{split}"
        labels = column_labels(labelled[where], index, where)
        groups = _groups(read[split], columns["group"], where) if "group" in columns else None
        coded = _Column(source=where, values=read[split][image])
        return gather(coded, labels, classes=classes, name=where, size=size, groups=groups)

    return Source(name=name, classes=classes, splits={split: partial(split_set, split) for split in read})


def _columns(table: pa.Table, said: Columns, where: str) -> tuple[str, str]:
    """The names of the columns of pictures and labels: said, typed so in the schema, or called so."""
    features = _features(table, where)
    found = []
    for role, kind, usual in (("image", "Image", IMAGE_NAMES), ("label", "ClassLabel", LABEL_NAMES)):
        typed = [name for name in table.column_names if features.get(name, {}).get("_type") == kind]
        named = [name for name in usual if name in table.column_names]
        name = said.get(role) or next(iter(typed + named), "")
        if name not in table.column_names:
            raise BadDataError(
                f"{where} has no column {name or role!r}; {did_you_mean(name or role, table.column_names)} (say which "
                f"with {role}=NAME)"
            )
        found.append(name)
    return found[0], found[1]


def _features(table: pa.Table, where: str) -> dict[str, Any]:
    """What Hugging Face `datasets` wrote into the schema about each column; empty where it did not."""
    text = (table.schema.metadata or {}).get(b"huggingface")
    try:
        info = _SCHEMA.validate_python(parse_object(text)).info if text else None
    except ValueError as error:
        reason = error.errors()[0]["msg"] if isinstance(error, ValidationError) else error
        raise BadDataError(
            f"{where}: what `datasets` wrote of its columns is damaged ({reason}); fetch it again"
        ) from error
    features = info.features if info else None
    return {name: feature for name, feature in (features or {}).items() if isinstance(feature, dict)}


def _names(table: pa.Table, label: str, where: str) -> tuple[str, ...]:
    """The names of the classes in the schema, empty where there are none."""
    names = _features(table, where).get(label, {}).get("names") or ()
    if not isinstance(names, list | tuple) or not all(isinstance(name, str) for name in names):
        raise BadDataError(f"{where}: the names of its classes are {names!r:.80}; expected a list of text")
    if len(set(names)) < len(names):
        raise BadDataError(f"{where}: two of its classes have the same name; give each one of its own")
    return tuple(names)


def _groups(table: pa.Table, column: str, where: str) -> Labels:
    """A number for each value of the column; rows without one belong together."""
    if column not in table.column_names:
        raise BadDataError(f"{where} has no column {column}; {did_you_mean(column, table.column_names)}")
    if pa.types.is_nested(table[column].type):
        raise BadDataError(f"{where}: column {column} is {table[column].type}; expected one value in each row")
    values = table[column].to_pylist()
    numbers = {value: i for i, value in enumerate(dict.fromkeys(values))}
    return torch.tensor([numbers[value] for value in values], dtype=torch.int64)
