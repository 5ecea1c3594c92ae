"""Stands in for what the attacks' registry says of itself."""

import dataclasses
import inspect
from dataclasses import dataclass
from typing import Any

from loradar.attacks.registry import ATTACKS, PRESETS, parse_attack
from loradar.core.errors import BadConfigError, did_you_mean


@dataclass(frozen=True, kw_only=True)
class SettingInfo:
    name: str
    type: str
    default: str
    bounds: str = ""
    help: str = ""


@dataclass(frozen=True, kw_only=True)
class AttackInfo:
    name: str
    summary: str
    text: str
    spec: str
    version: int = 1
    settings: tuple[SettingInfo, ...]


def available_attacks() -> dict[str, str]:
    """Each attack's and preset's name with one line."""
    return {name: (inspect.getdoc(make) or "").partition("\n")[0] for name, make in ATTACKS.items()} | PRESETS


def describe_attack(name: str) -> AttackInfo:
    """An attack's text and settings. Raises BadConfigError for an unknown name."""
    if name not in available_attacks():
        raise BadConfigError(f"unknown attack {name!r}; {did_you_mean(name, available_attacks())}")
    attack: Any = parse_attack(name)
    settings = tuple(
        SettingInfo(name=field.name, type=str(field.type), default=str(getattr(attack, field.name)))
        for field in dataclasses.fields(attack)
    )
    text = inspect.getdoc(type(attack)) or ""
    return AttackInfo(name=name, summary=available_attacks()[name], text=text, spec=name, settings=settings)
