"""A folder of images: one folder per class, or `train/` and `test/` above those."""

from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch

from loradar.core.errors import BadDataError
from loradar.core.types import Labels
from loradar.data.gathering import gather
from loradar.data.images import ImageSet
from loradar.data.source import TEST, TRAIN, Source

SUFFIXES = frozenset((".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".ppm", ".pgm", ".tif", ".tiff"))


@dataclass(frozen=True, kw_only=True)
class _Files:
    """Pictures in files; an error calls one by its path below `root`."""

    root: Path
    files: list[Path]

    def __len__(self) -> int:
        return len(self.files)

    def read(self, index: int) -> bytes:
        try:
            return self.files[index].read_bytes()
        except OSError as error:
            raise BadDataError(f"could not read {self.name(index)}: {error.strerror}") from error

    def name(self, index: int) -> str:
        return str(self.files[index].relative_to(self.root))

    def length(self, index: int) -> int:
        return self.files[index].stat().st_size


def folder_source(root: Path, *, size: tuple[int, int] | None) -> Source:
    """Classes are the names of the folders, sorted; images may lie deeper below them.

    Raises BadDataError where there are no images, or where `train/` and `test/` have different classes.
    """
    parts = {p.name.lower(): p for p in _folders(root) if p.name.lower() in TRAIN + TEST}
    splits = parts if any(name in parts for name in TRAIN) else {"all": root}
    found = {name: _by_class(path) for name, path in splits.items()}
    classes = tuple(next(iter(found.values())))
    if not classes:
        raise BadDataError(f"{root} holds no images; expected a folder for each class, or train/ and test/ above those")
    for name, files in found.items():
        if tuple(files) != classes:
            odd = sorted(set(files) ^ set(classes))
            raise BadDataError(f"{root / name} has other classes than its neighbour; only one of them has {odd[0]!r}")

    def split_set(split: str) -> ImageSet:
        files = [file for name in classes for file in found[split][name]]
        labels: Labels = torch.tensor([i for i, name in enumerate(classes) for _ in found[split][name]])
        return gather(_Files(root=root, files=files), labels, classes=classes, name=f"{root.name}/{split}", size=size)

    return Source(name=root.name, classes=classes, splits={split: partial(split_set, split) for split in splits})


def _folders(root: Path) -> list[Path]:
    return sorted(p for p in root.iterdir() if p.is_dir() and not p.name.startswith("."))


def _by_class(root: Path) -> dict[str, list[Path]]:
    files = {folder.name: sorted(_images(folder)) for folder in _folders(root)}
    return {name: found for name, found in files.items() if found}


def _images(folder: Path) -> list[Path]:
    # hidden files: what macOS leaves beside pictures has their suffix
    return [p for p in folder.rglob("*") if p.suffix.lower() in SUFFIXES and not p.name.startswith(".") and p.is_file()]
