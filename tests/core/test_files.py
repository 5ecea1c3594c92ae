import errno
import os
from pathlib import Path

import pytest

from loradar.core import files
from loradar.core.config import default_cache
from loradar.core.errors import BadFileError
from loradar.core.files import check_place, expand_home, folder_atomically, sha256, write_atomically


def full_disk(*_: object) -> None:
    raise OSError(errno.ENOSPC, "No space left on device")


def test_sha256_is_the_standard_one() -> None:
    # the digest of the empty message, FIPS 180-4
    assert sha256(b"") == "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"


def test_write_makes_folders_and_replaces(tmp_path: Path) -> None:
    path = tmp_path / "a" / "b.bin"
    write_atomically(path, b"one")
    write_atomically(path, b"two")
    assert path.read_bytes() == b"two"
    assert list(path.parent.iterdir()) == [path]


def test_full_disk_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "b.bin"
    write_atomically(path, b"old")
    monkeypatch.setattr(os, "fsync", full_disk)
    with pytest.raises(BadFileError, match="No space left on device; nothing was changed there"):
        write_atomically(path, b"new")
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_folder_appears_whole(tmp_path: Path) -> None:
    target = tmp_path / "a" / "report"
    with folder_atomically(target) as folder:
        (folder / "x").write_text("1")
        assert not target.exists()
    assert (target / "x").read_text() == "1"
    with folder_atomically(target) as folder:
        (folder / "y").write_text("2")
        assert (target / "x").exists()
    assert [p.name for p in target.iterdir()] == ["y"]
    assert list(target.parent.iterdir()) == [target]


def test_a_place_is_ours_where_it_is_free_or_holds_the_marker(tmp_path: Path) -> None:
    for name in ("empty", "ours", "foreign"):
        (tmp_path / name).mkdir()
    for file in ("ours/base.json", "foreign/letter.txt", "file"):
        (tmp_path / file).touch()
    for name in ("nowhere", "empty", "ours"):
        check_place(tmp_path / name, "base.json", "a base")
    for name in ("foreign", "file"):
        with pytest.raises(BadFileError, match=f"{name} exists and is not a base; choose another"):
            check_place(tmp_path / name, "base.json", "a base")


def _fail_midway(folder: Path, error: Exception) -> None:
    (folder / "x").write_text("half")
    raise error


@pytest.mark.parametrize("error", [RuntimeError("inside"), OSError(errno.ENOSPC, "No space left on device")])
def test_failed_block_leaves_the_old_folder(tmp_path: Path, error: Exception) -> None:
    target = tmp_path / "report"
    with folder_atomically(target) as folder:
        (folder / "x").write_text("1")
    expected = BadFileError if isinstance(error, OSError) else RuntimeError
    with pytest.raises(expected), folder_atomically(target) as folder:
        _fail_midway(folder, error)
    assert (target / "x").read_text() == "1"
    assert list(tmp_path.iterdir()) == [target]


def saved(target: Path, text: str) -> None:
    with folder_atomically(target) as folder:
        (folder / "x").write_text(text)


def cannot_exchange(*_: object) -> bool:
    return False


@pytest.mark.parametrize("whole", [True, False], ids=["exchange", "two renames"])
def test_a_folder_is_replaced_either_way(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, whole: bool) -> None:
    if not whole:
        monkeypatch.setattr(files, "exchange", cannot_exchange)
    target = tmp_path / "report"
    for text in "12":
        saved(target, text)
        assert (target / "x").read_text() == text
        assert list(tmp_path.iterdir()) == [target]


def test_a_link_to_a_folder_stays(tmp_path: Path) -> None:
    link, target = tmp_path / "link", tmp_path / "elsewhere" / "report"
    saved(target, "1")
    link.symlink_to(target)
    saved(link, "2")
    assert link.is_symlink()
    assert (target / "x").read_text() == "2"


def test_failed_swap_puts_the_old_folder_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    target = tmp_path / "report"
    saved(target, "1")
    rename = Path.rename

    def refuse_the_new_one(self: Path, to: Path) -> Path:
        if self.name.endswith(".part"):
            full_disk()
        return rename(self, to)

    monkeypatch.setattr(files, "exchange", cannot_exchange)
    monkeypatch.setattr(Path, "rename", refuse_the_new_one)
    with pytest.raises(BadFileError):
        saved(target, "2")
    assert (target / "x").read_text() == "1"
    assert list(tmp_path.iterdir()) == [target]


def test_an_unknown_home_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(BadFileError, match="home folder of ~nobody-of-this-name/x"):
        expand_home(Path("~nobody-of-this-name/x"))
    monkeypatch.setenv("HOME", "/h")
    assert expand_home(Path("~/x")) == Path("/h/x")
    assert default_cache() == Path("~/.cache/loradar")


def test_the_cache_needs_no_home(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_path: Path) -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(Path, "expanduser", fail)
    assert default_cache() == Path("runs/cache")


@pytest.mark.parametrize("name", ["x" * 5000, "a\0b", "~a\0b"])
def test_what_no_file_is_called_is_said(name: str) -> None:
    with pytest.raises(BadFileError, match="is no path"):
        expand_home(Path(name))
