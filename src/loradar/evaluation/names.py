"""Attacks as people read them: a short name for every attack of a report, out of its spec."""

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from loradar.attacks.registry import attack_class, settings_text
from loradar.core.attack_specs import GroupSpec, NamedSpec, read_spec
from loradar.core.errors import BadConfigError
from loradar.evaluation.measure import AccuracyResult

_WITHIN = "attack"
_LONG_FLOAT = re.compile(r"(?<![\w.])0\.\d{5,}(?:e-?\d+)?")


def readable(setting: str) -> str:
    """A text of other settings with every long fraction that is a step of the 8-bit scale written as one.

    >>> readable("Linf(radius=0.03137254901960784)")
    'Linf(radius=8/255)'
    """

    def pixel_steps(found: re.Match[str]) -> str:
        steps = float(found[0]) * 255
        near = round(steps, 2)
        return f"{near:g}/255" if near and abs(steps - near) < 1e-6 else found[0]

    return _LONG_FLOAT.sub(pixel_steps, setting)


def kind(spec: str) -> str:
    """What attack a spec is of, without its settings; for several, all of them.

    >>> kind("pgd:steps=20"), kind("pgd+roa:height=7"), kind("none")
    ('PGD', 'PGD+ROA', 'none')
    """
    read = _read(spec)
    if read is None:
        return spec.partition("(")[0]
    if isinstance(read, NamedSpec):
        if _WITHIN in read.options:
            return f"{read.name} {kind(read.options[_WITHIN])}"
        return read.options.get("name", _title(read.name))  # a foreign attack goes by the name that it was given
    return _joined(read)


def attack_fields(spec: str) -> dict[str, str]:
    """Every setting of an attack as text, defaults filled in; the text itself of several attacks, and of what is none.

    >>> attack_fields("pgd:norm=l2")["eps"]
    '0.5'
    """
    read = _read(spec)
    if not isinstance(read, NamedSpec):
        return {"": spec}
    own = settings_text(read.name, read.options)
    within = own.pop(_WITHIN, None)
    return (
        own if within is None else attack_fields(within) | {f"{read.name} {key}": value for key, value in own.items()}
    )


def short_names(specs: Iterable[str]) -> dict[str, str]:
    """A short name for each spec: what attack it is, and where that is there twice, the settings that differ.

    >>> list(short_names(["pgd", "pgd:steps=50", "none"]).values())
    ['PGD steps=10', 'PGD steps=50', 'none']
    >>> list(short_names(["evade:attack=fia", "evade:attack=roa"]).values())
    ['evade FIA', 'evade ROA']
    """
    known = list(dict.fromkeys(specs))
    kinds: dict[str, list[str]] = {}
    for spec in known:
        kinds.setdefault(kind(spec), []).append(spec)
    names = {}
    for common, members in kinds.items():
        fields = {member: attack_fields(member) for member in members}
        keys = list(dict.fromkeys(key for member in members for key in fields[member]))
        differing = [key for key in keys if len({fields[member].get(key) for member in members}) > 1]
        for member in members:
            told = [f"{key}={fields[member][key]}" for key in differing if key in fields[member]]
            names[member] = member if "" in differing else " ".join([common, *told])
    return {spec: names[spec] for spec in known}


def _read(spec: str) -> NamedSpec | GroupSpec | None:
    try:
        return read_spec(spec)
    except BadConfigError:
        return None


def _title(name: str) -> str:
    try:
        return attack_class(name).__name__
    except BadConfigError:
        return name


def _joined(read: NamedSpec | GroupSpec) -> str:
    if isinstance(read, NamedSpec):
        return _title(read.name)
    parts = [_joined(part) for part in read.parts]
    return read.sign.join(f"({part})" if "|" in part and read.sign == "+" else part for part in parts)


def labels(rows: Sequence[AccuracyResult]) -> dict[tuple[str, str], str]:
    """A name for every candidate: the model's, and where several share it, what each was trained against."""
    by_model: dict[str, list[str]] = {}
    for model, against in dict.fromkeys(row.candidate for row in rows):
        by_model.setdefault(model, []).append(against)
    found = {}
    for model, several in by_model.items():
        names = short_names(several)
        for against in several:
            found[model, against] = model if len(several) == 1 else f"{model} ({names[against] or 'untrained'})"
    return found


def flat(values: Mapping[str, Any], prefix: str = "") -> list[tuple[str, str]]:
    """Nested values as (dotted name, text) lines.

    >>> flat({"split": {"train": 49000, "seeds": [0, 1]}})
    [('split.train', '49000'), ('split.seeds', '0, 1')]
    """
    lines: list[tuple[str, str]] = []
    for key, value in values.items():
        if isinstance(value, Mapping) and value:
            lines += flat(value, f"{prefix}{key}.")
        else:
            lines.append((f"{prefix}{key}", _text(value)))
    return lines


def _text(value: object) -> str:
    if isinstance(value, Sequence) and not isinstance(value, str):
        return ", ".join(_text(item) for item in value)
    if isinstance(value, float):
        return f"{value:.6g}"
    return readable(str(value))
