from collections.abc import Callable
from pathlib import Path
from typing import Literal

import pytest
import torch
from torch import Tensor, nn

from loradar.core.errors import BadConfigError, BadDataError, BadFileError
from loradar.training import FitSettings, Step, fit

COUNT = 20


class Problem:
    """A small regression whose loss and state are easy to look at."""

    def __init__(self) -> None:
        torch.manual_seed(0)
        self.x = torch.rand(COUNT, 3)
        self.y = self.x @ torch.rand(3, 2)
        self.weight = nn.Parameter(torch.zeros(2, 3))
        self.seen: list[list[int]] = []
        self.seeds: list[int] = []

    def loss(self, indices: Tensor, seed: int) -> Tensor:
        self.seen.append(indices.tolist())
        self.seeds.append(seed)
        return ((self.x[indices] @ self.weight.T - self.y[indices]) ** 2).mean()

    def steps(self, settings: FitSettings, checkpoint: Path | None = None, run: str = "") -> list[Step]:
        return list(
            fit(
                self.loss,
                parameters=[self.weight],
                state={"weight": self.weight},
                count=COUNT,
                settings=settings,
                checkpoint=checkpoint,
                checkpoint_seconds=0,
                run=run,
            )
        )


def test_descends_and_counts() -> None:
    problem = Problem()
    steps = problem.steps(FitSettings(epochs=30, batch_size=8, learning_rate=0.05))
    assert len(steps) == steps[0].total == 60
    assert steps[-1].loss < 0.5 * steps[0].loss
    assert [s.ends_epoch for s in steps[:4]] == [False, True, False, True]
    assert [s.epoch for s in steps[:4]] == [0, 0, 1, 1]


def test_each_epoch_has_another_order_without_repeats() -> None:
    problem = Problem()
    problem.steps(FitSettings(epochs=2, batch_size=10))
    first, second = problem.seen[0] + problem.seen[1], problem.seen[2] + problem.seen[3]
    assert sorted(first) == sorted(second) == list(range(COUNT))
    assert first != second
    assert len(set(problem.seeds)) == 4


def test_defaults_are_the_recipe() -> None:
    problem = Problem()
    steps = problem.steps(FitSettings(epochs=12, batch_size=10))
    by_epoch = {s.epoch: s.learning_rate for s in steps}
    assert by_epoch[0] == by_epoch[9] == 1e-3
    assert by_epoch[10] == by_epoch[11] == pytest.approx(1e-4)


@pytest.mark.parametrize("schedule", ["step", "cosine", "one-cycle", "constant"])
@pytest.mark.parametrize("optimizer", ["adam", "adamw", "sgd"])
def test_resumes_with_the_same_bits(
    tmp_path: Path,
    optimizer: Literal["adam", "adamw", "sgd"],
    schedule: Literal["step", "cosine", "one-cycle", "constant"],
) -> None:
    settings = FitSettings(epochs=4, batch_size=4, optimizer=optimizer, schedule=schedule, step_size=2)
    whole = Problem()
    rates = [s.learning_rate for s in whole.steps(settings)]
    broken = Problem()
    checkpoint = tmp_path / "checkpoint.safetensors"
    loop = fit(
        broken.loss,
        parameters=[broken.weight],
        state={"weight": broken.weight},
        count=COUNT,
        settings=settings,
        checkpoint=checkpoint,
        checkpoint_seconds=0,
    )
    for _ in range(8):
        next(loop)
    del loop  # the eighth step is lost: it was seen, not yet saved
    resumed = Problem()
    with torch.no_grad():
        resumed.weight.fill_(9)
    again = resumed.steps(settings, checkpoint)
    assert again[0].index == 8
    assert [s.learning_rate for s in again] == rates[7:]
    assert torch.equal(resumed.weight, whole.weight)


def test_a_finished_run_takes_no_step(tmp_path: Path) -> None:
    checkpoint = tmp_path / "c"
    problem = Problem()
    problem.steps(FitSettings(epochs=1, batch_size=10), checkpoint)
    assert problem.steps(FitSettings(epochs=1, batch_size=10), checkpoint) == []


@pytest.mark.parametrize(
    ("change", "error", "says"),
    [
        (lambda p: p.write_bytes(p.read_bytes()[:50]), BadFileError, "delete it to start afresh"),
        (lambda p: p.write_bytes(b"\x80\x04N."), BadFileError, "no checkpoint"),
    ],
)
def test_a_damaged_checkpoint_is_refused(
    tmp_path: Path, change: Callable[[Path], int], error: type[Exception], says: str
) -> None:
    checkpoint = tmp_path / "c"
    problem, settings = Problem(), FitSettings(epochs=1, batch_size=10)
    problem.steps(settings, checkpoint)
    change(checkpoint)
    with pytest.raises(error, match=says):
        problem.steps(settings, checkpoint)


def test_a_checkpoint_of_other_settings_is_refused(tmp_path: Path) -> None:
    problem = Problem()
    problem.steps(FitSettings(epochs=1, batch_size=10), tmp_path / "c", run="one")
    with pytest.raises(BadConfigError, match="other settings"):
        problem.steps(FitSettings(epochs=1, batch_size=10), tmp_path / "c", run="two")


def test_an_empty_training_split_is_refused() -> None:
    with pytest.raises(BadDataError, match="empty"):
        list(fit(lambda i, _: i.sum(), parameters=[], state={}, count=0, settings=FitSettings()))


def test_a_loss_that_is_not_finite_stops_the_run() -> None:
    weight = nn.Parameter(torch.ones(1))
    with pytest.raises(BadConfigError, match="smaller learning_rate"):
        list(
            fit(lambda _i, _s: weight.sum() / 0, parameters=[weight], state={}, count=4, settings=FitSettings(epochs=1))
        )


@pytest.mark.parametrize("wrong", [{"epochs": 0}, {"batch_size": 0}, {"learning_rate": 0.0}])
def test_settings_are_checked(wrong: dict[str, float]) -> None:
    with pytest.raises(BadConfigError, match=next(iter(wrong))):
        FitSettings(**wrong)  # type: ignore[arg-type]
