"""Times for people, and what takes them."""

import time
from collections.abc import Callable


def timed(work: Callable[[], object]) -> float:
    """Returns the seconds of the second of two calls: the first allocates and chooses kernels."""
    work()
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def duration(seconds: float) -> str:
    """Seconds for people.

    >>> [duration(s) for s in (0.4, 75, 4000, 200_000)]
    ['0 s', '1 min 15 s', '1 h 6 min', '2 d 7 h']
    """
    rest = int(seconds)
    parts: list[str] = []
    for unit, size in (("d", 86_400), ("h", 3600), ("min", 60), ("s", 1)):
        if rest >= size or (unit == "s" and not parts):
            parts.append(f"{rest // size} {unit}")
            rest %= size
    return " ".join(parts[:2])
