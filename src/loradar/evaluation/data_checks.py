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
    names, own = list(map(_plain, source.classes)), list(map(_plain, base.classes))
    is_told = not _says_nothing(own) and (source.name == "digits" or not _says_nothing(names))
    common = set(names) & set(own)
    if is_told and not common:
        raise BadConfigError(
            f"no class of {source.name} ({source.classes[0]!r:.40}, ...) is one of the base's ({base.classes[0]!r:.40}, ...); "
            "give the data that it was made for (--data), or fit a head for these (`loradar harden --head new`)"
        )
    odd = [index for index, name in enumerate(names) if name in common and own[index] != name]
    if odd and (is_told or set(names) == set(own)):
        raise BadConfigError(
            f"class {odd[0]} is {source.classes[odd[0]]!r} in {source.name} and {base.classes[odd[0]]!r} in the base; "
            "expected one order"
        )


def _says_nothing(names: Sequence[str]) -> bool:
    """Whether names are numbers alone, as of data that has none, or ids that the base's names are not in."""
    return all(name == str(index) for index, name in enumerate(names)) or all(re.fullmatch(r"n\d{8}", n) for n in names)


def _plain(name: str) -> str:
    return " ".join(name.lower().replace("_", " ").replace("-", " ").split())


def check_unseen(card: Card, source: Source, record: dict[str, Any]) -> None:
    """Where a source has no test split, what is reported depends on seed and limit, and might have been trained on."""
    if source.test is not None or card.data.get("source") != record["source"]:
        return
    before, now = (data["splits"]["reported"]["count"] for data in (card.data, record))
    if card.data["seed"] != record["seed"] or now > before:
        raise BadDataError(
            f"adapter {card.name!r} was trained on some of these images: its reported ones are the first {before} of seed "
            f"{card.data['seed']}; use --seed {card.data['seed']} and --max-test-images {before} or less"
        )
