"""A checkpoint gives back what was saved, to the bit, or is refused."""

import os
from pathlib import Path

import pytest

from loradar.core.errors import BadFileError
from loradar.training.driver import Validation, read_epochs
from tests.fuzz.changes import flip
from tests.fuzz.folders import checkpoint, save_run


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    save_run(folder := tmp_path_factory.mktemp("run") / "run")
    return folder


def test_a_flipped_byte_anywhere_is_said(run: Path, tmp_path: Path) -> None:
    file = tmp_path / "checkpoint.safetensors"
    data = (run / file.name).read_bytes()
    for at in range(0, len(data), 23):
        file.write_bytes(data)
        flip(file, at / len(data), 1)
        with pytest.raises(BadFileError, match="is no checkpoint that can be read"):
            checkpoint(tmp_path)


def test_a_pipe_in_its_place_is_said(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "checkpoint.safetensors")
    with pytest.raises(BadFileError, match="no regular file"):
        checkpoint(tmp_path)


def test_the_record_of_an_epoch_is_what_was_measured(tmp_path: Path) -> None:
    kept = Validation(folder=tmp_path, measure=lambda: (7, 5, 9), save=lambda _: None).keep(0, 0.5)
    assert read_epochs(tmp_path, 1) == (kept,)
    file = tmp_path / "000.json"
    file.write_text(file.read_text().replace('"clean": 7', '"clean": 8'))
    with pytest.raises(BadFileError, match="digest is another"):
        read_epochs(tmp_path, 1)
