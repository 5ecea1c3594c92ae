"""Whether data and models belong together: classes in one order, and nothing reported that was trained on."""

from typing import Any

from loradar.adapters import Card
from loradar.core.errors import BadConfigError, BadDataError
from loradar.data import Source
from loradar.models import Base


def check_classes(base: Base, source: Source) -> None:
    """Raises BadConfigError where labels of `source` cannot be answers of `base`: another number, or another order."""
    if not base.num_classes:
        raise BadConfigError(
            "the base has no head, so it answers nothing; add num_classes=N to its name for a fresh one, fit one with "
            "`loradar harden --head new`, or use it for few-shot tasks"
        )
    if len(source.classes) != base.num_classes:
        raise BadConfigError(
            f"{source.name} has {len(source.classes)} classes, the base {base.num_classes}; expected the same ones"
        )
    names = base.classes or source.classes
    if set(names) == set(source.classes) and tuple(names) != tuple(source.classes):
        odd = next(i for i, name in enumerate(names) if name != source.classes[i])
        raise BadConfigError(
            f"class {odd} is {source.classes[odd]!r} in {source.name} and {names[odd]!r} in the base; expected one order"
        )


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
