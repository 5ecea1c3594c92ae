"""What torchrun says, in the environment, of the processes that it starts together. Imports no torch."""

import os
from dataclasses import dataclass

from loradar.core.errors import BadConfigError


@dataclass(frozen=True, kw_only=True)
class Place:
    """A process among `size` that were started together: its number, and its number on its own machine."""

    rank: int = 0
    local_rank: int = 0
    size: int = 1


def launched() -> Place:
    """Returns the place of this process, which is alone unless WORLD_SIZE says otherwise.

    Raises BadConfigError where the variables of torchrun are missing or no numbers.

    >>> launched()
    Place(rank=0, local_rank=0, size=1)
    """
    size = _number("WORLD_SIZE") if "WORLD_SIZE" in os.environ else 1
    if size < 2:
        return Place()
    return Place(rank=_number("RANK"), local_rank=_number("LOCAL_RANK"), size=size)


def _number(name: str) -> int:
    text = os.environ.get(name, "")
    if not (text.isascii() and text.isdigit()):
        raise BadConfigError(
            f"the environment has {name}={text[:80]!r}; expected a number, as torchrun sets it: start with torchrun, or unset "
            "WORLD_SIZE"
        )
    return int(text)
