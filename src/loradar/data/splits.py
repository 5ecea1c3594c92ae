"""Three disjoint sets: to train on, to choose a checkpoint by, and to report on."""

import hashlib
import math
from collections import Counter
from dataclasses import dataclass, field
from itertools import combinations
from typing import Any

import torch
from torch import Tensor

from loradar.core.errors import BadDataError
from loradar.core.randomness import generator
from loradar.core.types import Labels
from loradar.data.images import ImageSet
from loradar.data.source import Source

_MOST_VALIDATION = 1000
_MOST_REPORTED = 1000


@dataclass(frozen=True, kw_only=True, eq=False)
class Splits:
    """No image of the source is in two of them. `record` says how they came about, and can be written as JSON."""

    train: ImageSet
    validation: ImageSet
    reported: ImageSet
    record: dict[str, Any] = field(default_factory=dict)
    warning: str = ""
    """One line where a class has fewer images than there are sets to fill, "" else."""


def split(
    source: Source,
    *,
    train: int | None = None,
    validation: int | None = None,
    reported: int | None = None,
    seed: int = 0,
) -> Splits:
    """Split `source` into three disjoint sets; the counts are numbers of images.

    Args:
        source: The source.
        train: Training images; by default all that are left.
        validation: Images to choose a checkpoint by; by default a tenth of those that are not reported, at most 1,000.
        reported: Images that figures are reported on. By default, all of a test split up to 1,000; without a test split
            a fifth of the images.
        seed: What is drawn depends on it.

    Returns:
        The sets and their record. With a test split, `reported` is its first images in their original order, or, where
        the split is ordered by class (as folders are), the first of each class in proportion; validation and training
        images are drawn from the training split by `seed`. Without one, all three are drawn by `seed`, each class in
        proportion. For one seed, and one `reported` where there is no test split, the validation images are the same
        whatever `train` is. The record's `duplicates` counts images of the second set that are also, byte for byte as
        stored, in the first; None where a set is too large to be held.

    Raises:
        BadDataError: For a set that would be empty, or larger than there are images.
    """
    test = source.test
    if test is None:
        total = len(source.train)
        _refuse_few(source, total, 3, train, validation, reported)
        count = math.ceil(total / 5) if reported is None else reported
        _check("reported", count, total, source.name)
        order = _stratified(source.train.labels, seed)
        held, rest = source.train.select(order[:count].sort().values), order[count:]
    else:
        _refuse_few(source, len(source.train), 2, train, validation)
        count = min(_MOST_REPORTED, len(test)) if reported is None else reported
        _check("reported", count, len(test), source.name)
        held = test.select(_first(test.labels, count))
        rest = torch.randperm(len(source.train), generator=generator(seed))
    checked = max(1, min(_MOST_VALIDATION, len(rest) // 10)) if validation is None else validation
    _check("validation", checked, len(rest), source.name)
    trained = len(rest) - checked if train is None else train
    _check("training", trained, len(rest) - checked, source.name)
    sets = {
        "train": source.train.select(rest[checked : checked + trained]),
        "validation": source.train.select(rest[:checked]),
        "reported": held,
    }
    return Splits(**sets, record=_record(source, sets, seed), warning=_scarce(source, sets["train"].labels))


def _scarce(source: Source, trained: Labels) -> str:
    """Say which classes have fewer images than sets need, and how many of these have none to train on."""
    needed, purpose = (2, "") if source.test is not None else (3, " and one to report on")
    counts = torch.bincount(source.train.labels, minlength=len(source.classes)).tolist()
    left = torch.bincount(trained, minlength=len(source.classes)).tolist()
    scarce = [index for index, count in enumerate(counts) if count < needed]
    if not scarce:
        return ""
    shown = ", ".join(f"{source.classes[index]!r} {counts[index]}" for index in scarce[:3])
    untrained = sum(left[index] == 0 for index in scarce)
    return (
        f"warning: {len(scarce)} of {len(counts)} classes have too few images ({shown}{', ...' if scarce[3:] else ''}), "
        f"{untrained} of them none to train on; expected at least {needed} of each class: one to train on, one to choose a "
        f"checkpoint by{purpose}"
    )


def _refuse_few(source: Source, there: int, sets: int, *counts: int | None) -> None:
    """Raise where no counts were asked for, and there is not an image for each set."""
    if there < sets and all(count is None for count in counts):
        where, third = ("", " and one to report on") if sets == 3 else (" in the training split", "")
        raise BadDataError(
            f"{source.name}: {there} images{where} are too few to split; expected at least {sets}: one to train on, one to "
            f"choose a checkpoint by{third}"
        )


def _check(what: str, count: int, there: int, name: str) -> None:
    if not 1 <= count <= there:
        raise BadDataError(
            f"{name}: {count} {what} images asked for, {there} are there to choose from; "
            + (f"expected 1 to {there}" if there else "bring more images, or ask for fewer in the other splits")
        )


def _first(labels: Labels, count: int) -> Tensor:
    """The first `count` images; in a split that is ordered by class, the first of each class in proportion."""
    known, sizes = torch.unique(labels, return_counts=True)
    if len(torch.unique_consecutive(labels)) > len(known):
        return torch.arange(count)
    place = torch.empty(len(labels), dtype=torch.float64)
    for label, size in zip(known, sizes, strict=True):
        place[labels == label] = (torch.arange(int(size), dtype=torch.float64) + 0.5) / size
    return place.argsort(stable=True)[:count].sort().values


def _stratified(labels: Labels, seed: int) -> Tensor:
    """An order of which every beginning, and so every stretch, has the classes in proportion, to about one image."""
    draws = generator(seed)
    place = torch.empty(len(labels), dtype=torch.float64)
    for label in torch.unique(labels):
        own = (labels == label).nonzero().squeeze(1)
        # images of a class of n stand 1/n apart, from a random beginning
        ranks = torch.randperm(len(own), generator=draws).double()
        place[own] = (ranks + torch.rand(1, generator=draws).double()) / len(own)
    return place.argsort(stable=True)


def _record(source: Source, sets: dict[str, ImageSet], seed: int) -> dict[str, Any]:
    test = source.test
    return {
        "source": source.name,
        "fingerprints": {"train": source.train.fingerprint, "test": None if test is None else test.fingerprint},
        "classes": len(source.classes),
        "seed": seed,
        "splits": {name: _describe(images) for name, images in sets.items()},
        "duplicates": _duplicates(sets),
    }


def _describe(images: ImageSet) -> dict[str, Any]:
    return {
        "from": images.name,
        "count": len(images),
        "indices_sha256": hashlib.sha256(images.origin.numpy().astype("<i8").tobytes()).hexdigest(),
        "fingerprint": images.fingerprint,
    }


def _duplicates(sets: dict[str, ImageSet]) -> dict[str, int] | None:
    digests = {name: images.digests() for name, images in sets.items()}
    counts = {name: Counter(found) for name, found in digests.items() if found is not None}
    if len(counts) < len(sets):
        return None
    return {
        f"{first}-{second}": sum(n for digest, n in counts[second].items() if digest in counts[first])
        for first, second in combinations(sets, 2)
    }
