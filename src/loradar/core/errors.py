"""What a user did wrong, in one line: what it was, what was expected, how to mend it."""

import difflib
from collections.abc import Iterable


class LoradarError(Exception):
    """Any mistake that the caller can mend. The command line prints its one line and exits with 2."""


class BadImagesError(LoradarError, ValueError):
    """Images or labels outside their contract."""


class BadConfigError(LoradarError, ValueError):
    """A setting that does not exist or does not fit."""


class DivergedError(BadConfigError):
    """A training whose loss is no longer a finite number."""


class BadDataError(LoradarError, ValueError):
    """A data source that cannot be read, or a split that is empty."""


class BadTargetError(LoradarError, ValueError):
    """A layer that does not exist, or that a low-rank delta cannot be put on."""


class BadFileError(LoradarError, ValueError):
    """A file that is truncated, tampered with, of a kind that we refuse, or that could not be written."""


class WrongBaseError(LoradarError, ValueError):
    """An adapter and a base that do not belong together."""


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """The near misses of `name` among `known`, as the end of an error's line.

    >>> did_you_mean("layer5", ["layer1", "layer2", "fc"])
    "did you mean 'layer2' or 'layer1'?"
    >>> did_you_mean("xyz", ["fc"])
    "known: 'fc'"
    """
    names = list(known)
    near = difflib.get_close_matches(name, names, n=3, cutoff=0.6)
    if near:
        return "did you mean " + " or ".join(repr(n) for n in near) + "?"
    shown = ", ".join(repr(n) for n in names[:12])
    return f"known: {shown}" + (f" and {len(names) - 12} more" if len(names) > 12 else "")
