"""Attacks as folders of before named them: Python's repr of the setting, and specs in the words of then.

The tables hold the words and defaults of that time and do not change any more.
"""

import ast
from typing import Any

from loradar.core.attack_specs import GroupSpec, NamedSpec, number_text, read_spec, snapped, write_group, write_spec
from loradar.core.errors import BadConfigError

NEW_WORDS = {
    "radius": "eps",
    "step": "step_size",
    "masks": "n_masks",
    "drop": "drop_prob",
    "candidates": "n_candidates",
    "start": "init",
    "ball": "norm and eps",
}
"""Words of configs written before, and what they are called now."""

_EPS = {"linf": 8 / 255, "l2": 0.5}
_NORM = {"eps": _EPS, "norm": "linf"}
_CLASSES: dict[str, tuple[str, dict[str, Any]]] = {
    "FGSM": ("fgsm", {**_NORM, "seed": 0}),
    "UniformNoise": ("noise", {**_NORM, "seed": 0}),
    "MIFGSM": ("mi-fgsm", {**_NORM, "steps": 10, "step_size": None, "momentum": 1.0, "seed": 0}),
    "PGD": (
        "pgd",
        {
            **_NORM,
            "steps": 10,
            "step_size": None,
            "restarts": 1,
            "random_start": True,
            "loss": "cross_entropy",
            "seed": 0,
        },
    ),
    "FIA": (
        "fia",
        {
            "eps": {"linf": 16 / 255, "l2": 0.5},
            "norm": "linf",
            "layer": "layer2",
            "n_masks": 30,
            "drop_prob": 0.3,
            "steps": 10,
            "step_size": 1.6 / 255,
            "schedule": "constant",
            "momentum": 1.0,
            "label": "true",
            "seed": 0,
        },
    ),
    "Pyramid": (
        "pyramid",
        {"eps": 6 / 255, "steps": 2, "step_size": None, "random_start": True, "loss": "kl", "seed": 0},
    ),
    "ROA": (
        "roa",
        {
            "height": 5,
            "width": 5,
            "stride": 1,
            "search": "gradient",
            "n_candidates": 20,
            "steps": 30,
            "step_size": 0.05,
            "schedule": "constant",
            "momentum": 0.0,
            "init": "grey",
            "restarts": 1,
            "seed": 0,
        },
    ),
    "AutoAttack": ("autoattack", {**_NORM, "attacks": None, "seed": 0}),
    "Corrupted": ("corrupted", {"corruption": None, "severity": 3, "seed": 0}),
    "Evading": ("evade", {"attack": None, "steps": 20, "weight": 1.0}),
    "DetectorEvasion": ("evade", {"attack": None, "steps": 20, "weight": 1.0}),
}
_PIXELS = ("eps", "step_size")
_NAMING = ("attack", "trained_against")


def spec_of_repr(text: str) -> str:
    """The spec of an attack that an older folder holds as a repr; `text` itself where it is none.

    >>> spec_of_repr("PGD(ball=Linf(radius=0.03137254901960784), step=None, steps=20, seed=0)")
    'pgd:steps=20'
    >>> spec_of_repr("none")
    'none'
    """
    if "(" not in text or len(text) > 100_000:
        return text
    try:
        return _spec(ast.parse(text, mode="eval").body)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return text


def with_specs(values: Any) -> Any:
    """The same values of a JSON file with `attack` and `trained_against` as specs, at any depth."""
    if isinstance(values, list):
        return [with_specs(value) for value in values]
    if not isinstance(values, dict):
        return values
    return {
        key: spec_of_repr(value) if key in _NAMING and isinstance(value, str) else with_specs(value)
        for key, value in values.items()
    }


def upgraded_spec(text: str) -> str:
    """A spec in the words of before (`radius=`, `step=`, ...) in those of now; `text` itself where it is none.

    >>> upgraded_spec("l2=pgd:norm=l2,radius=1,step=0.1")
    'l2=pgd:norm=l2,eps=1,step_size=0.1'
    """
    own, sign, rest = text.partition("=")
    if not sign or any(letter in own for letter in ":,|+("):
        own, sign, rest = "", "", text
    try:
        return own + sign + _renamed(read_spec(rest))
    except BadConfigError:
        return text


def _renamed(spec: NamedSpec | GroupSpec) -> str:
    if isinstance(spec, GroupSpec):
        return write_group(spec.sign, [_renamed(part) for part in spec.parts], spec.options)
    words = {key: new for key, new in NEW_WORDS.items() if key != "ball"}
    return write_spec(spec.name, {words.get(k, k): v.lower() if k == "norm" else v for k, v in spec.options.items()})


def _spec(node: ast.expr) -> str:
    """Raises ValueError for what is no attack of then."""
    if isinstance(node, ast.BoolOp) and isinstance(node.op, ast.Or):  # the budgets of a meta-tuning
        return " or ".join(_spec(value) for value in node.values)
    if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Name) or node.args:
        raise ValueError("not the repr of an attack")
    fields = {str(keyword.arg): keyword.value for keyword in node.keywords}
    if node.func.id in ("WorstOf", "OneOf"):
        return _group(node.func.id, fields)
    if node.func.id not in _CLASSES:
        raise ValueError("not the repr of an attack")
    name, defaults = _CLASSES[node.func.id]
    found = _values(fields)
    norm = found.get("norm", "linf")
    options = {}
    for key, default in defaults.items():
        value = found.pop(key, default)
        value = snapped(value) if key in _PIXELS and isinstance(value, float) else value
        if value != (default[norm] if isinstance(default, dict) else default) and value is not default:
            options[key] = _text(value)
    if found:
        raise ValueError("fields that no attack had")
    return write_spec(name, options)


def _group(kind: str, fields: dict[str, ast.expr]) -> str:
    parts = fields.get("attacks")
    if not isinstance(parts, ast.Tuple) or not parts.elts:
        raise ValueError("no parts")
    specs = [_spec(part) for part in parts.elts]
    if kind == "WorstOf":
        return write_group("+", specs, {})
    seed = ast.literal_eval(fields["seed"]) if "seed" in fields else 0
    return write_group("|", specs, {"seed": str(seed)} if seed else {})


def _values(fields: dict[str, ast.expr]) -> dict[str, Any]:
    """The fields by their names of now; a ball becomes a norm and a radius."""
    found: dict[str, Any] = {}
    for key, node in fields.items():
        if key == "ball":
            if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Name):
                raise ValueError("not a ball")
            found |= {"norm": node.func.id.lower(), "eps": ast.literal_eval(node.keywords[0].value)}
        elif key == "attack":
            found[key] = _spec(node)
        else:
            found[NEW_WORDS.get(key, key)] = ast.literal_eval(node)
    if found.get("norm", "linf").lower() not in _EPS:
        raise ValueError("not a norm")
    return {key: value.lower() if key == "norm" else value for key, value in found.items()}


def _text(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float):
        return number_text(value)
    return "/".join(value) if isinstance(value, tuple) else "none" if value is None else str(value)
