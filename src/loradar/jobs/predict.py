"""Classifies pictures with a base, or with an adapter plugged into it."""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from loradar.adapters import load, plug
from loradar.core.errors import BadConfigError, BadImagesError
from loradar.core.modules import check_logits, evaluating
from loradar.core.types import Images, NullProgress, Progress
from loradar.data import read_images
from loradar.evaluation import device_of
from loradar.jobs.bases import open_base_of
from loradar.jobs.config import PredictConfig
from loradar.models import open_base


@dataclass(frozen=True, kw_only=True, eq=False)
class PredictJob:
    """Pictures to classify. `model` maps images (batch, 3, *size) in [0, 1] to logits (batch, len(classes))."""

    model: nn.Module
    classes: Sequence[str]
    size: tuple[int, int]
    pictures: Sequence[Path] = ()
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
    job = open_classifier(config.base, config.adapter, device=config.device, key=config.key)
    return dataclasses.replace(job, pictures=config.pictures, top=config.top, batch_size=config.batch_size)


def open_classifier(base: str | None, adapter: Path | None, *, device: str, key: Path | None = None) -> PredictJob:
    """Opens a base, and an adapter on it, as a job without pictures; by default the base that the adapter's folder names.

    Raises LoradarError.
    """
    found = None if adapter is None else load(adapter, key=key)
    if found is not None and adapter is not None:
        opened = open_base_of(found, adapter, base, device)
    elif base is not None:
        opened = open_base(base, device)
    else:
        raise BadConfigError("base is missing; give --base, or --adapter with a folder that names its base")
    model: nn.Module = opened.model
    classes = opened.classes or tuple(str(index) for index in range(opened.num_classes))
    if found is not None:
        model = plug(model, found.to(device_of(model)))
        classes = found.card.classes or classes
    return PredictJob(model=model, classes=classes, size=opened.input_size[1:])


def probabilities(job: PredictJob, x: Images) -> Tensor:
    """Returns the softmax of the model's logits on images (batch, 3, *size): (batch, classes), float32 on the CPU.

    Raises BadConfigError where the model does not give one logit per class.
    """
    with evaluating(job.model), torch.inference_mode():
        logits = check_logits(job.model(x.to(device_of(job.model))), len(x))
    if tuple(logits.shape) != (len(x), len(job.classes)):
        raise BadConfigError(
            f"the model gives logits {tuple(logits.shape)} for {len(x)} pictures and {len(job.classes)} classes"
        )
    return logits.float().softmax(1).cpu()


def run(job: PredictJob, *, progress: Progress | None = None) -> list[Prediction]:
    """A prediction for each picture, in order.

    Raises BadDataError for a picture that cannot be read, BadImagesError where the model's output is not finite, and
    BadConfigError where it does not give one logit per class.
    """
    task = (progress or NullProgress()).task("predict", len(job.pictures))
    results = []
    for start in range(0, len(job.pictures), job.batch_size):
        chunk = job.pictures[start : start + job.batch_size]
        shares, order = probabilities(job, read_images(chunk, size=job.size)).topk(min(job.top, len(job.classes)))
        for picture, values, indices in zip(chunk, shares, order, strict=True):
            if not bool(values.isfinite().all()):
                raise BadImagesError(f"{picture}: the model's logits are not finite; check the base and the adapter")
            names = tuple((job.classes[int(i)], float(value)) for i, value in zip(indices, values, strict=True))
            results.append(Prediction(image=str(picture), classes=names))
        task.advance(len(chunk))
    return results
