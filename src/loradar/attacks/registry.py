"""Literal tables: a name in a config becomes an attack. One grammar: NAME[:key=value,...]."""

import dataclasses
import re
from collections.abc import Callable
from typing import Any, get_type_hints

from pydantic import TypeAdapter, ValidationError

from loradar.attacks.auto_attack import AutoAttack
from loradar.attacks.feature_importance import FIA
from loradar.attacks.fgsm import FGSM
from loradar.attacks.mi_fgsm import MIFGSM
from loradar.attacks.noise import UniformNoise
from loradar.attacks.occlusion import ROA
from loradar.attacks.pgd import PGD
from loradar.attacks.pyramid import Pyramid
from loradar.attacks.random_choice import OneOf
from loradar.attacks.worst_of import WorstOf
from loradar.core.balls import L2, Linf
from loradar.core.errors import BadConfigError, did_you_mean
from loradar.core.randomness import mix
from loradar.core.specs import parse_options
from loradar.core.types import Attack

ATTACKS: dict[str, Callable[..., Attack]] = {
    "fgsm": FGSM,
    "pgd": PGD,
    "pyramid": Pyramid,
    "mi-fgsm": MIFGSM,
    "roa": ROA,
    "fia": FIA,
    "noise": UniformNoise,
    "autoattack": AutoAttack,
}

PRESETS: dict[str, str] = {
    "roa-quick": "roa:candidates=5,steps=15,step=0.3,schedule=linear,momentum=0.5",
    "roa-quick-exhaustive": "roa:search=coarse,steps=15,step=0.3,schedule=linear,momentum=0.5",
    "fia-quick": "fia:masks=10,step=4.8/255,schedule=linear,momentum=0.9",
}
"""The attacks of the papers for less work: how strong each is beside them, `python -m benchmarks.crafting` says."""

BALLS: dict[str, Callable[..., Linf | L2]] = {"linf": Linf, "l2": L2}

DEFAULT_RADIUS = {"linf": 8 / 255, "l2": 0.5}


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
    return re.sub(r"[^A-Za-z0-9.+-]", "", text.replace(":", "-").replace(",", "-").replace("/", "o")), parse_attack(
        text
    )


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


def parse_attack(text: str) -> Attack:
    """`NAME[:key=value,...]`; joined by `+` they are the strongest of several, image by image, joined by `|` one of them
    for each image, by chance (bound less tightly than `+`).

    Values may be fractions. For attacks in a ball the keys are `norm` (linf, l2) and `radius`.

    >>> parse_attack("pgd:radius=4/255,steps=5").steps
    5
    >>> parse_attack("fia-quick:steps=5").masks  # a preset, and a change to it
    10

    Raises BadConfigError for an unknown name or key, with the near misses, and for a value that does not fit.
    """
    choices = text.split("|")
    if len(choices) > 1:
        return OneOf(attacks=tuple(parse_attack(choice) for choice in choices))
    parts = re.split(r"\+(?=[a-z])", text)
    if len(parts) > 1:
        return WorstOf(attacks=tuple(parse_attack(part) for part in parts))
    name, _, options = text.partition(":")
    settings = parse_options(options, text)
    if name in PRESETS:
        name, _, preset = PRESETS[name].partition(":")
        settings = parse_options(preset, text) | settings
    if name not in ATTACKS:
        raise BadConfigError(f"unknown attack {name!r}; {did_you_mean(name, [*ATTACKS, *PRESETS])}")
    make = ATTACKS[name]
    hints = {k: v for k, v in get_type_hints(make).items() if k in {f.name for f in dataclasses.fields(make)}}  # type: ignore[arg-type]
    given: dict[str, Any] = {}
    if "ball" in hints:
        given |= _ball(name, settings)
        hints = {k: v for k, v in hints.items() if k != "ball"}
    for key, value in settings.items():
        if key not in hints:
            known = [*hints, *(["norm", "radius"] if "ball" in given else [])]
            raise BadConfigError(f"attack {name!r} has no setting {key!r}; {did_you_mean(key, known)}")
        given[key] = _value(f"{name}:{key}", value, hints[key])
    return make(**given)


def _ball(name: str, settings: dict[str, str]) -> dict[str, Any]:
    """Takes `norm` and `radius` out of `settings`; nothing where neither is there (the attack's own default)."""
    norm, radius = settings.pop("norm", None), settings.pop("radius", None)
    if norm is None and radius is None:
        return {}
    norm = norm or "linf"
    if norm not in BALLS:
        raise BadConfigError(f"{name}:norm is {norm!r}; {did_you_mean(norm, BALLS)}")
    size = DEFAULT_RADIUS[norm] if radius is None else _value(f"{name}:radius", radius, float)
    return {"ball": BALLS[norm](radius=size)}


def _value(where: str, text: str, kind: Any) -> Any:
    fraction = re.fullmatch(r"([0-9.eE+-]+)/([0-9.eE+-]+)", text)
    try:
        value: object = float(fraction[1]) / float(fraction[2]) if fraction else text
        if isinstance(value, str) and value.lower() == "none":
            value = None
        return TypeAdapter(kind).validate_python(value)
    except (ValidationError, ValueError, ZeroDivisionError) as error:
        said = error.errors()[0]["msg"] if isinstance(error, ValidationError) else str(error)
        raise BadConfigError(f"{where} is {text!r}; {said[:1].lower() + said[1:]}") from error


def reseeded(attack: Attack, seed: int) -> Attack:
    """The same setting with other draws, for an attack that is repeated at every step."""
    names = {f.name for f in dataclasses.fields(attack)}  # type: ignore[arg-type]
    changes: dict[str, object] = {}
    if "attacks" in names and not isinstance(attack, AutoAttack):
        changes["attacks"] = tuple(reseeded(member, seed) for member in attack.attacks)  # type: ignore[attr-defined]
    if "seed" in names:
        changes["seed"] = mix(attack.seed, seed)  # type: ignore[attr-defined]
    return dataclasses.replace(attack, **changes)  # type: ignore[type-var]


def layers_read(attack: object) -> set[str]:
    """Names of the layers whose output an attack, or a member of it, looks at."""
    members = getattr(attack, "attacks", None) or ()  # AutoAttack's may be None, or names, which look at no layer
    named = getattr(attack, "layer", None)
    return set().union(*map(layers_read, members), {named} if named else ())
