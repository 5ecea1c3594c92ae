"""Whether data and models belong together: classes in one order, and nothing reported that was trained on."""

import re
from collections.abc import Sequence
from typing import Any

from loradar.adapters import Card
from loradar.core.errors import BadConfigError, BadDataError
from loradar.data import Source
from loradar.models import Base


def check_classes(base: Base, source: Source) -> None:
    """Raises BadConfigError where labels of `source` cannot be answers of `base`.

    That is another number of classes, no name in common, or another order. Numbers and WordNet ids tell nothing.
    """
    if not base.num_classes:
        raise BadConfigError(
            "the base has no head, so it answers nothing; add num_classes=N to its name for a fresh one, fit one with "
            "`loradar harden --head new`, or use it for few-shot tasks"
        )
    if len(source.classes) != base.num_classes:
        raise BadConfigError(
            f"{source.name} has {len(source.classes)} classes, the base {base.num_classes}; expected the same ones, or an "
            "adapter with a head of its own (`loradar harden --head new`)"
        )
    if base.classes is None:
        return
    places = indices_by_name(base.classes)
    met = {index: places[name] for index, name in enumerate(map(plain_name, source.classes)) if name in places}
    is_told = not _says_nothing(base.classes) and (source.name == "digits" or not _says_nothing(source.classes))
    if is_told and not met:
        raise BadConfigError(
            f"no class of {source.name} ({source.classes[0]!r:.40}, ...) is one of the base's ({base.classes[0]!r:.40}, ...); "
            "give the data that it was made for (--data), or fit a head for these (`loradar harden --head new`)"
        )
    odd = [index for index, found in met.items() if index not in found]
    if odd and (is_told or len(met) == len(base.classes)):
        raise BadConfigError(
            f"class {odd[0]} is {source.classes[odd[0]]!r} in {source.name} and {base.classes[odd[0]]!r} in the base; "
            "expected one order"
        )


def indices_by_name(known: Sequence[str]) -> dict[str, set[int]]:
    """Returns where each plain name stands in `known`; of several names between commas, each counts."""
    found: dict[str, set[int]] = {}
    for index, several in enumerate(known):
        for name in {plain_name(several), *map(plain_name, several.split(","))} - {""}:
            found.setdefault(name, set()).add(index)
    return found


def plain_name(name: str) -> str:
    """Returns a class's name without case, underscores, and a WordNet id in front."""
    return " ".join(re.sub(r"^n\d{8}\b", "", name.lower().replace("_", " ").replace("-", " ")).split())


def _says_nothing(names: Sequence[str]) -> bool:
    """Whether names are numbers alone, as of data that has none, or WordNet ids, which a base may not know."""
    return all(name == str(index) for index, name in enumerate(names)) or not any(map(plain_name, names))


def divided_by(card: Card, source: Source) -> bool:
    """Whether the training that `card` tells of took its reported images from those of `source`, which has no test split.

    False of a task and of a pool's member, which divide nothing.
    """
    return source.test is None and card.data.get("source") == source.name and "splits" in card.data


def check_unseen(card: Card, source: Source, record: dict[str, Any]) -> None:
    """Where a source has no test split, what is reported depends on seed and limit, and might have been trained on."""
    if not divided_by(card, source):
        return
    before, now = (data["splits"]["reported"]["count"] for data in (card.data, record))
    if card.data["seed"] != record["seed"] or now > before:
        raise BadDataError(
            f"adapter {card.name!r} was trained on some of these images: its reported ones are the first {before} of seed "
            f"{card.data['seed']}; use --seed {card.data['seed']} and --max-test-images {before} or less"
        )
