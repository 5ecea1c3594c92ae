"""Images to calibrate a guard on: none that an adapter was trained or is reported on, which is checked."""

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor

from loradar.adapters import Card
from loradar.core.errors import BadDataError
from loradar.core.randomness import generator
from loradar.data import ImageSet, Source, Splits, split

MOST = 500
"""Calibration images unless a count is given."""
_SELECTED = " was selected by"
_STREAM = 0xCA1B


def identities(images: ImageSet) -> list[str]:
    """Identifies each image by a hash, or by its place in its split where the set is too large to hash."""
    digests = images.digests()
    if digests is None:
        return [f"{images.name}:{index}" for index in images.origin.tolist()]
    return [digest.hex() for digest in digests]


def calibration_split(
    source: Source,
    cards: Sequence[Card],
    *,
    count: int | None,
    max_test_images: int | None,
    seed: int,
    other: Source | None = None,
) -> tuple[ImageSet, dict[str, Any]]:
    """Picks `count` images of `source` that nothing was trained or is reported on; or of `other`, which are checked.

    Without a count, as many as there are, up to MOST. Images that nothing used at all come first; where they are too few,
    images that adapters were selected by fill up: a choice among a few epochs leaves them nearly as good as new, which
    training does not. The record says what was picked, how many of these there are among them (`selected_by`), and which
    adapters' training images are unknown. Raises BadDataError where too few are left, or where an image of `other` was
    used before.
    """
    used, unknown = used_images(source, cards, max_test_images=max_test_images, seed=seed)
    candidates = (other or source).train
    names = identities(candidates)
    selected = 0
    if other is None:
        free = _shuffled([i for i, name in enumerate(names) if name not in used], seed)
        spare = _shuffled([i for i, name in enumerate(names) if used.get(name, "").endswith(_SELECTED)], seed)
        there = len(free) + len(spare)
        if there < (count or 1):
            raise BadDataError(
                f"{source.name}: {count or 'no'} calibration images asked for, {there} are neither trained nor reported on; "
                "ask for fewer (--calibration), or bring others (--calibration-data)"
            )
        picked = torch.cat([free, spare])[: count or MOST]
        selected = max(0, len(picked) - len(free))
        chosen = candidates.select(picked.sort().values)
    else:
        # a folder is ordered by class: its first images would be of a few classes
        chosen = candidates.select(_shuffled(range(len(candidates)), seed)[: count or MOST].sort().values)
        _refuse_overlap(identities(chosen), used)
    record = {
        "source": (other or source).name,
        "count": len(chosen),
        "selected_by": selected,
        "seed": seed,
        "fingerprint": chosen.fingerprint,
        "unchecked": unknown,
    }
    return chosen, record


def used_images(
    source: Source, cards: Sequence[Card], *, max_test_images: int | None, seed: int
) -> tuple[dict[str, str], list[str]]:
    """Lists what every used image was used for, by identity; and the adapters whose images are unknown."""
    used: dict[str, str] = {}
    unknown = []
    selected: list[tuple[ImageSet, str]] = []
    reported = source.test
    if reported is None:
        reported = split(source, reported=max_test_images, train=1, validation=1, seed=seed).reported
    _note(used, reported, "reported on")
    for card in cards:
        splits = _splits_of(card, source)
        if splits is None:
            unknown.append(card.name)
            continue
        _note(used, splits.train, f"among those that adapter {card.name!r} was trained on")
        _note(used, splits.reported, f"among those that adapter {card.name!r} is reported on")
        selected.append((splits.validation, f"among those that adapter {card.name!r}{_SELECTED}"))
    for images, what in selected:  # last: an image that another adapter was trained on counts as that
        _note(used, images, what)
    return used, unknown


def _shuffled(rows: Iterable[int], seed: int) -> Tensor:
    """The rows in an order that `seed` draws."""
    found = torch.tensor(list(rows), dtype=torch.int64)
    return found[torch.randperm(len(found), generator=generator(seed, _STREAM))]


def refuse_calibrated(reported: ImageSet, digests: Iterable[str]) -> None:
    """Raises BadDataError where a guard was calibrated on an image that is to be reported."""
    known = set(digests)
    both = sum(name in known for name in identities(reported))
    if both:
        raise BadDataError(
            f"the guard was calibrated on {both} of these {len(reported)} images; report on others (its own --seed and "
            "--max-test-images keep them apart)"
        )


def _refuse_overlap(names: Sequence[str], used: dict[str, str]) -> None:
    both = [used[name] for name in names if name in used]
    if both:
        raise BadDataError(
            f"{len(both)} of {len(names)} calibration images overlap: the first is {both[0]}; expected images that are used "
            "for nothing else"
        )


def _note(used: dict[str, str], images: ImageSet, what: str) -> None:
    for name in identities(images):
        used.setdefault(name, what)


def _splits_of(card: Card, source: Source) -> Splits | None:
    """Makes the splits again that an adapter was trained with; None where its card does not lead to them."""
    data = card.data
    if data.get("fingerprints", {}).get("train") != source.train.fingerprint:
        return None
    counts = {name: part["count"] for name, part in data["splits"].items()}
    again = split(source, **counts, seed=data["seed"])
    same = all(again.record["splits"][name]["fingerprint"] == data["splits"][name]["fingerprint"] for name in counts)
    return again if same else None
