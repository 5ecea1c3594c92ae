"""One driver for every training: what it keeps, selects and draws, and that a killed run ends with the same epochs."""

import json
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from loradar.core.errors import BadFileError
from loradar.core.types import NullProgress, ProgressBar
from loradar.training import Epoch, FitSettings, Training, Validation, best_epoch, read_epochs, train

COUNT = 12


class Line:
    """A regression with one weight; `stop` ends it at a step, as a kill would."""

    def __init__(self, folder: Path, *, stop: int = 10**9) -> None:
        self.x = torch.rand(COUNT, 3, generator=torch.Generator().manual_seed(0))
        self.weight = nn.Parameter(torch.zeros(3))
        self.folder, self.left = folder, stop
        self.measured = 0

    def loss_of(self, indices: Tensor, seed: int) -> Tensor:  # noqa: ARG002
        self.left -= 1
        if self.left < 0:
            raise KeyboardInterrupt
        return (self.x[indices] @ self.weight - 1).square().mean()

    def measure(self) -> tuple[float, float | None, int]:
        self.measured += 1
        return float(self.weight.detach().sum()), None, 2

    def save(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "weight.json").write_text(json.dumps(self.weight.detach().tolist()))

    def training(self, **changes: Any) -> Training:
        values: dict[str, Any] = {
            "name": "line",
            "loss_of": self.loss_of,
            "parameters": [self.weight],
            "state": {"weight": self.weight},
            "count": COUNT,
            "settings": FitSettings(epochs=3, batch_size=5, learning_rate=0.1),
            "checkpoint": self.folder / "checkpoint.safetensors",
            "run": "line",
            "validation": Validation(folder=self.folder / "epochs", measure=self.measure, save=self.save),
        }
        return Training(**values | changes)


class Watch(NullProgress):
    def __init__(self) -> None:
        self.total, self.done, self.unit = 0, 0, ""

    def task(self, name: str, total: int, unit: str = "images") -> ProgressBar:  # noqa: ARG002
        self.total, self.unit = total, unit
        return self

    def advance(self, amount: int = 1, note: str = "") -> None:  # noqa: ARG002
        self.done += amount


def test_every_epoch_is_measured_and_kept(tmp_path: Path) -> None:
    line, watch = Line(tmp_path), Watch()
    epochs = train(line.training(unit="tasks"), watch)
    assert [epoch.epoch for epoch in epochs] == [0, 1, 2]
    assert [epoch.folder for epoch in epochs] == [tmp_path / "epochs" / f"{n:03d}" for n in range(3)]
    assert json.loads((epochs[-1].folder / "weight.json").read_text()) == line.weight.tolist()
    assert (watch.done, watch.total, watch.unit) == (30, 30, "tasks"), "two whole batches of 5 in three epochs"
    assert read_epochs(tmp_path / "epochs", 3) == epochs
    assert epochs[0].loss > epochs[1].loss > epochs[2].loss
    assert best_epoch(epochs) == epochs[2]


@pytest.mark.parametrize("stop", range(1, 6))
def test_a_killed_training_ends_with_the_same_epochs(
    tmp_path: Path, stop: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = train(Line(tmp_path / "whole").training(), NullProgress())
    # a save after every step, so that a kill within an epoch has a mean loss to carry over
    clock = iter(range(0, 10**6, 100))
    monkeypatch.setattr(sys.modules["loradar.training.fit"], "time", SimpleNamespace(monotonic=lambda: next(clock)))
    killed = Line(tmp_path / "killed", stop=stop)
    with pytest.raises(KeyboardInterrupt):
        train(killed.training(), NullProgress())
    again, watch = Line(tmp_path / "killed"), Watch()
    epochs = train(again.training(), watch)
    assert [(e.loss, e.clean) for e in epochs] == [(e.loss, e.clean) for e in whole]
    assert watch.done == watch.total
    # nothing is left to do, and nothing is measured again
    assert train(again.training(), watch) == epochs
    assert again.measured + killed.measured == 3


def test_without_a_validation_nothing_is_kept(tmp_path: Path) -> None:
    assert train(Line(tmp_path).training(validation=None), NullProgress()) == ()
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint.safetensors"]


def _epoch(number: int, clean: float, adversarial: float | None) -> Epoch:
    return Epoch(epoch=number, loss=0.0, clean=clean, adversarial=adversarial, total=10, folder=Path())


def test_the_best_epoch_counts_both_and_the_earliest_of_equals_wins() -> None:
    epochs = [_epoch(0, 9, 1), _epoch(1, 5, 6), _epoch(2, 6, 5), _epoch(3, 10, None)]
    assert best_epoch(epochs).epoch == 1


DAMAGE: dict[str, Callable[[Path], object]] = {
    "missing": lambda path: path.unlink(),
    "truncated": lambda path: path.write_text(path.read_text()[:20]),
    "a list": lambda path: path.write_text("[1]"),
    "a field too many": lambda path: path.write_text(json.dumps(json.loads(path.read_text()) | {"other": 1})),
}


@pytest.mark.parametrize("case", DAMAGE)
def test_a_damaged_record_is_one_line(tmp_path: Path, case: str) -> None:
    train(Line(tmp_path).training(), NullProgress())
    DAMAGE[case](tmp_path / "epochs" / "001.json")
    with pytest.raises(BadFileError, match=r"001\.json is no record .*; delete .* to train anew"):
        train(Line(tmp_path).training(), NullProgress())


def test_records_of_the_first_version_are_read(tmp_path: Path) -> None:
    record = {"epoch": 0, "loss": 1.0, "clean": 0.5, "attacked": 0.25, "folder": ""}
    (tmp_path / "000.json").write_text(json.dumps(record))
    (epoch,) = read_epochs(tmp_path, 1)
    assert (epoch.clean, epoch.adversarial, epoch.total, epoch.folder) == (0.5, 0.25, 1, tmp_path / "000")


def test_curves_are_drawn(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard", reason="tensorboard is not installed (extra: tensorboard)")
    train(Line(tmp_path).training(tensorboard=tmp_path / "curves"), NullProgress())
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator  # type: ignore[import-untyped]

    events = EventAccumulator(str(tmp_path / "curves"))
    events.Reload()
    assert set(events.Tags()["scalars"]) == {"loss", "learning rate", "clean"}
    assert [event.step for event in events.Scalars("clean")] == [2, 4, 6]
