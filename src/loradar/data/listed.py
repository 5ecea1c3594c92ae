"""Pictures whose classes stand in a CSV table: ISIC 2018 and ChestX-ray8, as BSCD-FSL takes them.

Guo et al., "A Broader Study of Cross-Domain Few-Shot Learning", ECCV 2020.
"""

import csv
import io
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch

from loradar.core.errors import BadDataError
from loradar.core.files import read_regular
from loradar.data.folders import PictureFiles
from loradar.data.gathering import gather
from loradar.data.images import ImageSet
from loradar.data.source import Source

Size = tuple[int, int] | None

_ISIC = "ISIC2018_Task3_Training_"
_CHESTX = "Data_Entry_2017.csv"
_FINDINGS = ("Atelectasis", "Cardiomegaly", "Effusion", "Infiltration", "Mass", "Nodule", "Pneumothorax")


def isic_source(folder: Path, *, size: Size) -> Source:
    """Open the training images of ISIC 2018, task 3.

    `folder` holds `ISIC2018_Task3_Training_Input` with the images, and `ISIC2018_Task3_Training_GroundTruth.csv` there or
    in a folder of its name: a row for each image with a 1 for its diagnosis and a 0 for each other. Raises BadDataError.
    """
    name = f"{_ISIC}GroundTruth"
    table = next((path for path in (folder / name / f"{name}.csv", folder / f"{name}.csv") if path.exists()), None)
    if table is None:
        raise BadDataError(f"there is no {folder / name}.csv, nor a folder with it; expected ISIC 2018, task 3")
    columns, rows = _rows(table)
    if columns[:1] != ["image"] or len(columns) < 3:
        raise BadDataError(f"{table}: its columns are {columns!r:.80}; expected image, then one for each diagnosis")
    labels = {f"{row[0]}.jpg": _one_hot(row[1:], f"{table}, line {line}") for line, row in rows}
    _refuse_twice(labels, rows, table)
    return _source(folder, _below([folder / f"{_ISIC}Input"]), labels, columns[1:], table=table, size=size)


def chestx_source(folder: Path, *, size: Size) -> Source:
    """Open the images of ChestX-ray8 that have exactly one finding, where that is one of BSCD-FSL's seven.

    `folder` holds `Data_Entry_2017.csv`, and the images in `images` or in `images_001/images` to `images_012/images`.
    Raises BadDataError.
    """
    table = folder / _CHESTX
    if not table.exists():
        raise BadDataError(f"there is no {table}; expected ChestX-ray8")
    columns, rows = _rows(table)
    if columns[:2] != ["Image Index", "Finding Labels"]:
        raise BadDataError(f"{table}: its columns are {columns!r:.80}; expected Image Index, Finding Labels, ...")
    labels = {row[0]: _FINDINGS.index(row[1]) for _, row in rows if row[1] in _FINDINGS}
    _refuse_twice({row[0] for _, row in rows}, rows, table)
    places = [folder / "images", *sorted(folder.glob("images_*/images"))]
    return _source(
        folder, _below([place for place in places if place.is_dir()]), labels, _FINDINGS, table=table, size=size
    )


def _source(
    folder: Path,
    files: Mapping[str, Path],
    labels: Mapping[str, int],
    classes: Sequence[str],
    *,
    table: Path,
    size: Size,
) -> Source:
    missing = [name for name in labels if name not in files]
    if missing:
        raise BadDataError(
            f"{table} lists {missing[0]!r:.80}, which is not there ({len(missing)} are missing); fetch it"
        )
    if len(set(classes)) < len(classes):
        raise BadDataError(f"{table}: two of its columns have the same name; expected one for each class")
    title = folder.name or folder.resolve().name

    def read() -> ImageSet:
        coded = PictureFiles(root=folder, files=[files[name] for name in labels])
        numbers = torch.tensor(list(labels.values()))
        return gather(coded, numbers, classes=classes, name=f"{title}/all", size=size)

    return Source(name=title, classes=tuple(classes), splits={"all": read})


def _rows(table: Path) -> tuple[list[str], list[tuple[int, list[str]]]]:
    """The names of the columns, and the rows with their lines."""
    try:
        reader = csv.reader(io.StringIO(read_regular(table).decode("utf-8-sig"), newline=""), strict=True)
        columns = next(reader, [])
        rows = [(reader.line_num, row) for row in reader if row]
    except OSError as error:
        raise BadDataError(f"could not read {table}: {error.strerror}") from error
    except (csv.Error, UnicodeDecodeError) as error:
        raise BadDataError(f"{table} is no table of text between commas ({error!s:.80}); fetch it again") from error
    for line, row in rows:
        if len(row) != len(columns):
            raise BadDataError(f"{table}, line {line} has {len(row)} cells; expected {len(columns)}, as the first line")
    return columns, rows


def _one_hot(cells: Sequence[str], where: str) -> int:
    try:
        values = [float(cell) for cell in cells]
    except ValueError:
        values = []
    if sorted(values) != [0.0] * (len(cells) - 1) + [1.0]:
        raise BadDataError(f"{where} is {','.join(cells)!r:.80}; expected a 1 for one class and a 0 for each other")
    return values.index(1.0)


def _refuse_twice(names: Mapping[str, int] | set[str], rows: Sequence[object], table: Path) -> None:
    if len(names) < len(rows):
        raise BadDataError(f"{table} lists an image twice: {len(rows)} rows, {len(names)} images; fetch it again")


def _below(folders: Sequence[Path]) -> dict[str, Path]:
    try:
        return {file.name: file for folder in folders for file in folder.iterdir()}
    except OSError as error:
        raise BadDataError(f"could not list {error.filename}: {error.strerror}") from error
