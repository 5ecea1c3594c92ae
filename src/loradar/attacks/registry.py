"""The names of attacks: ours by `@register`, those of other packages by the entry-point group `loradar.attacks`."""

import dataclasses
import inspect
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from importlib.metadata import EntryPoint, entry_points
from typing import TypeVar

from loradar.attacks.base import BaseAttack
from loradar.attacks.settings import default_of, hints_of, limits_of, text_of, type_name
from loradar.core.attack_specs import NamedSpec, read_spec, shown
from loradar.core.errors import BadConfigError, did_you_mean

A = TypeVar("A", bound=BaseAttack)
GROUP = "loradar.attacks"

PRESETS: dict[str, str] = {
    "roa-quick": "roa:n_candidates=5,steps=15,step_size=0.3,schedule=linear,momentum=0.5",
    "roa-quick-exhaustive": "roa:search=coarse,steps=15,step_size=0.3,schedule=linear,momentum=0.5",
    "fia-quick": "fia:n_masks=10,step_size=4.8/255,schedule=linear,momentum=0.9",
}
"""The attacks of the papers for less work: how strong each is beside them, `python -m benchmarks.crafting` says."""

_ATTACKS: dict[str, type[BaseAttack]] = {}


def register(name: str) -> Callable[[type[A]], type[A]]:
    """Makes a class known to specs as `name`. Raises BadConfigError for a name that is taken or cannot stand in a spec."""

    def known(kind: type[A]) -> type[A]:
        if not re.fullmatch(r"[a-z][a-z0-9-]*", name):
            raise BadConfigError(f"attack name {name!r}; expected small letters, digits and -, a letter first")
        taken = _ATTACKS.get(name)
        # a module that is loaded again brings the same class
        if name in PRESETS or (taken is not None and _home(taken) != _home(kind)):
            raise BadConfigError(f"attack name {name!r} of {_home(kind)} is taken; choose another")
        kind.spec_name = name
        _ATTACKS[name] = kind
        return kind

    return known


def _home(kind: type) -> str:
    return f"{kind.__module__}.{kind.__qualname__}"


@dataclass(frozen=True, kw_only=True)
class SettingInfo:
    """One setting of an attack, in words."""

    name: str
    type: str
    default: str
    bounds: str
    help: str


@dataclass(frozen=True, kw_only=True)
class AttackInfo:
    """An attack or a preset: its settings with the defaults that hold for it."""

    name: str
    summary: str
    text: str
    version: int
    spec: str
    settings: tuple[SettingInfo, ...]


def attack_class(name: str) -> type[BaseAttack]:
    """The class of a name, out of a plugin where needed. Raises BadConfigError with the near misses."""
    if name not in _ATTACKS and name in _plugins():
        _load(_plugins()[name])
    if name not in _ATTACKS:
        names = [*_ATTACKS, *PRESETS, *_plugins()]
        raise BadConfigError(f"unknown attack {shown(name)!r}; {did_you_mean(name, dict.fromkeys(names))}")
    return _ATTACKS[name]


def available_attacks() -> dict[str, str]:
    """Every name and a line on it: the attacks, the presets, those of plugins. A broken plugin says that it is."""
    found = {}
    for name in dict.fromkeys([*_ATTACKS, *_plugins()]):
        try:
            found[name] = _summary(attack_class(name))
        except BadConfigError as error:
            found[name] = str(error)
    return found | PRESETS


def describe_attack(name: str) -> AttackInfo:
    """Everything about an attack or preset that help can say. Raises BadConfigError for a name that is not known."""
    preset = read_spec(PRESETS.get(name, name))
    if not isinstance(preset, NamedSpec) or (preset.options and name not in PRESETS):
        raise BadConfigError(f"{shown(name)!r} is no one attack; expected a name, for example pgd")
    kind = attack_class(preset.name)
    hints = hints_of(kind)
    settings = []
    for field in dataclasses.fields(kind):
        by_norm = field.metadata.get("by_norm")
        told = ", ".join(f"{text_of(value)} ({norm})" for norm, value in by_norm.items()) if by_norm else ""
        required = field.default is dataclasses.MISSING
        default = preset.options.get(field.name) or told or ("" if required else text_of(default_of(field, "linf")))
        limits = field.metadata.get("limits")
        bounds = (
            ", ".join(f"{limits_of(field, norm)} ({norm})" for norm in limits) if isinstance(limits, dict) else limits
        )
        settings.append(
            SettingInfo(
                name=field.name,
                type=type_name(hints[field.name]),
                default=default,
                bounds=str(bounds or ""),
                help=field.metadata.get("help", ""),
            )
        )
    return AttackInfo(
        name=name,
        summary=_summary(kind),
        text=inspect.getdoc(kind) or "",
        version=kind.version,
        spec=PRESETS.get(name, name),
        settings=tuple(settings),
    )


def settings_text(name: str, options: Mapping[str, str]) -> dict[str, str]:
    """Every setting of a named attack as text, `options` and else the defaults; `options` alone for a name not known.

    >>> settings_text("noise", {"norm": "l2"})
    {'eps': '0.5', 'norm': 'l2', 'seed': '0'}
    """
    try:
        fields = dataclasses.fields(attack_class(name))
    except BadConfigError:
        return dict(options)
    norm = "l2" if options.get("norm") == "l2" else "linf"
    defaults = {f.name: text_of(default_of(f, norm)) for f in fields if f.default is not dataclasses.MISSING}
    return {key: options.get(key, text) for key, text in defaults.items()} | dict(options)


def _summary(kind: type[BaseAttack]) -> str:
    """The first line on the attack's file, which says what it is; else that on its class."""
    module = inspect.getmodule(kind)
    text = (inspect.getdoc(module) if module else "") or inspect.getdoc(kind) or kind.__name__
    return text.partition("\n")[0]


@cache
def _plugins() -> dict[str, EntryPoint]:
    return {point.name: point for point in entry_points(group=GROUP)}


def _load(point: EntryPoint) -> None:
    """Imports a plugin, whose module registers its attacks. Raises BadConfigError where it cannot."""
    home = f"attack {point.name!r} of the package {point.dist.name if point.dist else point.value!r}"
    try:
        point.load()
    except Exception as error:  # whatever another package does when it is imported
        line = " ".join(str(error).split())
        raise BadConfigError(
            f"{home} cannot be loaded ({type(error).__name__}: {shown(line)}); update or uninstall that package"
        ) from error
    if point.name not in _ATTACKS:
        raise BadConfigError(f"{home} registers no attack of that name; expected @register({point.name!r})")
