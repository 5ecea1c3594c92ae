import dataclasses
import json
import platform
from pathlib import Path

import pytest
import torch

from loradar.core.config import validate
from loradar.core.errors import BadConfigError, BadDataError
from loradar.core.processes import this_process
from loradar.core.types import NullProgress
from loradar.jobs.config import PretrainConfig
from loradar.jobs.pretrain import resolve, run
from loradar.models import load_base
from tests.data.pictures import png


def test_pretrain_writes_a_base_that_opens_and_says_how_it_was_made(tmp_path: Path) -> None:
    config = PretrainConfig(
        architecture="timm:test_resnet",
        out=tmp_path / "base",
        train=64,
        validation=8,
        max_test_images=20,
        epochs=2,
        batch_size=16,
        flip=False,
    )
    row = run(resolve(config)).row
    base = load_base(str(tmp_path / "base"))
    assert base.classes == tuple(str(i) for i in range(10))
    assert base.description["recipe"]["epochs"] == 2
    assert base.description["measured"]["correct"] == row.correct
    assert row.total == 20
    assert not base.model.training
    assert base.model(torch.rand(2, 3, 32, 32)).shape == (2, 10)
    assert list(tmp_path.iterdir()) == [tmp_path / "base"]


class _Lines(NullProgress):
    def __init__(self) -> None:
        self.lines: list[str] = []

    def message(self, text: str) -> None:
        self.lines.append(text)


def test_what_is_too_little_to_learn_from_is_said_before_training(tmp_path: Path) -> None:
    for name, count in (("many", 8), ("one", 1)):
        (tmp_path / "data" / name).mkdir(parents=True)
        for index in range(count):
            (tmp_path / "data" / name / f"{index}.png").write_bytes(png(index, height=32, width=32))
    settings = {"data": str(tmp_path / "data"), "architecture": "timm:test_resnet", "epochs": 2, "batch_size": 64}
    progress = _Lines()
    run(resolve(validate(PretrainConfig, settings | {"out": tmp_path / "base"})), progress=progress)
    assert progress.lines[:2] == [
        "1 training of 2 steps (6 images, 6 a step, 2 epochs)",
        "warning: little is learned in 2 steps; expected 100 or more: --epochs 100",
    ]
    assert "'one' 1" in progress.lines[2]


def test_a_killed_run_with_other_settings_is_refused_in_one_voice(tmp_path: Path) -> None:
    config = PretrainConfig(architecture="timm:test_resnet", out=tmp_path / "base", train=32, epochs=2, batch_size=16)
    pretrain = "loradar.jobs.pretrain"
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(f"{pretrain}.accuracy_row", _killed)  # the last thing before the base is written
        with pytest.raises(KeyboardInterrupt):
            run(resolve(config))
    lease = tmp_path / ".base.lease.json"
    gone = dataclasses.asdict(this_process()) | {"start": 1}
    lease.write_text(json.dumps({"host": platform.node(), "process": gone, "since": "2026-01-02"}))
    progress = _Lines()
    with pytest.raises(BadConfigError, match="an unfinished run with other settings; give those to go on with it"):
        run(resolve(config.model_copy(update={"epochs": 3})), progress=progress)
    assert "a run was killed there" in progress.lines[0]
    assert not [line for line in progress.lines if "goes on" in line]


def _killed(*_: object, **__: object) -> None:
    raise KeyboardInterrupt


def test_pretrain_brings_pictures_of_mixed_sizes_to_one(tmp_path: Path) -> None:
    for label in range(2):
        (tmp_path / "data" / f"class{label}").mkdir(parents=True)
        for index in range(6):
            picture = png(10 * label + index, height=20 + 3 * index, width=40 - 2 * index)
            (tmp_path / "data" / f"class{label}" / f"{index}.png").write_bytes(picture)
    settings = {"data": str(tmp_path / "data"), "architecture": "timm:test_resnet", "epochs": 1, "batch_size": 2}
    with pytest.raises(BadDataError, match="size"):
        run(resolve(validate(PretrainConfig, settings | {"out": tmp_path / "none"})))
    run(resolve(validate(PretrainConfig, settings | {"out": tmp_path / "base", "size": "24x32"})))
    assert load_base(str(tmp_path / "base")).input_size == (3, 24, 32)
