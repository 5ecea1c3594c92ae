"""A data set of Meta-Dataset, as its converter writes it: `dataset_spec.json` and TFRecord files of classes."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import Literal

import torch
from pydantic import NonNegativeInt, TypeAdapter, ValidationError

from loradar.core.errors import BadDataError, did_you_mean
from loradar.core.files import parse_object, read_regular
from loradar.data.gathering import gather
from loradar.data.images import ImageSet
from loradar.data.records import Records, find_records
from loradar.data.source import Source

SPEC = "dataset_spec.json"
_SPLITS = ("train", "valid", "test")
_ALL = "all"

Count = NonNegativeInt


@dataclass(frozen=True)
class _Synset:
    wn_id: str
    children_ids: list[str]


@dataclass(frozen=True)
class _Spec:
    """What the converter writes of a data set, as far as it is read: plain, of two levels (Omniglot) or a graph (ImageNet).

    Classes are numbered split by split. Images are counted by class, and there by pool where a class has several files;
    in a graph by split and WordNet id.
    """

    class_names: dict[Count, str]
    file_pattern: Literal["{}.tfrecords", "{}_{}.tfrecords"]
    images_per_class: dict[str, Count | dict[str, Count]]
    classes_per_split: dict[str, Count] | None = None
    superclasses_per_split: dict[str, Count] | None = None
    classes_per_superclass: dict[Count, Count] | None = None
    split_subgraphs: dict[str, list[_Synset]] | None = None


_SCHEMA = TypeAdapter(_Spec)


def meta_dataset_source(folder: Path, *, split: str = _ALL, size: tuple[int, int] | None) -> Source:
    """Open the classes of one split of a converted data set; its images are read when they are asked for.

    Args:
        folder: That of one data set (`records/aircraft`).
        split: `train`, `valid` or `test`, which have different classes, or `all` of them.
        size: As in `load_source`.

    Returns:
        A source of one set of images, by class, in the order of the files.

    Raises:
        BadDataError: For a split without classes, a missing file, another number of images than the specification
            says, and for damaged files, with the number of the record.
    """
    spec = _read(folder)
    ids = _class_ids(spec, folder / SPEC)
    ids[_ALL] = [number for name in _SPLITS for number in ids[name]]
    if split not in ids:
        raise BadDataError(f"{folder} has no split {split!r}; {did_you_mean(split, ids)}")
    if not ids[split]:
        there = ", ".join(f"{name} {len(ids[name])}" for name in _SPLITS)
        raise BadDataError(f"{folder} has no classes in the split {split!r}; expected another (classes: {there})")
    for number in ids[split]:
        if number not in spec.class_names:
            raise BadDataError(f"{folder / SPEC} names no class {number}, which a split has; convert it again")
    classes = tuple(spec.class_names[number] for number in ids[split])
    if len(set(classes)) < len(classes):
        raise BadDataError(f"{folder / SPEC}: two of its classes have the same name; give each one of its own")
    files = {number: _files(folder, spec, number) for number in ids[split]}
    name = f"{folder.name or folder.resolve().name}/{split}"

    def read() -> ImageSet:
        coded = _records(folder, files, _expected(spec, ids[split], folder / SPEC))
        place = {number: i for i, number in enumerate(ids[split])}
        counts = torch.tensor([len(spans) for spans in coded.spans])
        labels = torch.tensor([place[number] for number in coded.labels]).repeat_interleave(counts)
        return gather(coded, labels, classes=classes, name=name, size=size)

    return Source(name=name, classes=classes, splits={split: read})


def _read(folder: Path) -> _Spec:
    path = folder / SPEC
    try:
        return _SCHEMA.validate_python(parse_object(read_regular(path)))
    except OSError as error:
        below = sorted(child.parent.name for child in folder.glob(f"*/{SPEC}"))
        hint = f" (give one of those below it, such as {folder / below[0]}?)" if below else ""
        raise BadDataError(f"could not read {path}: {error.strerror}; expected a converted data set{hint}") from error
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        raise BadDataError(f"{path}: {where:.80}: {first['msg']}; convert the data set again") from error
    except ValueError as error:
        raise BadDataError(f"{path} is damaged ({error!s:.80}); fetch or convert it again") from error


def _class_ids(spec: _Spec, path: Path) -> dict[str, list[int]]:
    """The numbers of the classes of each split."""
    if spec.split_subgraphs is not None:
        numbers = {name: number for number, name in spec.class_names.items()}
        return {split: _leaves(spec.split_subgraphs.get(split.upper(), []), numbers, path) for split in _SPLITS}
    if spec.superclasses_per_split is not None and spec.classes_per_superclass is not None:
        sizes = spec.classes_per_superclass
        parts = _ranges(spec.superclasses_per_split, len(sizes), path)
        try:
            counts = {split.upper(): sum(sizes[number] for number in parts[split]) for split in _SPLITS}
        except KeyError as error:
            raise BadDataError(f"{path} gives no size of superclass {error}; convert the data set again") from error
        return _ranges(counts, len(spec.class_names), path)
    if spec.classes_per_split is None:
        raise BadDataError(f"{path} says of no split what classes it has; convert the data set again")
    return _ranges(spec.classes_per_split, len(spec.class_names), path)


def _ranges(counts: Mapping[str, int], there: int, path: Path) -> dict[str, list[int]]:
    """Numbers in a row, split by split."""
    ends = list(accumulate((counts.get(split.upper(), 0) for split in _SPLITS), initial=0))
    if ends[-1] > there:
        raise BadDataError(f"{path}: its splits have {ends[-1]:,} classes, {there:,} are there; convert it again")
    return {split: list(range(*ends[i : i + 2])) for i, split in enumerate(_SPLITS)}


def _leaves(graph: Sequence[_Synset], numbers: Mapping[str, int], path: Path) -> list[int]:
    leaves = [node.wn_id for node in graph if not node.children_ids]
    unknown = next((name for name in leaves if name not in numbers), None)
    if unknown is not None:
        raise BadDataError(f"{path}: {unknown!r:.80} is a leaf and no class; convert the data set again")
    return sorted(numbers[name] for name in leaves)


def _files(folder: Path, spec: _Spec, number: int) -> list[Path]:
    """The files of one class: one, or those of its pools or parts."""
    alone = folder / f"{number}.tfrecords"
    several = spec.file_pattern != "{}.tfrecords"
    files = sorted(folder.glob(f"{number}_*.tfrecords")) if several else [alone]
    if not files or not all(file.exists() for file in files):
        raise BadDataError(f"there is no {alone.with_stem(f'{number}_*') if several else alone}; convert it again")
    return files


def _expected(spec: _Spec, ids: Sequence[int], path: Path) -> dict[int, int]:
    """The numbers of images of classes."""
    counts = spec.images_per_class
    if spec.split_subgraphs is not None:
        # a graph counts what is below each node; one that is a leaf stands in one split alone
        parts = [part for part in counts.values() if isinstance(part, dict)]
        counts = {str(i): part[name] for i in ids for part in parts if (name := spec.class_names[i]) in part}
    missing = next((number for number in ids if str(number) not in counts), None)
    if missing is not None:
        raise BadDataError(f"{path} does not say how many images class {missing} has; convert the data set again")
    said = {number: counts[str(number)] for number in ids}
    return {number: sum(count.values()) if isinstance(count, dict) else count for number, count in said.items()}


def _records(folder: Path, files: Mapping[int, Sequence[Path]], expected: Mapping[int, int]) -> Records:
    spans = {file: find_records(file) for several in files.values() for file in several}
    for number, several in files.items():
        count = sum(len(spans[file]) for file in several)
        if count != expected[number] or count == 0:
            raise BadDataError(
                f"{several[0]}: class {number} has {count:,} images and {SPEC} says {expected[number]:,}; expected as many, "
                "and one at least: fetch or convert it again"
            )
    lengths = [len(found) for found in spans.values()]
    return Records(
        root=folder,
        files=list(spans),
        labels=[number for number, several in files.items() for _ in several],
        spans=list(spans.values()),
        firsts=list(accumulate(lengths, initial=0))[:-1],
    )
