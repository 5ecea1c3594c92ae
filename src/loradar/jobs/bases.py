"""A base made to fit the data: run at another size, some of its classes picked by name, or a new head fitted."""

import dataclasses
from collections.abc import Iterable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from loradar.adapters import Adapter, feature_extractor, find_head, fingerprint, merge_weights
from loradar.adapters.fits import check_base
from loradar.core.errors import BadConfigError, BadDataError, BadFileError, LoradarError
from loradar.core.modules import unwrap
from loradar.core.names import ADAPTER_CONFIG
from loradar.core.remote import find_file, local_folder
from loradar.core.specs import split_spec
from loradar.core.types import NullProgress, Progress
from loradar.data import ImageSet, Source
from loradar.evaluation import check_classes, device_of
from loradar.evaluation.data_checks import indices_by_name, plain_name
from loradar.fewshot.fit import base_of_task, open_task
from loradar.models import Base, Normalized, new_base, open_base

Head = Literal["auto", "new"]
HEAD_IMAGES = 5000
"""Training images that a new head is fitted on at most."""


def open_model(spec: str, device: str) -> Base:
    """Opens a base, or the task that `few-shot fit` wrote into the folder `spec`, plugged: it answers the task's classes."""
    folder = _task(spec)
    if folder is None:
        return open_base(spec, device)
    adapter = open_task(folder)
    base = open_base(base_of_task(folder, adapter), device)
    classes = adapter.card.classes
    model = merge_weights(base.model, adapter.to(device_of(base.model)))
    assert isinstance(model, Normalized), "a copy of the base's own kind"
    description = base.description | {"task": folder.name, "classes": list(classes), "num_classes": len(classes)}
    return dataclasses.replace(base, model=model, num_classes=len(classes), classes=classes, description=description)


def open_base_of(adapter: Adapter, place: Path | str, base: str | None, device: str) -> Base:
    """Opens `base`, or the one that the adapter's folder `place` names, at the size of the images it was trained on.

    Raises LoradarError; a base that has that size already is not compared with the adapter here.
    """
    if base is not None:
        opened = open_base(base, device)
    else:
        spec = base_of_task(place, adapter)
        try:
            opened = open_base(spec, device)
        except LoradarError as error:
            raise BadFileError(f"{place} names its base {spec!r}: {error}; or give the base with --base") from error
    size = size_of([adapter])
    if size not in (None, opened.input_size[1:]):
        check_base(adapter, fingerprint(opened.model))  # another base might refuse the size, which would be no help
    return at_size(opened, size)


def size_of(adapters: Iterable[Adapter]) -> tuple[int, int] | None:
    """Height and width of the images that `adapters` were trained on; None where they do not say, as tasks do not.

    Raises BadConfigError where they differ, BadFileError for what is no size.
    """
    sizes = {_size_of(one) for one in adapters if one.card.data.get("input_size") is not None}
    if len(sizes) > 1:
        shown = " and ".join(sorted("x".join(map(str, size)) for size in sizes))
        raise BadConfigError(f"the adapters were trained on images of {shown}; give --size, or measure them apart")
    return next(iter(sizes), None)


def _size_of(adapter: Adapter) -> tuple[int, int]:
    match adapter.card.data["input_size"]:
        case [int(channels), int(height), int(width)] if min(channels, height, width) > 0:
            return height, width
        case other:
            raise BadFileError(
                f"adapter {adapter.card.name!r}: its record has input_size {other!r:.60}; expected [channels, height, width]"
            )


def unseen_by(spec: str, data: str, source: Source) -> Source:
    """Returns `source` as what to measure the model `spec` on: nothing of a task's was trained on, so all of it counts.

    Raises BadDataError for the images that a task was fitted on.
    """
    folder = _task(spec)
    if folder is None:
        return source
    support = str(open_task(folder).card.data.get("support", ""))
    # the same folder by another path too
    if support and Path(support).resolve() == Path(data).resolve():
        raise BadDataError(
            f"{folder} was fitted on the images of {data}, which says little of it; give others with --data"
        )
    if source.test is not None:
        return source
    return dataclasses.replace(source, splits={"train": lambda: source.train, "test": lambda: source.train})


def _task(spec: str) -> Path | None:
    """The folder of an adapter, if `spec` is one."""
    with suppress(OSError):  # of a folder that may not be read, the base's own line says so
        place, _ = split_spec(spec)
        return local_folder(place) if find_file(place, ADAPTER_CONFIG) else None
    return None


def at_size(base: Base, size: tuple[int, int] | None) -> Base:
    """`base` taking images of `size` (height, width). Raises BadConfigError where it cannot."""
    if size is None or base.input_size[1:] == size:
        return base
    channels = base.input_size[0]
    x = torch.zeros(1, channels, *size, device=next(base.model.parameters()).device)
    try:
        with torch.no_grad():
            base.model(x)
    except (RuntimeError, AssertionError, ValueError) as error:
        reason = (" ".join(str(error).split()) or type(error).__name__)[:120]
        raise BadConfigError(
            f"the base takes images of {base.input_size[1]}x{base.input_size[2]} and refuses {size[0]}x{size[1]} ({reason}); "
            "leave --size out, or build the base for it (timm's img_size=N)"
        ) from error
    description = base.description | {"input_size": [channels, *size]}
    return dataclasses.replace(base, input_size=(channels, *size), description=description)


def picked_classes(names: Sequence[str], known: Sequence[str]) -> list[int] | None:
    """The index in `known` of every one of `names`; None unless each has exactly one, and no two the same.

    Case, underscores and a WordNet id in front do not matter, and one of several names between commas is enough.

    >>> picked_classes(["n03028079 church", "gas_pump"], ["tench, Tinca tinca", "church, church building", "gas pump"])
    [1, 2]
    """
    found = indices_by_name(known)
    matches = [found.get(plain_name(name), set()) for name in names]
    if any(len(match) != 1 for match in matches):
        return None
    indices = [next(iter(match)) for match in matches]
    return indices if len(set(indices)) == len(indices) else None


def needs_other_head(base: Base, source: Source, head: Head) -> bool:
    """Whether `base` answers other classes than `source` has, and a head can be made for them.

    Raises BadConfigError where it cannot, or where it would take a new head that was not asked for.
    """
    if head == "auto":
        if len(source.classes) == base.num_classes:
            check_classes(base, source)
            return False
        if base.classes is None or picked_classes(source.classes, base.classes) is None:
            raise BadConfigError(
                f"{source.name} has {len(source.classes)} classes, the base {base.num_classes}, and they do not match by name; "
                "expected the same ones, or --head new, which fits a new head on the training images"
            )
    if "architecture" not in base.description:
        raise BadConfigError(
            f"{source.name} has {len(source.classes)} classes, the model {base.num_classes}; a model in memory keeps its head: "
            "give it a head for these classes"
        )
    return True


def with_head(
    base: Base, images: ImageSet, classes: Sequence[str], head: Head, *, progress: Progress | None = None
) -> Base:
    """A base with the weights of `base` and a head for `classes`: rows of its own head picked by name, or a new one.

    A new head is a logistic regression of the features of `images` (at most HEAD_IMAGES), so that the base is measured at
    its best before any adapter is trained. Raises BadConfigError for a head that is not one Linear layer.
    """
    description = base.description
    fresh = new_base(
        description["architecture"],
        num_classes=len(classes),
        classes=classes,
        input_size=base.input_size,
        mean=description["mean"],
        std=description["std"],
        **description.get("options", {}),
    )
    name = find_head(base.model)
    own, made = (unwrap(model).get_submodule(name) for model in (base.model, fresh.model))
    if not isinstance(own, torch.nn.Linear) or not isinstance(made, torch.nn.Linear):
        raise BadConfigError(
            f"the head {name} is a {type(own).__name__}; a head for other classes is made for a Linear alone"
        )
    state = unwrap(base.model).state_dict()
    target = unwrap(fresh.model).state_dict()
    with torch.no_grad():
        for key, tensor in target.items():
            if not key.startswith(f"{name}."):
                tensor.copy_(state[key])
        indices = picked_classes(classes, base.classes) if head == "auto" and base.classes else None
        if indices is not None:
            weight, bias = own.weight[indices], None if own.bias is None else own.bias[indices]
            origin = f"{len(classes)} of {base.num_classes} classes"
        else:
            weight, bias = _fitted(base, images, len(classes), progress or NullProgress())
            origin = f"a head fitted on {min(len(images), HEAD_IMAGES)} images"
        made.weight.copy_(weight)
        if made.bias is not None and bias is not None:
            made.bias.copy_(bias)
    notes = {"head": origin, "weights": description.get("weights", description.get("spec"))}
    return dataclasses.replace(fresh, description=fresh.description | notes)


def _fitted(base: Base, images: ImageSet, classes: int, progress: Progress) -> tuple[Tensor, Tensor]:
    """Weight (classes, d) and bias (classes,) of a logistic regression on the features of `images`."""
    from sklearn.linear_model import LogisticRegression  # here: it takes seconds to import

    count = min(len(images), HEAD_IMAGES)
    model = feature_extractor(base.model)
    device = next(model.parameters()).device
    task = progress.task("features for a new head", count)
    features, labels = [], []
    for rows in torch.split(torch.arange(count), 64):
        x, y = images.fetch(rows)
        features.append(model(x.to(device)).float().cpu())
        labels.append(y)
        task.advance(len(rows))
    values, targets = torch.cat(features), torch.cat(labels)
    if len(torch.unique(targets)) < classes:
        raise BadConfigError(f"only {len(torch.unique(targets))} of {classes} classes are among the training images")
    centre, scale = values.mean(0), values.std(0).clamp_min(1e-4)
    found = LogisticRegression(C=0.1, max_iter=500).fit(((values - centre) / scale).numpy(), targets.numpy())
    weight, bias = torch.from_numpy(found.coef_).float(), torch.from_numpy(found.intercept_).float()
    if classes == 2:  # one row for the second class
        weight, bias = torch.cat([-weight, weight]) / 2, torch.cat([-bias, bias]) / 2
    weight = weight / scale
    return weight, bias - weight @ centre
