"""The one-line grammar of bases, data and attacks: `WHAT[:key=value,...]`."""

import re

from loradar.core.errors import BadConfigError


def split_spec(text: str) -> tuple[str, dict[str, str]]:
    """What comes before the options, and the options as text. `WHAT` may hold colons of its own.

    >>> split_spec("timm:resnet18:pretrained=false,num_classes=10")
    ('timm:resnet18', {'pretrained': 'false', 'num_classes': '10'})

    Raises BadConfigError for an empty text, an option without a value, or one that is given twice.
    """
    found = re.fullmatch(r"(.+?)(?::(\w+=.*))?", text.strip(), flags=re.DOTALL)
    if found is None:
        raise BadConfigError("the name is empty; expected WHAT[:key=value,...]")
    return found[1], parse_options(found[2] or "", text)


def parse_options(options: str, text: str) -> dict[str, str]:
    """`key=value,key=value` out of `text`. Raises BadConfigError as `split_spec` does."""
    found: dict[str, str] = {}
    for part in options.split(",") if options else []:
        key, sign, value = (piece.strip() for piece in part.partition("="))
        if not sign or not key or not value or key in found:
            raise BadConfigError(f"{text!r}: cannot read {part!r}; expected key=value, each key once, between commas")
        found[key] = value
    return found
