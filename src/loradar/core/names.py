"""Names of the files that loradar writes, in one place, and which names of users' own can be one."""

import os
from collections.abc import Iterable
from pathlib import Path

from loradar.core.errors import BadConfigError

ADAPTER_WEIGHTS, ADAPTER_CONFIG, ADAPTER_RECORD = "adapter_model.safetensors", "adapter_config.json", "loradar.json"
"""An adapter's folder: factors and modules trained whole, PEFT's settings, and the card."""
BASE_WEIGHTS, BASE_CONFIG = "model.safetensors", "config.json"
GUARD_TENSORS, GUARD_RECORD = "guard.safetensors", "guard.json"
REPORT = "report.json"
RUN = "run.json"
"""The settings of the run that an out folder belongs to."""
CHECKPOINT = "checkpoint.safetensors"
SIGNATURE = "signature.json"
"""Who saved a folder, of an adapter or a guard; no digest covers it."""
_LONGEST = 200
"""Bytes: with what is put before and behind it, a name stays within the 255 that most disks take."""


def check_names(names: Iterable[str], what: str) -> None:
    """Raises BadConfigError for a name that no folder can have, or that would lead out of the folder it is put in.

    `what` is what is called so, as in "an adapter".

    >>> check_names(["../x"], "an adapter")
    Traceback (most recent call last):
    ...
    loradar.core.errors.BadConfigError: an adapter is called '../x'; expected a name that a folder can have
    """
    for name in names:
        try:
            is_long = len(os.fsencode(name)) > _LONGEST
        except UnicodeEncodeError:
            is_long = True
        if is_long or name in ("", ".", "..") or Path(name).name != name or "\0" in name:
            raise BadConfigError(f"{what} is called {name!r:.80}; expected a name that a folder can have")
