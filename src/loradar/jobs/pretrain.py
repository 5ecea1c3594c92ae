"""A base of one's own: ordinary training from fresh weights on any data source."""

import dataclasses
import json
from dataclasses import dataclass

import torch
from torch import Tensor

from loradar.core.copying import copy_model
from loradar.core.files import check_place
from loradar.core.leases import lease
from loradar.core.names import BASE_CONFIG, CHECKPOINT
from loradar.core.types import Images, NullProgress, Progress
from loradar.data import Source, Splits, augment, fetch_all, load_source, split
from loradar.evaluation import AccuracyResult, accuracy_row, check_classes
from loradar.jobs.config import PretrainConfig
from loradar.jobs.estimate import steps_in_words
from loradar.models import Base, new_base, pick_device, save_base, skip_padding, with_autocast
from loradar.training import FitSettings, Training, clean_loss, train


@dataclass(frozen=True, kw_only=True, eq=False)
class PretrainJob:
    """A base with the weights that training starts from, and its images. `run` trains these very weights."""

    config: PretrainConfig
    base: Base
    splits: Splits


@dataclass(frozen=True, kw_only=True, eq=False)
class PretrainResult:
    """The trained base, as it was written, and its figure on the reported images."""

    base: Base
    row: AccuracyResult


def resolve(config: PretrainConfig, *, base: Base | None = None, source: Source | None = None) -> PretrainJob:
    """Opens the data and makes a base of fresh weights; nothing is written.

    `base` and `source` in memory take the place of what `config` names. Raises LoradarError.
    """
    check_place(config.out, BASE_CONFIG, "a base")
    device = pick_device(config.device)
    source = load_source(config.data, size=config.size) if source is None else source
    splits = split(
        source, train=config.train, validation=config.validation, reported=config.max_test_images, seed=config.seed
    )
    if base is None:
        base = _fresh(config, source, splits)
    check_classes(base, source)
    model = base.model.to(device).to(memory_format=torch.channels_last)
    return PretrainJob(config=config, base=dataclasses.replace(base, model=model), splits=splits)


def run(job: PretrainJob, *, progress: Progress | None = None) -> PretrainResult:
    """Trains the base and writes it to the out folder. A run that was killed continues where its last checkpoint stands.

    The last epoch is kept: nothing is selected, so neither the validation nor the reported images had a say.
    """
    with lease(job.config.out, wait=job.config.wait, progress=progress, beside=True):
        return _train(job, progress)


def _train(job: PretrainJob, progress: Progress | None) -> PretrainResult:
    config, splits, model = job.config, job.splits, job.base.model
    progress = progress or NullProgress()
    steps, few = steps_in_words(len(splits.train), _settings(config))
    for line in filter(None, (f"1 training of {steps}", few, splits.warning)):
        progress.message(line)
    device = next(model.parameters()).device
    twin = skip_padding(copy_model(model)).train()
    fast = with_autocast(twin, config.precision)

    def loss_of(indices: Tensor, seed: int) -> Tensor:
        x, y = (tensor.to(device) for tensor in splits.train.fetch(indices))
        (x,) = augment((x,), crop=config.crop, flip=config.flip, seed=seed)
        return clean_loss(fast, x, y)

    # beside the folder, which is replaced as a whole at the end
    checkpoint = config.out.with_name(f"{config.out.name}.{CHECKPOINT}")
    training = Training(
        name="pretrain",
        loss_of=loss_of,
        parameters=list(twin.parameters()),
        state=twin.state_dict(),
        count=len(splits.train),
        settings=_settings(config),
        checkpoint=checkpoint,
        run=config.model_dump_json(exclude={"out", "device"}),
    )
    train(training, progress)
    model.load_state_dict(twin.state_dict())
    x, y = fetch_all(splits.reported)
    row = accuracy_row(model.eval(), x, y, name="base", seed=config.seed, batch_size=config.batch_size)
    notes = {
        "recipe": json.loads(config.model_dump_json(exclude={"out", "device"})),
        "data": dict(splits.record),
        "measured": dataclasses.asdict(row),
    }
    base = dataclasses.replace(job.base, description=job.base.description | notes)
    save_base(config.out, base)
    checkpoint.unlink(missing_ok=True)
    return PretrainResult(base=base, row=row)


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
