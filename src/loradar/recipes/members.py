"""Which adapters a run trains: one per attack, and beside each the baselines that its deltas must beat."""

from dataclasses import dataclass
from typing import Literal

from loradar.config import HardenConfig
from loradar.core.errors import BadConfigError
from loradar.core.types import Attack
from loradar.recipes.build import named_attack

Kind = Literal["adapter", "zeros", "fc-only", "fc+norm"]


@dataclass(frozen=True, kw_only=True)
class Member:
    """One training. `name` is its folder; `model` is what report rows call it; `against` names the attack."""

    name: str
    model: str
    kind: Kind
    against: str
    attack: Attack


def plan(config: HardenConfig) -> tuple[Member, ...]:
    """Every training of a run, adapters first. Raises BadConfigError for two attacks of one name."""
    attacks = named(config.attacks)
    members = [Member(name=n, model=n, kind="adapter", against=n, attack=a) for n, a in attacks.items()]
    for name, attack in attacks.items():
        if config.literal:
            zeros = f"{name}-zeros"
            members.append(Member(name=zeros, model=zeros, kind="zeros", against=name, attack=attack))
        if config.baselines:
            kinds: tuple[Kind, ...] = ("fc-only", "fc+norm")
            members += [Member(name=f"{name}-{k}", model=k, kind=k, against=name, attack=attack) for k in kinds]
    return tuple(members)


def named(specs: list[str]) -> dict[str, Attack]:
    """Attacks by name, in order. Raises BadConfigError for none, and for two of one name."""
    if not specs:
        raise BadConfigError("no attack is given; expected at least one, for example roa")
    found: dict[str, Attack] = {}
    for spec in specs:
        name, attack = named_attack(spec)
        if name in found:
            raise BadConfigError(f"two attacks are called {name!r}; give one another name (MYNAME=NAME:key=value)")
        found[name] = attack
    return found
