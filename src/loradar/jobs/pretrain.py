"""A base of one's own: ordinary training from fresh weights on any data source."""

import dataclasses
import json

import torch
from torch import Tensor

from loradar.core.files import check_place
from loradar.core.names import BASE_CONFIG, CHECKPOINT
from loradar.core.types import Images, NullProgress, Progress
from loradar.data import Source, Splits, augment, load_source, split
from loradar.evaluation import AccuracyResult, accuracy_row, everything
from loradar.jobs.config import PretrainConfig
from loradar.models import Base, new_base, pick_device, save_base, with_autocast
from loradar.training import FitSettings, clean_loss, fit


def pretrain(config: PretrainConfig, *, progress: Progress | None = None) -> AccuracyResult:
    """Trains a base and writes it to `config.out`; returns its figure on the reported images.

    The last epoch is kept: nothing is selected, so neither the validation nor the reported images had a say. A run
    that was killed goes on where its last checkpoint stands. Raises LoradarError for what the caller can mend.
    """
    progress = progress or NullProgress()
    check_place(config.out, BASE_CONFIG, "a base")
    source = load_source(config.data, size=config.size)
    splits = split(
        source, train=config.train, validation=config.validation, reported=config.max_test_images, seed=config.seed
    )
    base = _fresh(config, source, splits)
    device = pick_device(config.device)
    model = base.model.to(device).to(memory_format=torch.channels_last).train()
    fast = with_autocast(model, config.precision)

    def loss_of(indices: Tensor, seed: int) -> Tensor:
        x, y = (tensor.to(device) for tensor in splits.train.fetch(indices))
        (x,) = augment((x,), crop=config.crop, flip=config.flip, seed=seed)
        return clean_loss(fast, x, y)

    settings = _settings(config)
    # beside the folder, which is replaced as a whole at the end
    checkpoint = config.out.with_name(f"{config.out.name}.{CHECKPOINT}")
    per_epoch = max(1, len(splits.train) // settings.batch_size)
    task, shown = progress.task("pretrain", per_epoch * settings.epochs * settings.batch_size), 0
    for step in fit(
        loss_of,
        parameters=list(model.parameters()),
        state=model.state_dict(),
        count=len(splits.train),
        settings=settings,
        checkpoint=checkpoint,
        run=config.model_dump_json(exclude={"out", "device"}),
    ):
        task.advance(step.index * settings.batch_size - shown, f"epoch {step.epoch + 1}, loss {step.loss:.3f}")
        shown = step.index * settings.batch_size
    x, y = everything(splits.reported)
    row = accuracy_row(model.eval(), x, y, name="base", seed=config.seed, batch_size=config.batch_size)
    notes = {
        "recipe": json.loads(config.model_dump_json(exclude={"out", "device"})),
        "data": dict(splits.record),
        "measured": dataclasses.asdict(row),
    }
    save_base(config.out, dataclasses.replace(base, description=base.description | notes))
    checkpoint.unlink(missing_ok=True)
    return row


def _fresh(config: PretrainConfig, source: Source, splits: Splits) -> Base:
    """Fresh weights, with the normalisation of the first training images (5,000 tell enough)."""
    x, _ = splits.train.fetch(torch.arange(min(len(splits.train), 5000)))
    mean, std = _statistics(x)
    return new_base(
        config.architecture,
        num_classes=len(source.classes),
        classes=source.classes,
        input_size=tuple(x.shape[1:]),
        mean=mean,
        std=std,
        seed=config.seed,
    )


def _settings(config: PretrainConfig) -> FitSettings:
    return FitSettings(
        epochs=config.epochs,
        batch_size=config.batch_size,
        optimizer="sgd",
        learning_rate=config.learning_rate,
        weight_decay=config.weight_decay,
        schedule="one-cycle",
        seed=config.seed,
    )


def _statistics(x: Images) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation per channel, for the normalisation; a constant channel gets 1."""
    std = x.std((0, 2, 3)).clamp_min(1e-3)
    return tuple(x.mean((0, 2, 3)).tolist()), tuple(std.tolist())
