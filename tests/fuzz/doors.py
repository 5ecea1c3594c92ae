"""Every door that a user's input comes in by: what comes in, and what must hold of what is let in.

A door is entered by the function that the command line calls. It returns where the input was accepted and everything held of
it, raises LoradarError where it was refused, and Wrong where it was accepted and something did not hold.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hypothesis import strategies as st

from loradar.core.errors import LoradarError


class Wrong(Exception):  # noqa: N818
    """An input was accepted and is not what it was taken for."""


@dataclass(frozen=True)
class Door:
    """`enter(input, folder)` may write below the folder; `share` is how many of the inputs are this door's, in parts."""

    inputs: st.SearchStrategy[Any]
    enter: Callable[[Any, Path], object]
    share: int = 2


@contextmanager
def held() -> Iterator[None]:
    """What is refused within is wrong: it was accepted before."""
    try:
        yield
    except LoradarError as error:
        raise Wrong(f"accepted, then refused: {error}") from error


def require(holds: object, what: str) -> None:
    if not holds:
        raise Wrong(what)
