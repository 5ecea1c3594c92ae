"""Regular expressions out of others' files, matched under a bound: some take years on a short name."""

import json
import re
import subprocess
import sys
from collections.abc import Mapping, Sequence
from typing import TypeVar

from loradar.core.errors import BadFileError

V = TypeVar("V")
_SECONDS = 10.0
_LONGEST, _PAIRS = 1000, 1_000_000
# without groups and repetitions nothing is tried twice, but by the prefix of `_expression`
_SIMPLE = re.compile(r"[\w.^$|\\-]*")
_CHILD = r"""
import json, re, sys
try:
    import resource
    resource.setrlimit(resource.RLIMIT_AS, (2**30, 2**30))
except (ImportError, OSError, ValueError):
    pass
expressions, names = json.load(sys.stdin)
patterns = [re.compile(expression) for expression in expressions]
json.dump([next((i for i, p in enumerate(patterns) if p.match(name)), None) for name in names], sys.stdout)
"""


def match_names(patterns: Mapping[str, V], names: Sequence[str], what: str) -> dict[str, V]:
    """Returns the value of the first of `patterns` that matches, by name; names that none matches are left out.

    A pattern is a regular expression for the end of a dotted name, as PEFT's `get_pattern_key` takes it. One that could
    take long is matched in a process of its own. Raises BadFileError for a pattern that is none or takes more than 10 s;
    `what` is where they stand.

    >>> match_names({"conv1": 4, "layer2.*": 8}, ["layer1.conv1", "layer2.conv2", "fc"], "rank_pattern")
    {'layer1.conv1': 4, 'layer2.conv2': 8}
    """
    if not patterns or not names:
        return {}
    values = list(patterns.values())
    expressions = [rf"(.*\.)?({pattern})$" for pattern in patterns]
    is_quick = len(patterns) * len(names) <= _PAIRS and all(len(text) <= _LONGEST for text in (*patterns, *names))
    if is_quick and all(_SIMPLE.fullmatch(pattern) for pattern in patterns):
        found = _here(expressions, names, what)
    else:
        found = _bounded(expressions, names, what)
    return {name: values[index] for name, index in zip(names, found, strict=True) if index is not None}


def _here(expressions: Sequence[str], names: Sequence[str], what: str) -> list[int | None]:
    try:
        compiled = [re.compile(expression) for expression in expressions]
    except re.error as error:
        raise BadFileError(
            f"{what} has a pattern that is no regular expression ({error}); write layers' names"
        ) from error
    return [next((i for i, each in enumerate(compiled) if each.match(name)), None) for name in names]


def _bounded(expressions: Sequence[str], names: Sequence[str], what: str) -> list[int | None]:
    command = [sys.executable, "-I", "-S", "-W", "ignore", "-c", _CHILD]
    try:
        done = subprocess.run(
            command,
            input=json.dumps([expressions, names]),
            capture_output=True,
            text=True,
            timeout=_SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise BadFileError(f"{what} takes more than {_SECONDS:g} s to match; write layers' names") from error
    if done.returncode:
        reason = (done.stderr.strip().splitlines() or ["it ended"])[-1]
        raise BadFileError(f"{what} has a pattern that cannot be matched ({reason:.200}); write layers' names")
    found: list[int | None] = json.loads(done.stdout)
    return found
