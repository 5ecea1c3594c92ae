"""Names of models and versions, which stand in addresses."""

import re
from pathlib import Path

from loradar.core.errors import BadConfigError

_NAME = r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}"
_GIVEN = re.compile(rf"({_NAME})(?:@({_NAME}))?=(.+)", re.DOTALL)


def read_place(given: str) -> tuple[str, str, str]:
    """Splits `[NAME[@VERSION]=]PLACE` into name, version ("" for none) and place; the place names what has no name.

    >>> read_place("digits@v2=runs/guard"), read_place("runs/guard"), read_place("timm:resnet18:pretrained=false")
    (('digits', 'v2', 'runs/guard'), ('guard', '', 'runs/guard'), ('timm-resnet18', '', 'timm:resnet18:pretrained=false'))
    """
    if match := _GIVEN.fullmatch(given):
        return match[1], match[2] or "", match[3]
    spec = re.match(r"(timm|torchvision|hub):[^:]+", given)
    name = re.sub(r"[^A-Za-z0-9._-]+", "-", spec[0] if spec else Path(given).name or Path(given).resolve().name)
    return check_name(name.strip("-.")[:64] or "model", "a model"), "", given


def check_name(name: str, what: str) -> str:
    """Returns `name`, of a model or a version. Raises BadConfigError for one that an address could not have."""
    if not re.fullmatch(_NAME, name):
        raise BadConfigError(
            f"{what} is called {name!r:.80}; expected at most 64 letters, digits, '.', '_' and '-', the first no sign"
        )
    return name
