"""Which files below a folder are pictures, and which folders are somebody's own."""

import os
from pathlib import Path

from loradar.core.errors import BadDataError
from loradar.data.decoding import can_open

SUFFIXES = frozenset(
    (
        *(".jpg", ".jpeg", ".jpe", ".jfif", ".mpo", ".png", ".apng", ".webp", ".avif", ".gif", ".bmp", ".dib"),
        *(".tif", ".tiff", ".ppm", ".pgm", ".pbm", ".pnm", ".tga", ".jp2", ".j2k", ".jpx"),
    )
)
"""A file that ends so (in any case) is a picture; one that ends otherwise is if Pillow can open it."""

_NOTES = frozenset(
    (
        *(".txt", ".md", ".rst", ".json", ".jsonl", ".csv", ".tsv", ".xml", ".yaml", ".yml", ".toml", ".html", ".log"),
        *(".ini", ".cfg", ".db", ".lnk", ".url", ".py", ".ipynb", ".bak", ".orig", ".md5", ".sha256"),
    )
)
_NOTE_NAMES = frozenset(("thumbs.db:encryptable", "icon\r", "readme", "license", "licence", "copying"))
_SYSTEM_FOLDERS = frozenset(
    (
        *("@eadir", "@recycle", "@tmp", "#recycle", "#snapshot", "__macosx", "__pycache__", "$recycle.bin"),
        *("system volume information", "lost+found"),
    )
)


def visible_folders(root: Path) -> list[Path]:
    """List the folders in `root`, without hidden ones and those that an operating system or a tool keeps for itself."""
    return [root / entry.name for entry in _entries(root) if entry.is_dir()]


def visible_files(root: Path) -> list[Path]:
    """List what else than folders lies in `root`, without hidden files."""
    return [root / entry.name for entry in _entries(root) if not entry.is_dir()]


def is_note(path: Path) -> bool:
    """Tell whether a file is what people and systems leave beside pictures, by its name."""
    return path.suffix.lower() in _NOTES or path.name.lower() in _NOTE_NAMES or path.name.endswith("~")


def loose_pictures(root: Path) -> list[Path]:
    """List the files directly in `root` that are pictures by their name."""
    return [root / e.name for e in _entries(root) if Path(e.name).suffix.lower() in SUFFIXES and not e.is_dir()]


def pictures_below(folder: Path, seen: set[Path]) -> list[Path]:
    """List the pictures in `folder` and in the visible folders below it, links followed.

    Hidden files, notes and what systems leave (`Thumbs.db`, `desktop.ini`, `*.txt`, `*.json`, `*.csv` ...) are skipped.

    Args:
        folder: The folder.
        seen: Folders that were listed already, resolved; this one and those below are added.

    Raises:
        BadDataError: For any other file that cannot be opened as a picture, for a broken link, and for a folder that
            was listed before: a link to it would double its pictures, or never end.
    """
    place = folder.resolve()
    if place in seen:
        raise BadDataError(
            f"{folder} is a link to a folder that is read already; remove it, or its pictures count twice"
        )
    seen.add(place)
    pictures: list[Path] = []
    for entry in _entries(folder):
        path = folder / entry.name
        if entry.is_dir():
            pictures.extend(pictures_below(path, seen))
        elif _is_picture(path, is_file=entry.is_file()):
            pictures.append(path)
    return pictures


def each_once(paths: list[Path]) -> list[Path]:
    """List paths without further names (links) of a file: the file itself is kept, else the first name."""
    by_file: dict[tuple[int, int], Path] = {}
    for path in sorted(paths, key=lambda path: (path.is_symlink(), path)):
        found = path.stat()
        by_file.setdefault((found.st_dev, found.st_ino), path)
    kept = set(by_file.values())
    return [path for path in paths if path in kept]


def _is_picture(path: Path, *, is_file: bool) -> bool:
    if is_note(path):
        return False
    if not is_file:
        raise BadDataError(f"{path} is no file that can be read (a broken link?); mend or remove it")
    if path.suffix.lower() in SUFFIXES or can_open(path):
        return True
    raise BadDataError(
        f"{path} cannot be read as an image and is no usual note (such as .txt, .json or .csv); convert it (to PNG or "
        "JPEG), or move it away"
    )


def _entries(folder: Path) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as entries:
            return sorted((e for e in entries if not _is_hidden(e.name)), key=lambda entry: entry.name)
    except OSError as error:
        raise BadDataError(f"could not list {folder}: {error.strerror}") from error


def _is_hidden(name: str) -> bool:
    # what macOS leaves beside pictures begins with a dot and has their suffix
    return name.startswith(".") or name.lower() in _SYSTEM_FOLDERS
