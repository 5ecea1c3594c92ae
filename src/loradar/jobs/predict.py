"""Classifies pictures with a base, or with an adapter plugged into it."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from loradar.adapters import load, plug
from loradar.core.errors import BadConfigError, BadImagesError
from loradar.core.modules import check_logits, evaluating
from loradar.core.types import NullProgress, Progress
from loradar.data import read_images
from loradar.evaluation import device_of
from loradar.jobs.config import PredictConfig
from loradar.models import open_base


@dataclass(frozen=True, kw_only=True, eq=False)
class PredictJob:
    """Pictures to classify. `model` maps images (batch, 3, *size) in [0, 1] to logits (batch, len(classes))."""

    model: nn.Module
    classes: Sequence[str]
    size: tuple[int, int]
    pictures: Sequence[Path]
    top: int = 1
    batch_size: int = 64


@dataclass(frozen=True, kw_only=True)
class Prediction:
    """The most probable classes of a picture, the best first, each with its softmax probability."""

    image: str
    classes: tuple[tuple[str, float], ...]


def resolve(config: PredictConfig) -> PredictJob:
    """Opens the base and the adapter. Raises LoradarError."""
    if config.key is not None and config.adapter is None:
        raise BadConfigError("a key is for the signature of an adapter; give --adapter, or leave --key out")
    base = open_base(config.base, config.device)
    model: nn.Module = base.model
    classes = base.classes or tuple(str(index) for index in range(base.num_classes))
    if config.adapter is not None:
        adapter = load(config.adapter, key=config.key).to(device_of(model))
        model = plug(model, adapter)
        classes = adapter.card.classes or classes
    return PredictJob(
        model=model,
        classes=classes,
        size=base.input_size[1:],
        pictures=config.pictures,
        top=config.top,
        batch_size=config.batch_size,
    )


def run(job: PredictJob, *, progress: Progress | None = None) -> list[Prediction]:
    """A prediction for each picture, in order.

    Raises BadDataError for a picture that cannot be read, BadImagesError where the model's output is not finite, and
    BadConfigError where it does not give one logit per class.
    """
    task = (progress or NullProgress()).task("predict", len(job.pictures))
    results = []
    for start in range(0, len(job.pictures), job.batch_size):
        chunk = job.pictures[start : start + job.batch_size]
        x = read_images(chunk, size=job.size).to(device_of(job.model))
        with evaluating(job.model), torch.inference_mode():
            logits = check_logits(job.model(x), len(x))
        if tuple(logits.shape) != (len(chunk), len(job.classes)):
            raise BadConfigError(
                f"the model gives logits {tuple(logits.shape)} for {len(chunk)} pictures and {len(job.classes)} classes"
            )
        shares, order = logits.float().softmax(1).cpu().topk(min(job.top, len(job.classes)))
        for picture, values, indices in zip(chunk, shares, order, strict=True):
            if not bool(values.isfinite().all()):
                raise BadImagesError(f"{picture}: the model's logits are not finite; check the base and the adapter")
            names = tuple((job.classes[int(i)], float(value)) for i, value in zip(indices, values, strict=True))
            results.append(Prediction(image=str(picture), classes=names))
        task.advance(len(chunk))
    return results
