"""Ranks and byte budgets as people write them. Imports no torch, so that help is instant."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, TypeAlias

from pydantic import BeforeValidator
from pydantic_core import PydanticCustomError

from loradar.core.errors import BadConfigError

_EXPECTED_RANK = 'expected N, or PATTERN=N for layers by name, separated by commas: 16, or "layer2*=32,layer4*=4"'
_EXPECTED_SIZE = "expected bytes, kB, MB, KiB or MiB: 400kB, 2.5MB or 273463"
_UNITS = {"": 1, "b": 1, "kb": 10**3, "mb": 10**6, "gb": 10**9, "kib": 2**10, "mib": 2**20, "gib": 2**30}


@dataclass(frozen=True, kw_only=True)
class RankRule:
    """The `rank` of the layers whose name matches the shell pattern; with `capped`, at most their smaller side."""

    pattern: str
    rank: int
    capped: bool = False


def parse_rank(rank: int | str | Mapping[str, int | str]) -> tuple[RankRule, ...]:
    """Returns the rules that `rank` stands for; the first whose pattern matches a layer holds for it.

    A number without a pattern holds for the layers that no pattern matches, wherever it stands. `<=N` is N, or the
    smaller side of a layer where that is less. Raises BadConfigError for anything else.

    >>> [(rule.pattern, rule.rank) for rule in parse_rank("8,layer2*=32,layer4*=4")]
    [('layer2*', 32), ('layer4*', 4), ('*', 8)]
    """
    try:
        return _rules(rank)
    except ValueError as error:
        raise BadConfigError(f"rank is {rank!r}; {error}") from error


def _rules(rank: object) -> tuple[RankRule, ...]:
    if isinstance(rank, Mapping):
        items = [(str(pattern).strip(), str(number)) for pattern, number in rank.items()]
    else:
        items = [_split(item) for item in str(rank).split(",")]
    rules: dict[str, RankRule] = {}
    for pattern, number in items:
        match = re.fullmatch(r"\s*(<=)?\s*([0-9]{1,9})\s*", number)
        if match is None or not pattern:
            raise ValueError(_EXPECTED_RANK)
        if pattern in rules:
            raise ValueError(f"expected one rank for {'all other layers' if pattern == '*' else pattern}, not two")
        rules[pattern] = RankRule(pattern=pattern, rank=int(match[2]), capped=match[1] is not None)
    if not rules:
        raise ValueError(_EXPECTED_RANK)
    return tuple(sorted(rules.values(), key=lambda rule: rule.pattern == "*"))


def _split(item: str) -> tuple[str, str]:
    pattern, equals, number = item.partition("=")
    is_alone = not equals or pattern.strip() == "<"
    return ("*", item) if is_alone else (pattern.strip(), number)


def parse_bytes(size: int | str) -> int:
    """Returns the number of bytes that `size` says: 400kB and 0.4MB are 400,000, 400KiB are 409,600.

    Raises BadConfigError for anything else, and for less than one byte.

    >>> parse_bytes("2.5MB")
    2500000
    """
    try:
        return _bytes(size)
    except ValueError as error:
        raise BadConfigError(f"{size!r} is no size; {error}") from error


def _bytes(size: object) -> int:
    match = re.fullmatch(r"\s*([0-9]{1,15}(?:\.[0-9]{1,6})?)\s*([A-Za-z]*)\s*", str(size))
    if (
        match is None
        or match[2].lower() not in _UNITS
        or not (count := round(float(match[1]) * _UNITS[match[2].lower()]))
    ):
        raise ValueError(_EXPECTED_SIZE)
    return count


def _read_rank(value: object) -> object:
    if isinstance(value, Mapping):  # in a file
        value = ",".join(f"{pattern}={number}" for pattern, number in value.items())
    try:
        rules = _rules(value)
    except ValueError as error:
        raise PydanticCustomError("rank", "{reason}", {"reason": str(error)}) from error
    if not any(rule.rank for rule in rules):
        raise PydanticCustomError("rank", "expected 1 or more")
    is_plain = rules == (RankRule(pattern="*", rank=rules[0].rank),)
    return rules[0].rank if is_plain else str(value)


def _read_bytes(value: object) -> object:
    try:
        return _bytes(value)
    except ValueError as error:
        raise PydanticCustomError("bytes", "{reason}", {"reason": str(error)}) from error


def check_one_of(*, rank: object, max_bytes: object) -> None:
    """Raises PydanticCustomError unless exactly one of a schema's two settings is given."""
    if rank is not None and max_bytes is not None:
        raise PydanticCustomError("both", "rank and max_bytes are both given; expected one of the two")
    if rank is None and max_bytes is None:
        raise PydanticCustomError("neither", "rank is None; expected a rank, or max_bytes")


Rank: TypeAlias = Annotated[int | str, BeforeValidator(_read_rank)]
"""A rank for all layers, or several by patterns of names, as text (see `parse_rank`)."""
Bytes: TypeAlias = Annotated[int, BeforeValidator(_read_bytes)]
"""A number of bytes, with a unit or without (see `parse_bytes`)."""
