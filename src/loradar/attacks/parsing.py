"""Text to attacks: `NAME[:key=value,...]`, `a+b`, `a|b`, and names for them."""

import re
from typing import Any

from loradar.attacks.base import BaseAttack
from loradar.attacks.random_choice import RandomChoice
from loradar.attacks.registry import PRESETS, attack_class
from loradar.attacks.settings import hints_of, value_of
from loradar.attacks.worst_of import WorstOf
from loradar.core.attack_specs import GroupSpec, NamedSpec, read_spec, shown
from loradar.core.errors import BadConfigError, did_you_mean
from loradar.core.old_attacks import NEW_WORDS
from loradar.core.types import Attack


def parse_attack(text: str) -> Attack:
    """`NAME[:key=value,...]`; joined by `+` they are the strongest of several, image by image, joined by `|` one of them
    for each image, by chance (bound less tightly than `+`). Parentheses group.

    Values may be fractions. `parse_attack(attack.spec) == attack` for every attack that is made of settings.

    >>> parse_attack("pgd:eps=4/255,steps=5").spec
    'pgd:eps=4/255,steps=5'
    >>> parse_attack("fia-quick:steps=5").n_masks  # a preset, and a change to it
    10

    Raises BadConfigError for an unknown name or key, with the near misses, and for a value that does not fit.
    """
    return _made(read_spec(text))


def _made(spec: NamedSpec | GroupSpec) -> Attack:
    if isinstance(spec, NamedSpec):
        return _named(spec)
    parts = tuple(_made(part) for part in spec.parts)
    if spec.sign == "+":
        if spec.options:
            raise BadConfigError(f"a+b has no settings of its own; {', '.join(spec.options)} belong to its parts")
        return WorstOf(attacks=parts)
    if odd := set(spec.options) - {"seed"}:
        raise BadConfigError(f"a|b has no setting {shown(min(odd))!r} of its own; known: 'seed'")
    return RandomChoice(attacks=parts, **_values(RandomChoice, "a|b", dict(spec.options)))


def _named(spec: NamedSpec) -> Attack:
    name, options = spec.name, dict(spec.options)
    if name in PRESETS:
        preset = read_spec(PRESETS[name])
        name, options = preset.name, dict(preset.options) | options  # type: ignore[union-attr]
    kind = attack_class(name)
    version = options.pop("version", str(kind.version))
    if version != str(kind.version):
        raise BadConfigError(
            f"{name} of version {shown(version)} is asked for; this loradar has version {kind.version}"
        )
    values = _values(kind, name, options)
    try:
        return kind(**values)
    except BadConfigError as error:
        field, verb, _ = str(error).partition(" is ")
        raise BadConfigError(f"{name}:{error}" if verb and field in values else str(error)) from error
    except TypeError as error:  # a setting without a default, in a plugin
        raise BadConfigError(f"{name}: {error}; give it as {name}:key=value") from error


def _values(kind: type[BaseAttack], name: str, options: dict[str, str]) -> dict[str, Any]:
    hints, found = hints_of(kind), {}
    for key, text in options.items():
        if key not in hints:
            new = NEW_WORDS.get(key)
            hint = f"{key} is now {new}" if new and new.split(" ")[0] in hints else did_you_mean(key, hints)
            raise BadConfigError(f"attack {name!r} has no setting {shown(key)!r}; {hint}")
        try:
            found[key] = _several(text) if hints[key] == tuple[Attack, ...] else value_of(text, hints[key])
        except ValueError as error:
            raise BadConfigError(f"{name}:{key} is {shown(text)!r}; {error}") from error
    return found


def _several(text: str) -> tuple[Attack, ...]:
    """The attacks of a setting that holds some: `a+b`."""
    spec = read_spec(text)
    return tuple(map(_made, spec.parts)) if isinstance(spec, GroupSpec) and spec.sign == "+" else (_made(spec),)


def named_attack(text: str) -> tuple[str, Attack]:
    """`MYNAME=NAME[:key=value,...]`, or without the first part: a name made of the setting.

    >>> named_attack("big=roa:height=7,width=7")[0]
    'big'
    >>> named_attack("roa:height=7,width=7")[0]
    'roa-height7-width7'
    """
    own = re.match(r"^([A-Za-z0-9_.-]+)=(.+)$", text)
    if own:
        return own[1], parse_attack(own[2])
    name = re.sub(r"[^A-Za-z0-9.+-]", "", text.replace(":", "-").replace(",", "-").replace("/", "o"))
    return name, parse_attack(text)


def named_attacks(specs: list[str]) -> dict[str, Attack]:
    """Attacks by name, in order; `@base` and `@defended` are left to `plan`.

    Raises BadConfigError for none, and for two of one name.
    """
    if not specs:
        raise BadConfigError("no attack is given; expected at least one, for example roa")
    found: dict[str, Attack] = {}
    for spec in specs:
        name, attack = named_attack(spec.partition("@")[0])
        if name in found:
            raise BadConfigError(f"two attacks are called {name!r}; give one another name (MYNAME=NAME:key=value)")
        found[name] = attack
    return found
