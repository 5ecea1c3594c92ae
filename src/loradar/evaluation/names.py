"""Settings as people read them: a short name for every attack of a report, radii in 255ths."""

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from loradar.evaluation.measure import AccuracyResult

_WITHIN = "attack"
_LONG_FLOAT = re.compile(r"(?<![\w.])0\.\d{5,}(?:e-?\d+)?")
_REPR = re.compile(r"(\w+)\((.*)\)", flags=re.DOTALL)
_JOINT = re.compile(r"(\||\+(?=[a-z]))")


def readable(setting: str) -> str:
    """Writes every long fraction that is a step of the 8-bit scale as one.

    >>> readable("FGSM(ball=Linf(radius=0.03137254901960784), seed=0)")
    'FGSM(ball=Linf(radius=8/255), seed=0)'
    """

    def pixel_steps(found: re.Match[str]) -> str:
        steps = float(found[0]) * 255
        near = round(steps, 2)
        return f"{near:g}/255" if near and abs(steps - near) < 1e-6 else found[0]

    return _LONG_FLOAT.sub(pixel_steps, setting)


def kind(setting: str) -> str:
    """Returns the attack's name without its settings.

    >>> kind("pgd:eps=8/255"), kind("PGD(steps=10, seed=0)"), kind("roa:height=7+pgd")
    ('pgd', 'PGD', 'roa+pgd')
    """
    return _parts(setting)[0]


def short_names(settings: Iterable[str]) -> dict[str, str]:
    """Names each setting by its kind, and where several are of one kind, by the fields that differ.

    >>> list(short_names(["pgd:eps=8/255", "pgd:eps=8/255,steps=50", "none"]).values())
    ['pgd', 'pgd steps=50', 'none']
    >>> list(short_names(["Evading(attack=FIA(masks=30))", "Evading(attack=ROA(steps=3))"]).values())
    ['Evading FIA', 'Evading ROA']
    """
    known = {setting: _parts(readable(setting)) for setting in settings}
    kinds: dict[str, list[str]] = {}
    for setting, (common, _) in known.items():
        kinds.setdefault(common, []).append(setting)
    names = {}
    for common, members in kinds.items():
        fields = {member: known[member][1] for member in members}
        keys = list(dict.fromkeys(key for member in members for key in fields[member]))
        differing = [key for key in keys if len({fields[member].get(key) for member in members}) > 1]
        # an attack within an attack has a short name too
        within = short_names(fields[member][_WITHIN] for member in members) if _WITHIN in differing else {}
        for member in members:
            shown = [
                within.get(fields[member][key], f"{key}={fields[member][key]}")
                for key in differing
                if key in fields[member]
            ]
            names[member] = " ".join([common, *shown])
    return {setting: names[setting] for setting in known}


def labels(rows: Sequence[AccuracyResult]) -> dict[tuple[str, str], str]:
    """Names every candidate: by its model, and where several share it, by what each was trained against."""
    by_model: dict[str, list[str]] = {}
    for model, against in dict.fromkeys(row.candidate for row in rows):
        by_model.setdefault(model, []).append(against)
    named = {}
    for model, several in by_model.items():
        names = short_names(several)
        for against in several:
            named[model, against] = model if len(several) == 1 else f"{model} ({names[against] or 'untrained'})"
    return named


def _parts(setting: str) -> tuple[str, dict[str, str]]:
    """The kind and the fields of a spec, or of the repr of a dataclass; fields without a name are numbered."""
    if whole := _REPR.fullmatch(setting):
        return whole[1], _fields(whole[2])
    members = _JOINT.split(setting)
    kinds: list[str] = []
    fields: dict[str, str] = {}
    for number, member in enumerate(members):
        common, _, options = member.partition(":")
        kinds.append(common)
        # two members may both have a field of this name
        fields |= {f"{key}{number or ''}": value for key, value in _fields(options).items() if options}
    return "".join(kinds), fields


def _fields(text: str) -> dict[str, str]:
    """`key=value` at the commas that stand in no bracket."""
    fields, depth, part = [], 0, ""
    for letter in text:
        depth += (letter in "([{") - (letter in ")]}")
        if letter == "," and depth == 0:
            fields.append(part.strip())
            part = ""
        else:
            part += letter
    fields.append(part.strip())
    named = {}
    for position, field in enumerate(fields):
        key, equals, value = field.partition("=")
        named[key if equals else str(position)] = value if equals else field
    return named


def flat(values: Mapping[str, Any], prefix: str = "") -> list[tuple[str, str]]:
    """Returns nested values as (dotted name, text) lines.

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
