"""The one-line names of bases: `WHAT[:key=value,...]`."""

from dataclasses import dataclass, field
from typing import TypeAlias

from loradar.core.errors import BadConfigError, did_you_mean
from loradar.core.specs import split_spec

Value: TypeAlias = str | int | float | bool


@dataclass(frozen=True, kw_only=True)
class Spec:
    """`what` is the part before the options; `options` have their obvious types (true, 10, 0.5, text)."""

    what: str
    options: dict[str, Value] = field(default_factory=dict)


def parse_spec(text: str) -> Spec:
    """Raises BadConfigError for an option without a value, or one that is given twice.

    >>> parse_spec("timm:resnet18:pretrained=false,num_classes=10")
    Spec(what='timm:resnet18', options={'pretrained': False, 'num_classes': 10})
    """
    what, options = split_spec(text)
    return Spec(what=what, options={key: _value(value) for key, value in options.items()})


def _value(text: str) -> Value:
    if text.lower() in ("true", "false"):
        return text.lower() == "true"
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text


def take_numbers(options: dict[str, Value], key: str) -> tuple[float, ...] | None:
    """Takes `key` out of `options`: numbers between slashes, as in `mean=0.49/0.48/0.45`; None where it is not there."""
    if key not in options:
        return None
    text = str(options.pop(key))
    try:
        return tuple(float(part) for part in text.split("/"))
    except ValueError:
        raise BadConfigError(f"{key}={text}: expected numbers between slashes, as in {key}=0.49/0.48/0.45") from None


def take_integer(options: dict[str, Value], key: str, *, least: int = 1) -> int | None:
    """Takes `key` out of `options`: an integer of `least` or more; None where it is not there."""
    if key not in options:
        return None
    value = options.pop(key)
    if not isinstance(value, int) or isinstance(value, bool) or value < least:
        raise BadConfigError(f"{key}={value}: expected an integer of {least} or more")
    return value


def take_flag(options: dict[str, Value], key: str, default: bool) -> bool:
    """Takes `key` out of `options`: true or false."""
    value = options.pop(key, default)
    if not isinstance(value, bool):
        raise BadConfigError(f"{key}={value}: expected true or false")
    return value


def refuse_rest(options: dict[str, Value], known: tuple[str, ...], text: str) -> None:
    """Raises BadConfigError where an option is left that nobody took."""
    for key in options:
        raise BadConfigError(f"{text!r} has no option {key!r}; {did_you_mean(key, known)}")
