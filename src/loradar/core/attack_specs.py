"""The text of an attack: `NAME[:key=value,...]`, `a+b` for the worst of several, `a|b` for one by chance, and numbers in it.

`+` binds tighter than `|`; parentheses group. A value with other than letters, digits and `_ . / -` stands in double quotes,
as JSON writes it. This module knows the grammar, not the attacks.
"""

import json
import re
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Literal, TypeAlias

from loradar.core.errors import BadConfigError

_PLAIN = re.compile(r"[A-Za-z0-9_./-]+")
_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_-]*")
_DEPTH = 20
_SHOWN = 100


@dataclass(frozen=True, kw_only=True)
class NamedSpec:
    """`NAME[:key=value,...]`, values as text."""

    name: str
    options: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class GroupSpec:
    """Several joined by one sign; options follow the closing parenthesis."""

    sign: Literal["+", "|"]
    parts: "tuple[AttackSpec, ...]"
    options: Mapping[str, str] = field(default_factory=dict)


AttackSpec: TypeAlias = NamedSpec | GroupSpec


def read_spec(text: str, *, depth: int = 0) -> AttackSpec:
    """The structure of `text`. Raises BadConfigError for what the grammar does not allow.

    >>> read_spec("pgd+fgsm|roa").sign
    '|'
    """
    text = text.strip()
    if depth > _DEPTH:
        raise BadConfigError(f"{shown(text)!r} nests deeper than {_DEPTH} levels; expected fewer parentheses")
    for sign in ("|", "+"):
        parts = _split(text, sign)
        if len(parts) > 1:
            # as in a tuple of one, the last sign may stand alone
            kept = parts[:-1] if not parts[-1].strip() else parts
            if any(part.rstrip().endswith("+") for part in kept) and sign == "+":
                raise BadConfigError(f"{shown(text)!r} has two + in a row; expected an attack between them")
            return GroupSpec(sign=sign, parts=tuple(read_spec(part, depth=depth + 1) for part in kept))
    if text.startswith("("):
        return _parenthesised(text, depth)
    name, _, options = text.partition(":")
    if not _NAME.fullmatch(name.strip()):
        raise BadConfigError(
            f"{shown(text)!r} names no attack; expected NAME[:key=value,...], for example pgd:steps=20"
        )
    return NamedSpec(name=name.strip(), options=_options(options, text))


def _parenthesised(text: str, depth: int) -> AttackSpec:
    end = next((i for i, level in _levels(text) if i and level == 0), len(text))
    inside, rest = read_spec(text[1:end], depth=depth + 1), text[end + 1 :].strip()
    if not rest:
        return inside
    if not rest.startswith(":") or not isinstance(inside, GroupSpec) or inside.options:
        raise BadConfigError(f"{shown(text)!r}: cannot read {shown(rest)!r}; expected +, | or the end after ')'")
    return GroupSpec(sign=inside.sign, parts=inside.parts, options=_options(rest[1:], text))


def write_spec(name: str, options: Mapping[str, str]) -> str:
    """`NAME[:key=value,...]`; values are quoted where they must be.

    >>> write_spec("fia", {"layer": "a+b", "steps": "5"})
    'fia:layer="a+b",steps=5'
    """
    written = ",".join(f"{key}={_quoted(value)}" for key, value in options.items())
    return f"{name}:{written}" if written else name


def write_group(sign: Literal["+", "|"], parts: Sequence[str], options: Mapping[str, str]) -> str:
    """`parts`, which are specs themselves, joined by `sign`; parentheses where reading would group otherwise.

    >>> write_group("+", ["a|b", "c"], {})
    '(a|b)+c'
    """
    loose = {"+": ("|", "+"), "|": ("|",)}[sign]
    joined = sign.join(f"({part})" if any(len(_split(part, s)) > 1 for s in loose) else part for part in parts)
    joined += sign if len(parts) == 1 else ""
    return write_spec(f"({joined})", options) if options else joined


def shown(text: str) -> str:
    """`text` as a message shows it: one line, not endless."""
    text = " ".join(text.split())
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}..."


def number(text: str) -> float:
    """A number or a fraction of two. Raises ValueError.

    >>> number("8/255") == 8 / 255
    True
    """
    above, sign, below = text.partition("/")
    try:
        value = float(above) / float(below) if sign else float(above)
    except ZeroDivisionError as error:
        raise ValueError("expected a number that is not divided by 0") from error
    except ValueError as error:
        raise ValueError("expected a number or a fraction such as 8/255") from error
    if not value and any(digit in above.lower().partition("e")[0] for digit in "123456789"):
        raise ValueError("expected 0, or a number that a computer tells from 0")
    return value


def number_text(value: float) -> str:
    """The shortest of `value` and `n/255` that `number` reads back exactly.

    >>> number_text(8 / 255), number_text(0.5), number_text(4.8 / 255), number_text(1.0)
    ('8/255', '0.5', '4.8/255', '1')
    """
    plain = repr(float(value)).removesuffix(".0")
    near = f"{value * 255:.8g}"
    fraction = f"{near}/255"
    exact = "e" not in near and float(near) / 255 == value
    return fraction if exact and len(fraction) < len(plain) else plain


def snapped(value: float) -> float:
    """`value`, or k/255 exactly where it is that rounded: to five or more decimals, or to single precision.

    >>> snapped(0.031373) == 8 / 255, snapped(0.03)
    (True, 0.03)
    """
    if not 0 < value < 1e6:
        return value
    exact = round(value * 255) / 255
    if exact in (0, value):
        return value
    exponent = Decimal(repr(value)).as_tuple().exponent
    rounded = isinstance(exponent, int) and exponent <= -5 and round(exact, -exponent) == value
    return exact if rounded or struct.unpack("f", struct.pack("f", exact))[0] == value else value


def _quoted(value: str) -> str:
    return value if _PLAIN.fullmatch(value) else json.dumps(value)


def _options(options: str, text: str) -> dict[str, str]:
    found: dict[str, str] = {}
    for part in _split(options, ",") if options else []:
        key, sign, value = (piece.strip() for piece in part.partition("="))
        if not sign or not key or not value or key in found:
            raise BadConfigError(
                f"{shown(text)!r}: cannot read {shown(part)!r}; expected key=value, each key once, between commas"
            )
        if re.search(r"\s", value) and not value.startswith('"'):
            raise BadConfigError(
                f"{shown(text)!r}: cannot read {shown(value)!r}; put text with spaces in double quotes"
            )
        found[key] = _unquoted(value, text)
    return found


def _unquoted(value: str, text: str) -> str:
    if not value.startswith('"'):
        return value
    try:
        return str(json.loads(value))
    except ValueError as error:
        raise BadConfigError(
            f"{shown(text)!r}: cannot read {shown(value)}; expected text between double quotes"
        ) from error


def _levels(text: str) -> list[tuple[int, int]]:
    """(index, depth of parentheses after it) of every letter outside quotes. Raises BadConfigError where they do not match."""
    levels, depth, quoted, escaped = [], 0, False, False
    for index, letter in enumerate(text):
        if quoted:
            quoted, escaped = escaped or letter != '"', letter == "\\" and not escaped
            continue
        quoted = letter == '"'
        depth += (letter == "(") - (letter == ")")
        if depth < 0:
            break
        levels.append((index, depth))
    if depth or quoted:
        raise BadConfigError(f"{shown(text)!r}: a parenthesis or quote has no partner; close it, or take it out")
    return levels


def _split(text: str, sign: str) -> list[str]:
    """`text` at every `sign` outside parentheses and quotes; a `+` within a number (1e+3) is none."""
    parts, start = [], 0
    for index, level in _levels(text):
        if level or text[index] != sign:
            continue
        following = text[index + 1 :].lstrip()
        if sign == "+" and following and not (following[0].isalpha() or following[0] in "(|"):
            continue
        parts.append(text[start:index])
        start = index + 1
    return [*parts, text[start:]]
