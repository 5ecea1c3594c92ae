"""Names of the files that loradar writes, in one place, and which names of users' own can be one."""

import os
import re
import unicodedata
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

_DEVICE = re.compile(r"(con|prn|aux|nul|com[0-9¹²³]|lpt[0-9¹²³])\s*(\..*)?", re.IGNORECASE)
"""Names that are devices under Windows, with whatever suffix."""


def check_names(names: Iterable[str], what: str) -> None:
    """Raises BadConfigError for a name that no folder can have, or that would lead out of the folder it is put in.

    Folders are copied to other disks, so a name must be possible on all of them, and two must differ by more than case or
    Unicode's form. `what` is what is called so, as in "an adapter".

    >>> check_names(["../x"], "an adapter")
    Traceback (most recent call last):
    ...
    loradar.core.errors.BadConfigError: an adapter is called '../x'; expected a name that a folder can have
    """
    found: dict[str, str] = {}
    for name in names:
        try:
            is_long = len(os.fsencode(name)) > _LONGEST
        except UnicodeEncodeError:
            is_long = True
        if is_long or Path(name).name != name or not _is_portable(name):
            raise BadConfigError(f"{what} is called {name!r:.80}; expected a name that a folder can have")
        same = found.setdefault(unicodedata.normalize("NFKC", name).casefold(), name)
        if same != name:
            raise BadConfigError(
                f"{what} is called {name!r:.80} and another one {same!r:.80}, which is the same folder on some disks; "
                "give one of them another name"
            )


def _is_portable(name: str) -> bool:
    odd = any(letter in '<>:"/\\|?*' or unicodedata.category(letter) == "Cc" for letter in name)
    return bool(name) and name[-1] not in " ." and not odd and not _DEVICE.fullmatch(name)
