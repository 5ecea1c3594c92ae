"""A folder of images: one folder per class, or `train/` and `test/` above those."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch

from loradar.core.errors import BadDataError
from loradar.core.files import read_regular
from loradar.core.types import Labels
from loradar.data.corruptions import SEVERITIES
from loradar.data.gathering import gather
from loradar.data.images import ImageSet
from loradar.data.labels import sorted_names
from loradar.data.pictures import SUFFIXES, each_once, loose_pictures, pictures_below, visible_folders
from loradar.data.source import TEST, TRAIN, Source

__all__ = ["SUFFIXES", "PictureFiles", "folder_source"]

_SEVERITIES = {str(i + 1) for i in range(SEVERITIES)}


@dataclass(frozen=True, kw_only=True)
class PictureFiles:
    """Pictures in files; an error calls one by its path below `root`."""

    root: Path
    files: list[Path]

    def __len__(self) -> int:
        return len(self.files)

    def read(self, index: int) -> bytes:
        try:
            return read_regular(self.files[index])
        except OSError as error:
            raise BadDataError(f"could not read {self.name(index)}: {error.strerror}") from error

    def name(self, index: int) -> str:
        return str(self.files[index].relative_to(self.root))

    def length(self, index: int) -> int:
        return self.files[index].stat().st_size


def folder_source(root: Path, *, size: tuple[int, int] | None) -> Source:
    """Read a folder of class folders; images may lie deeper below them.

    A file that a class has under several names (links) counts once.
    Classes are the names of the folders: sorted by number where all are whole numbers, else as words. Folders are splits
    only where every visible folder is called like one (`train`, `test`, `val` ...) and holds class folders. Hidden
    folders and those of systems (`@eaDir`, `__MACOSX` ...) are neither classes nor contents at any depth;
    `loradar.data.pictures` says which files are pictures.

    Raises:
        BadDataError: Where there are no images, a class folder is empty, a file is neither a picture nor a usual note,
            a picture lies in no class folder, or the splits have different classes.
    """
    splits = _splits(root)
    for path in (root, *splits.values()):
        if loose := loose_pictures(path):
            raise BadDataError(f"{loose[0]} lies in no class folder; move it into one, or away")
    files = {name: _by_class(path) for name, path in splits.items()}
    classes = sorted_names(next(iter(files.values())))
    for name, by_class in files.items():
        if set(by_class) != set(classes):
            odd = sorted(set(by_class) ^ set(classes))
            raise BadDataError(f"{splits[name]} has other classes than its neighbour; only one of them has {odd[0]!r}")
    title = root.name or root.resolve().name

    def split_set(split: str) -> ImageSet:
        chosen = [file for name in classes for file in files[split][name]]
        labels: Labels = torch.tensor([i for i, name in enumerate(classes) for _ in files[split][name]])
        return gather(
            PictureFiles(root=root, files=chosen), labels, classes=classes, name=f"{title}/{split}", size=size
        )

    return Source(name=title, classes=classes, splits={split: partial(split_set, split) for split in splits})


def _splits(root: Path) -> dict[str, Path]:
    """Map names of splits to their folders; `all` to `root` itself where its folders are classes."""
    folders = visible_folders(root)
    if not folders:
        raise BadDataError(
            f"{root} holds no images in folders; expected a folder for each class, or train/ and test/ above those"
        )
    named = [folder for folder in folders if folder.name.lower() in TRAIN + TEST]
    if len(named) < len(folders):
        _refuse_mixture(root, named, folders)
        return {"all": root}
    splits: dict[str, Path] = {}
    for folder in folders:
        if not visible_folders(folder):
            raise BadDataError(
                f"{folder} is called like a split but holds no class folders; expected a folder for each class in it"
            )
        other = splits.setdefault(folder.name.lower(), folder)
        if other is not folder:
            raise BadDataError(
                f"{root} holds both {other.name!r} and {folder.name!r}, one split by its name; remove one"
            )
    return splits


def _refuse_mixture(root: Path, named: Sequence[Path], folders: Sequence[Path]) -> None:
    """Raise where `train` and `test` hold the same class folders, so that what lies beside them is hardly a class."""
    inside = [{folder.name for folder in visible_folders(split)} for split in named]
    if len(named) > 1 and inside[0] and all(names == inside[0] for names in inside):
        odd = next(folder for folder in folders if folder not in named)
        raise BadDataError(
            f"{root} holds {odd.name!r} beside the splits {named[0].name!r} and {named[1].name!r}; move it away, so that "
            "only splits are left"
        )


def _by_class(root: Path) -> dict[str, list[Path]]:
    """Map each class to its pictures, sorted."""
    folders = visible_folders(root)
    _refuse_wrapping(root, folders)
    _refuse_severities(root, folders)
    seen: set[Path] = set()
    files = {folder.name: sorted(each_once(pictures_below(folder, seen))) for folder in folders}
    for name, pictures in files.items():
        if not pictures:
            raise BadDataError(f"{root / name} is an empty class folder; it holds no images: fill or remove it")
    return files


def _refuse_wrapping(root: Path, folders: Sequence[Path]) -> None:
    """Raise where the one folder there is holds folders alone: a data set in a folder of its own."""
    if len(folders) == 1 and len(visible_folders(folders[0])) > 1 and not loose_pictures(folders[0]):
        raise BadDataError(
            f"{root} holds one folder, and that one holds folders; expected classes (give {folders[0]}?)"
        )


def _refuse_severities(root: Path, folders: Sequence[Path]) -> None:
    """Raise where the folders are not classes but ImageNet-C's severities of a corruption, or its corruptions."""
    inside = [{folder.name for folder in visible_folders(path)} for path in folders]
    if {path.name for path in folders} == _SEVERITIES and len(inside[0]) > 1 and all(i == inside[0] for i in inside):
        raise BadDataError(f"{root} holds the severities of one corruption; give one of them (such as {root / '3'})")
    if all(names == _SEVERITIES for names in inside) and visible_folders(folders[0] / "1"):
        raise BadDataError(
            f"{root} holds corruptions by severity; give one severity of one of them (such as {folders[0] / '3'})"
        )
