"""Images to calibrate a guard on: none that an adapter was trained, selected or reported on, which is checked."""

from collections.abc import Iterable, Sequence
from typing import Any

import torch

from loradar.adapters import Card
from loradar.core.errors import BadDataError
from loradar.core.randomness import generator
from loradar.data import ImageSet, Source, Splits, split

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
    count: int,
    max_test_images: int | None,
    seed: int,
    other: Source | None = None,
) -> tuple[ImageSet, dict[str, Any]]:
    """Picks `count` images of `source` that nothing was trained or is reported on; or of `other`, which are checked.

    The record says what was picked, and which adapters' training images are unknown. Raises BadDataError where too few
    are left, or where an image of `other` was used before.
    """
    used, unknown = used_images(source, cards, max_test_images=max_test_images, seed=seed)
    candidates = (other or source).train
    names = identities(candidates)
    if other is None:
        free = torch.tensor([i for i, name in enumerate(names) if name not in used], dtype=torch.int64)
        if len(free) < count:
            raise BadDataError(
                f"{source.name}: {count} calibration images asked for, {len(free)} are neither trained nor reported on; "
                "ask for fewer (--calibration), or bring others (--calibration-data)"
            )
        order = torch.randperm(len(free), generator=generator(seed, _STREAM))[:count]
        chosen = candidates.select(free[order].sort().values)
    else:
        chosen = candidates.select(torch.arange(min(count, len(candidates))))
        _refuse_overlap(identities(chosen), used)
    record = {
        "source": (other or source).name,
        "count": len(chosen),
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
        _note(used, splits.validation, f"among those that adapter {card.name!r} was selected by")
        _note(used, splits.reported, f"among those that adapter {card.name!r} is reported on")
    return used, unknown


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
