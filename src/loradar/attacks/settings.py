"""The fields of attacks: what each may hold, checked in one place, and their text in a spec."""

import dataclasses
import math
import types
from collections.abc import Mapping
from dataclasses import dataclass
from numbers import Integral, Real
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from loradar.core.attack_specs import number, number_text, shown, snapped, write_group
from loradar.core.errors import BadConfigError
from loradar.core.types import Attack

MAX_SEED = (1 << 63) - 1


@dataclass(frozen=True, kw_only=True)
class Interval:
    """What a number may be: from `low` to `high`, the ends included unless `below` excludes the upper one."""

    low: float
    high: float
    below: bool = False

    def check(self, name: str, value: float) -> None:
        """Raises BadConfigError where `value` lies outside."""
        if isinstance(value, float) and not math.isfinite(value):  # asked of a long whole number, it overflows
            raise BadConfigError(f"{name} is {value}; expected a finite number, {self}")
        if value < self.low:
            raise BadConfigError(f"{name} is {_number_text(value)}; expected {_bound(self.low)} or more")
        if value > self.high or (self.below and value == self.high):
            bound = "below" if self.below else "at most"
            raise BadConfigError(f"{name} is {_number_text(value)}; expected {bound} {_bound(self.high)}")

    def __str__(self) -> str:
        return f"{_bound(self.low)} to {'below ' if self.below else ''}{_bound(self.high)}"


def _number_text(value: object) -> str:
    try:
        return shown(str(value))
    except ValueError:  # Python writes no whole number of more digits (sys.get_int_max_str_digits)
        return "a number of thousands of digits"


def _bound(value: float) -> str:
    return str(value) if isinstance(value, int) else number_text(value)


# a step below this is lost in single precision; an L2 radius of 1000 paints any image of 600 x 600
STEP = {"linf": Interval(low=1e-7, high=1), "l2": Interval(low=1e-7, high=1000)}
MOMENTUM = Interval(low=0, high=10)
EPS = {"linf": Interval(low=0, high=1), "l2": Interval(low=0, high=1000)}


def setting(default: Any, text: str, *, limits: Interval | Mapping[str, Interval] | None = None) -> Any:
    """A field with a default and a line of help. `limits` may depend on the attack's norm, by name."""
    return dataclasses.field(default=default, metadata={"help": text, "limits": limits})


def count(default: int, text: str, *, high: int = 10_000) -> Any:
    """A whole number from 1 to `high`."""
    return setting(default, text, limits=Interval(low=1, high=high))


def eps_of(**defaults: float) -> Any:
    """The radius `eps`, with a default for each norm; it takes the default of the norm chosen."""
    text = "Radius of the perturbation, in units of [0, 1] pixels; 0 changes nothing."
    # None stands for the default of the norm until the attack is made
    return dataclasses.field(default=None, metadata={"help": text, "limits": EPS, "by_norm": defaults, "pixels": True})


def pixels(default: float | None, text: str, *, limits: Interval | Mapping[str, Interval] = STEP) -> Any:
    """A size in units of [0, 1] pixels: a value that is k/255 rounded becomes k/255."""
    return dataclasses.field(default=default, metadata={"help": text, "limits": limits, "pixels": True})


def seed_setting() -> Any:
    """The seed, 0 unless given."""
    return setting(0, "Seeds everything that is drawn.", limits=Interval(low=0, high=MAX_SEED))


def hints_of(kind: type) -> dict[str, Any]:
    """The type of each field of an attack, in order."""
    hints = get_type_hints(kind)
    return {f.name: hints[f.name] for f in dataclasses.fields(kind)}


def default_of(field: "dataclasses.Field[Any]", norm: str) -> Any:
    """What a field holds unless told; for `eps` that depends on the norm."""
    by_norm = field.metadata.get("by_norm")
    return by_norm[norm] if by_norm else field.default


def limits_of(field: "dataclasses.Field[Any]", norm: str) -> Interval | None:
    """The interval of a number, for one norm."""
    limits = field.metadata.get("limits")
    return limits if isinstance(limits, Interval | None) else limits[norm]


_LEAST = 2**-24
"""Half of this is lost where it is added to a pixel of 1/2 or more in float32."""


def check_settings(attack: Any) -> None:
    """Every field held against its type and limits, and put into one form. Raises BadConfigError, one line."""
    hints = hints_of(type(attack))
    fields = sorted(dataclasses.fields(attack), key=lambda field: field.name != "norm")  # others hang on it
    for field in fields:
        value, norm = getattr(attack, field.name), getattr(attack, "norm", "linf")
        if value is None and "by_norm" in field.metadata:
            value = default_of(field, norm)
        value = _checked(field.name, value, hints[field.name])
        limits = limits_of(field, norm)
        if limits is not None and value is not None:
            limits.check(field.name, value)
        if "by_norm" in field.metadata and 0 < value < _LEAST:
            raise BadConfigError(
                f"{field.name} is {value:.4g}, which moves no pixel from 1/2 to 1 in float32; expected 0 (which changes "
                f"nothing) or {_LEAST:.1g} or more"
            )
        if isinstance(value, float) and field.metadata.get("pixels"):
            value = snapped(value)
        object.__setattr__(attack, field.name, value)


def _checked(name: str, value: Any, hint: Any) -> Any:
    """`value` as the type says: a whole number as int, any other as float, a list as tuple."""
    hint, optional = _without_none(hint)
    if value is None and optional:
        return None
    origin = get_origin(hint)
    if origin is Literal:
        return _choice(name, value, get_args(hint))
    if origin is tuple:
        return _several(name, value, get_args(hint)[0])
    if hint is bool:
        fits = isinstance(value, bool)
    elif hint is int:
        fits = isinstance(value, Integral) and not isinstance(value, bool)
    elif hint is float:
        fits = isinstance(value, Real) and not isinstance(value, bool)
    elif hint is str:
        fits = isinstance(value, str) and bool(value)
    else:
        fits = isinstance(value, Attack) if hint is Attack else True
    if not fits:
        raise BadConfigError(f"{name} is {shown(repr(value))}; expected {type_name(hint)}")
    return int(value) if hint is int else _float(name, value) if hint is float else value


def _float(name: str, value: Any) -> float:
    try:
        return float(value)
    except OverflowError as error:
        raise BadConfigError(f"{name} is {_number_text(value)}; expected a finite number") from error


def _choice(name: str, value: Any, known: tuple[Any, ...]) -> Any:
    if not isinstance(value, str) or value not in known:
        raise BadConfigError(f"{name} is {shown(repr(value))}; expected {' or '.join(map(repr, known))}")
    return value


def _several(name: str, value: Any, hint: Any) -> tuple[Any, ...]:
    if not isinstance(value, tuple | list) or not value:
        raise BadConfigError(f"{name} is {shown(repr(value))}; expected one or more, as a tuple")
    return tuple(_checked(name, each, hint) for each in value)


def _without_none(hint: Any) -> tuple[Any, bool]:
    kinds = get_args(hint) if get_origin(hint) in (Union, types.UnionType) else (hint,)
    left = tuple(kind for kind in kinds if kind is not types.NoneType)
    return (left[0], len(left) < len(kinds)) if len(left) == 1 else (hint, False)


def type_name(hint: Any) -> str:
    """The type of a field in words."""
    hint, optional = _without_none(hint)
    if get_origin(hint) is Literal:
        return " | ".join(map(str, get_args(hint)))
    if get_origin(hint) is tuple:
        sign = "+" if get_args(hint)[0] is Attack else "/"
        return f"{type_name(get_args(hint)[0])}, joined by {sign}" + (", or none" if optional else "")
    words = {bool: "true or false", int: "a whole number", float: "a number", str: "text", Attack: "an attack"}
    return words.get(hint, "an object") + (", or none" if optional else "")


def text_of(value: Any) -> str:
    """The value of a field as a spec writes it."""
    if value is None:
        return "none"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float):
        return number_text(value)
    if isinstance(value, tuple):
        if all(isinstance(each, Attack) for each in value):
            return write_group("+", [each.spec for each in value], {})
        return "/".join(value)
    return value.spec if isinstance(value, Attack) else str(value)


def value_of(text: str, hint: Any) -> Any:
    """What a spec says of a field of that type. Raises ValueError with what was expected."""
    hint, optional = _without_none(hint)
    if optional and text.lower() == "none":
        return None
    if get_origin(hint) is tuple:
        return tuple(text.split("/"))
    if hint is bool:
        known = dict.fromkeys(("true", "yes", "on", "1"), True) | dict.fromkeys(("false", "no", "off", "0"), False)
        if text.lower() not in known:
            raise ValueError("expected true or false")
        return known[text.lower()]
    if hint is int:
        return _whole(text)
    return number(text) if hint is float else text


def _whole(text: str) -> int:
    try:
        return int(text)
    except ValueError:
        value = number(text)
        if not value.is_integer():
            raise ValueError("expected a whole number") from None
        return int(value)
