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


@dataclass(frozen=True, kw_only=True, eq=False)
class Splits:
    """No image of the source is in two of them. `record` says how they came about, and can be written as JSON."""

    train: ImageSet
    validation: ImageSet
    reported: ImageSet
    record: dict[str, Any] = field(default_factory=dict)


def split(
    source: Source,
    *,
    train: int | None = None,
    validation: int | None = None,
    reported: int | None = None,
    seed: int = 0,
) -> Splits:
    """Splits `source` into three; the counts are numbers of images.

    With a test split, `reported` is its first images in their original order (500 for the usual figures; all by default),
    and validation and training images are drawn from the training split by `seed`. Without one, all three are drawn by
    `seed`, each class in proportion; `reported` is then a fifth by default. `validation` is by default a tenth of the
    images that are not reported, at most 1,000; `train` all that are left. For one seed, and one `reported` where there is
    no test split, the validation images are the same whatever `train` is.

    The record's `duplicates` counts images of the second set that are also, byte for byte as stored, in the first; None
    where a set is too large to be held. Raises BadDataError for a set that would be empty, or larger than there are images.
    """
    test = source.test
    if test is None:
        total = len(source.train)
        count = math.ceil(total / 5) if reported is None else reported
        _check("reported", count, total, source.name)
        order = _stratified(source.train.labels, seed)
        held, rest = source.train.select(order[:count].sort().values), order[count:]
    else:
        count = len(test) if reported is None else reported
        _check("reported", count, len(test), source.name)
        held = test.select(torch.arange(count))
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
    return Splits(**sets, record=_record(source, sets, seed))


def _check(what: str, count: int, there: int, name: str) -> None:
    if not 1 <= count <= there:
        raise BadDataError(
            f"{name}: {count} {what} images asked for, {there} are there to choose from; "
            + (f"expected 1 to {there}" if there else "bring more images, or ask for fewer in the other splits")
        )


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
