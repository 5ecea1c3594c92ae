"""Which adapters a run trains: one per attack, and beside each the baselines that its deltas must beat."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from loradar.attacks import named_attacks
from loradar.core.errors import BadConfigError
from loradar.core.names import check_names
from loradar.core.types import Attack
from loradar.jobs.config import HardenConfig

Kind = Literal["adapter", "zeros", "fc-only", "fc+norm", "full"]
BASELINES: tuple[Kind, ...] = ("fc-only", "fc+norm", "full")
"""Trainings without low-rank updates: of less, which shows what these add; of every parameter, which shows what they cost."""
_FULL_RATE = 0.1
"""Learning rate of full fine-tuning, in multiples of that of the low-rank updates: these want about ten times as much."""
Target = Literal["base", "defended"]
TARGETS: tuple[Target, ...] = ("base", "defended")


@dataclass(frozen=True, kw_only=True)
class Member:
    """One training. `name` is its folder; `model` is what report rows call it; `against` names the attack,
    and `target` the model that it is crafted against. `learning_rate` is the highest of its schedule."""

    name: str
    model: str
    kind: Kind
    against: str
    attack: Attack
    target: Target
    learning_rate: float


def plan(config: HardenConfig, attacks: Mapping[str, Attack] | None = None) -> tuple[Member, ...]:
    """Every training of a run, adapters first.

    `attacks` take the place of those that `config.attacks` spells out. Raises BadConfigError for two attacks of one name.
    """
    if attacks is None:
        attacks = named_attacks(config.attacks)
        targets = [_target(spec, config.attack_target) for spec in config.attacks]
    else:
        targets = [config.attack_target] * len(attacks)
    check_names(attacks, "an attack")
    for name in attacks:
        if name in ("base", *BASELINES):
            raise BadConfigError(f"an attack is called {name!r}, as a model of the report is; give it another name")
    crafted_on = dict(zip(attacks, targets, strict=True))
    full_rate = _FULL_RATE * config.learning_rate if config.full_learning_rate is None else config.full_learning_rate

    def member(against: str, kind: Kind) -> Member:
        name = against if kind == "adapter" else f"{against}-{kind}"
        # the report knows baselines by their kind alone; adapters, the literal one among them, by their name
        model = f"full, rate {full_rate:g}" if kind == "full" else kind if kind in BASELINES else name
        return Member(
            name=name,
            model=model,
            kind=kind,
            against=against,
            attack=attacks[against],
            target=crafted_on[against],
            learning_rate=full_rate if kind == "full" else config.learning_rate,
        )

    literal: tuple[Kind, ...] = ("zeros",) if config.literal else ()
    baselines: tuple[Kind, ...] = ("fc-only", "fc+norm") if config.baselines else ()
    full: tuple[Kind, ...] = ("full",) if config.full else ()
    beside = (*literal, *baselines, *full)
    members = (
        *(member(name, "adapter") for name in attacks),
        *(member(name, kind) for name in attacks for kind in beside),
    )
    names = [one.name for one in members]
    if twice := next((name for name in names if names.count(name) > 1), None):
        raise BadConfigError(f"an attack is called {twice!r}, as a baseline of another one is; give it another name")
    check_names(names, "an adapter")
    return members


def _target(spec: str, default: Target) -> Target:
    _, at, target = spec.partition("@")
    if at and target not in TARGETS:
        raise BadConfigError(f"{spec!r} asks for the target {target!r}; expected {' or '.join(map(repr, TARGETS))}")
    return next((known for known in TARGETS if known == target), default)
