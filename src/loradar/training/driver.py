"""Runs a training to its end: progress, curves, the mean loss of each epoch, and every epoch measured, kept and read again."""

import dataclasses
import json
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path

import torch
from pydantic import TypeAdapter, ValidationError
from torch import Tensor

from loradar.core.digests import DIGEST, digest_of
from loradar.core.errors import BadFileError
from loradar.core.files import parse_object, read_regular, write_atomically
from loradar.core.types import Progress
from loradar.training.averaging import WeightAverage
from loradar.training.curves import curves
from loradar.training.fit import FitSettings, LossOf, fit
from loradar.training.parallel import ALONE, World


@dataclass(frozen=True, kw_only=True)
class Epoch:
    """The mean training loss of an epoch, what was measured after it, and the folder that holds it.

    `clean` and `adversarial` count right answers of `total` validation images, or are mean shares where `total` is 1;
    `adversarial` is None where nothing was attacked.
    """

    epoch: int
    loss: float
    clean: float
    adversarial: float | None
    total: int
    folder: Path

    def score(self, clean_weight: float = 0.5) -> float:
        """What epochs are selected by: clean and adversarial counts, weighed."""
        return clean_weight * self.clean + (1 - clean_weight) * (self.adversarial or 0)


_EPOCH = TypeAdapter(Epoch)


@dataclass(frozen=True, kw_only=True)
class Validation:
    """How an epoch is measured and kept.

    `measure` gives (clean, adversarial, total) as in `Epoch`, of the weights of the moment, and `save` writes these. `folder`
    receives `NNN/` and `NNN.json` for epoch NNN.
    """

    folder: Path
    measure: Callable[[], tuple[float, float | None, int]]
    save: Callable[[Path], object]

    def keep(self, number: int, loss: float) -> Epoch:
        """Measures and writes the epoch `number`."""
        clean, adversarial, total = self.measure()
        place = self.folder / f"{number:03d}"
        epoch = Epoch(epoch=number, loss=loss, clean=clean, adversarial=adversarial, total=total, folder=place)
        self.save(place)
        # without the folder, which may move
        record = {key: value for key, value in dataclasses.asdict(epoch).items() if key != "folder"}
        write_atomically(place.with_suffix(".json"), json.dumps(record | {DIGEST: digest_of(record)}).encode())
        return epoch


@dataclass(frozen=True, kw_only=True, eq=False)
class Training:
    """One training: what `fit` takes, its name for progress, and how epochs are measured, if they are.

    `unit` is what `count` counts. `tensorboard` is a folder for curves. Where there is an `average` of the weights, epochs are
    measured and kept with it. `on_epoch` is called with every epoch that was kept, and may change the state; where it returns
    True, training stops there, in a world of one process.

    Where a `world` of several processes trains, the first one measures, keeps and draws, and the others wait for it;
    `statistics` are as in `fit`.
    """

    name: str
    loss_of: LossOf
    parameters: Sequence[Tensor]
    state: Mapping[str, Tensor]
    count: int
    settings: FitSettings
    checkpoint: Path
    run: str
    unit: str = "images"
    validation: Validation | None = None
    tensorboard: Path | None = None
    average: WeightAverage | None = None
    on_epoch: Callable[[Epoch], bool | None] | None = None
    world: World = ALONE
    statistics: Sequence[Tensor] = ()


def train(training: Training, progress: Progress) -> tuple[Epoch, ...]:
    """Trains to the last epoch, or continues behind the checkpoint of a killed run, with the same bits either way.

    Returns every epoch that `validation` kept, those of earlier runs included. A training that `on_epoch` stopped has no
    checkpoint of its last epoch: run again, it makes that epoch again and asks again. Raises as `fit` does, and BadFileError
    where an epoch's record is missing or damaged.
    """
    settings, validation, world = training.settings, training.validation, training.world
    moving = [*training.state.values(), *(training.average.state.values() if training.average else ())]
    # a tensor among the state, so that the mean loss of an epoch survives a kill in the middle of it
    sums = torch.zeros(2, dtype=torch.float64)
    total = settings.steps_per_epoch(training.count) * settings.epochs * settings.batch_size
    bar, shown, epochs = progress.task(training.name, total, training.unit), 0, settings.epochs
    with curves(None if world.rank else training.tensorboard) as draw:
        for step in fit(
            training.loss_of,
            parameters=training.parameters,
            state={**training.state, "epoch-loss": sums} if validation else training.state,
            count=training.count,
            settings=settings,
            checkpoint=training.checkpoint,
            run=training.run,
            average=training.average,
            world=world,
            statistics=training.statistics,
        ):
            done = step.index * settings.batch_size
            bar.advance(done - shown, f"epoch {step.epoch + 1}, loss {step.loss:.3f}")
            shown = done
            sums += torch.tensor([step.loss, 1.0], dtype=torch.float64)
            draw(step.index, {"loss": step.loss, "learning rate": step.learning_rate})
            if step.ends_epoch and validation:
                world.check_same("the weights", moving)
                if not world.rank:
                    with training.average.applied() if training.average else nullcontext():
                        epoch = validation.keep(step.epoch, float(sums[0] / sums[1]))
                    draw(step.index, _shares(epoch))
                    if training.on_epoch is not None and training.on_epoch(epoch):
                        epochs = epoch.epoch + 1
                        break
                world.take_first(moving)
                sums.zero_()
    bar.advance(total - shown, "" if epochs == settings.epochs else f"stopped after epoch {epochs}")
    return read_epochs(validation.folder, epochs) if validation else ()


def _shares(epoch: Epoch) -> dict[str, float]:
    counts = {"clean": epoch.clean, "attacked": epoch.adversarial}
    return {name: count / epoch.total for name, count in counts.items() if count is not None}


def read_epochs(folder: Path, count: int) -> tuple[Epoch, ...]:
    """The first `count` epochs that a training has kept in `folder`. Raises BadFileError for one that cannot be read."""
    return tuple(_read(folder / f"{number:03d}.json") for number in range(count))


def _read(path: Path) -> Epoch:
    try:
        values = parse_object(read_regular(path))
        if values.pop(DIGEST, None) not in (None, digest_of(values)):  # None: those of earlier versions
            raise ValueError("it was changed since it was saved: its digest is another")
        if "attacked" in values:  # meta-tuning's records, before they had the names of the others
            values |= {"adversarial": values.pop("attacked"), "total": 1}
        epoch = Epoch(**values | {"folder": path.with_suffix("")})  # refuses further fields, then every type is checked
        return _EPOCH.validate_python(dataclasses.asdict(epoch))
    except (OSError, ValueError, TypeError) as error:
        if isinstance(error, ValidationError):
            error = ValueError(error.errors()[0]["msg"])
        raise BadFileError(
            f"{path} is no record of an epoch that can be read ({error}); delete {path.parent.parent} to train anew"
        ) from error


def best_epoch(epochs: Sequence[Epoch], *, clean_weight: float = 0.5) -> Epoch:
    """The epoch of highest score, the earliest of equals."""
    return max(epochs, key=lambda epoch: epoch.score(clean_weight))
