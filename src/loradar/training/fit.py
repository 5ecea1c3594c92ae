"""The training loop: it yields its steps; whoever calls it draws the curves."""

import hashlib
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor
from torch.optim import SGD, Adam, AdamW, Optimizer
from torch.optim.lr_scheduler import ConstantLR, CosineAnnealingLR, LambdaLR, LRScheduler, OneCycleLR, StepLR

from loradar.core.errors import BadConfigError, BadDataError, DivergedError
from loradar.core.randomness import generator, mix
from loradar.training.averaging import WeightAverage
from loradar.training.checkpoints import load_checkpoint, save_checkpoint
from loradar.training.parallel import ALONE, World

LossOf = Callable[[Tensor, int], Tensor]
"""(indices of the batch, a seed for what is random in it) -> the loss to descend, a scalar.

In a `World` of several processes it is the mean over the process's own slice of the batch."""


@dataclass(frozen=True, kw_only=True)
class FitSettings:
    """How to descend. The defaults are those of the hardening recipe: Adam 1e-3, StepLR(10, 0.1), 10 epochs.

    `warm_up` is the number of epochs in which the rate of the cosine schedule first rises, linearly. Gradients longer than
    `max_grad_norm`, all parameters together, are shortened to it; 0 leaves them as they are.
    """

    epochs: int = 10
    batch_size: int = 128
    optimizer: Literal["adam", "adamw", "sgd"] = "adam"
    learning_rate: float = 1e-3
    weight_decay: float = 0.0
    momentum: float = 0.9
    schedule: Literal["step", "cosine", "one-cycle", "constant"] = "step"
    step_size: int = 10
    gamma: float = 0.1
    warm_up: int = 0
    nesterov: bool = True
    max_grad_norm: float = 0.0
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("epochs", "batch_size", "step_size"):
            if getattr(self, name) < 1:
                raise BadConfigError(f"{name} is {getattr(self, name)}; expected 1 or more")
        if not 0 <= self.warm_up < max(self.epochs, 1) or (self.warm_up and self.schedule != "cosine"):
            raise BadConfigError(
                f"warm_up is {self.warm_up} of {self.epochs} epochs; expected fewer than all, with the cosine schedule"
            )
        if not self.learning_rate > 0:
            raise BadConfigError(f"learning_rate is {self.learning_rate}; expected more than 0")

    def steps_per_epoch(self, count: int) -> int:
        """Whole batches in `count` images, one at least."""
        return max(1, count // self.batch_size)


@dataclass(frozen=True, kw_only=True)
class Step:
    """One step done: `index` of `total` counts from 1 through all epochs."""

    index: int
    total: int
    epoch: int
    ends_epoch: bool
    loss: float
    learning_rate: float
    images: int
    seconds: float


def fit(
    loss_of: LossOf,
    *,
    parameters: Sequence[Tensor],
    state: Mapping[str, Tensor],
    count: int,
    settings: FitSettings,
    checkpoint: Path | None = None,
    checkpoint_seconds: float = 20.0,
    run: str = "",
    average: WeightAverage | None = None,
    world: World = ALONE,
    statistics: Sequence[Tensor] = (),
) -> Iterator[Step]:
    """Descends `loss_of` over `count` images, in an order that the seed and the epoch decide.

    The last, smaller batch of an epoch is left out (its images come in other epochs). `state` names every tensor that
    moves, `parameters` those that receive gradient; an `average` is brought up to date after each step. With a
    `checkpoint`, a run that was killed goes on behind its last save and ends with the bits of one that was not; the
    epoch's end is saved after the caller has seen its step.

    The processes of a `world` take the same steps: gradients, the loss and the `statistics` (those of `state` that passes
    of the model move) are averaged over them, and the first one alone saves.

    Raises BadDataError where there is nothing to train on, BadConfigError where a batch is too small for the world,
    DivergedError where the loss is not finite, and what
    `load_checkpoint` raises.
    """
    if count < 1:
        raise BadDataError("the training split is empty; expected at least 1 image")
    if min(count, settings.batch_size) < world.size:
        raise BadConfigError(
            f"a batch has {min(count, settings.batch_size)} images for {world.size} processes; expected 1 for each at least"
        )
    per_epoch = settings.steps_per_epoch(count)
    total = per_epoch * settings.epochs
    optimizer = _optimizer(parameters, settings)
    scheduler = _scheduler(optimizer, settings, total, settings.warm_up * per_epoch)
    identity = hashlib.sha256(f"{settings!r} {count} {run}".encode()).hexdigest()[:16]
    state = {**state, **average.state} if average else state
    done = 0
    if checkpoint is not None and checkpoint.exists():
        done = load_checkpoint(checkpoint, state=state, optimizer=optimizer, scheduler=scheduler, run=identity)
    world.check_same("the steps done", [str(done)])
    world.take_first(list(state.values()))
    saved = time.monotonic()
    for index in range(done, total):
        epoch, batch = divmod(index, per_epoch)
        order = torch.randperm(count, generator=generator(settings.seed, epoch))
        indices = order[batch * settings.batch_size : (batch + 1) * settings.batch_size]
        began = time.monotonic()
        rate = optimizer.param_groups[0]["lr"]
        loss = loss_of(indices, mix(settings.seed, epoch, batch))
        optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        loss = loss.detach()
        gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
        world.average([*gradients, *statistics, loss], batch=len(indices))
        if settings.max_grad_norm:
            torch.nn.utils.clip_grad_norm_(parameters, settings.max_grad_norm)
        optimizer.step()
        if average is not None:
            average.update()
        ends_epoch = batch == per_epoch - 1
        if ends_epoch or settings.schedule in ("cosine", "one-cycle"):
            scheduler.step()
        yield Step(
            index=index + 1,
            total=total,
            epoch=epoch,
            ends_epoch=ends_epoch,
            loss=_finite(float(loss), index),
            learning_rate=rate,
            images=len(indices),
            seconds=time.monotonic() - began,
        )
        is_due = ends_epoch or time.monotonic() - saved >= checkpoint_seconds
        if checkpoint is not None and is_due and not world.rank:
            save_checkpoint(
                checkpoint, step=index + 1, state=state, optimizer=optimizer, scheduler=scheduler, run=identity
            )
            saved = time.monotonic()


def _finite(loss: float, index: int) -> float:
    if loss != loss or loss in (float("inf"), float("-inf")):
        raise DivergedError(f"the loss is {loss} at step {index + 1}; try a smaller learning_rate")
    return loss


def _optimizer(parameters: Sequence[Tensor], settings: FitSettings) -> Optimizer:
    rate, decay = settings.learning_rate, settings.weight_decay
    if settings.optimizer == "sgd":
        # gains and biases are not decayed: only matrices and kernels have two dimensions or more
        groups = [
            {"params": [p for p in parameters if p.ndim > 1], "weight_decay": decay},
            {"params": [p for p in parameters if p.ndim <= 1], "weight_decay": 0.0},
        ]
        filled = [group for group in groups if group["params"]]
        return SGD(filled, lr=rate, momentum=settings.momentum, nesterov=settings.nesterov and settings.momentum > 0)
    return (AdamW if settings.optimizer == "adamw" else Adam)(list(parameters), lr=rate, weight_decay=decay)


def _scheduler(optimizer: Optimizer, settings: FitSettings, total: int, rising: int) -> LRScheduler:
    match settings.schedule:
        case "step":
            return StepLR(optimizer, settings.step_size, settings.gamma)
        case "cosine" if rising:
            return LambdaLR(optimizer, partial(_rise_and_fall, rising=rising, total=total))
        case "cosine":
            return CosineAnnealingLR(optimizer, total)
        case "one-cycle":
            return OneCycleLR(optimizer, settings.learning_rate, total_steps=total + 1, cycle_momentum=False)
        case "constant":
            return ConstantLR(optimizer, factor=1.0)


def _rise_and_fall(step: int, *, rising: int, total: int) -> float:
    if step < rising:
        return (step + 1) / rising
    return 0.5 * (1 + math.cos(math.pi * (step - rising) / max(1, total - rising)))
