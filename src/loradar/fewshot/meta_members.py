"""Which trainings a meta-tuning has: a member of the pool for each budget, and the baselines beside them."""

from dataclasses import dataclass
from typing import Literal

from loradar.attacks import parse_attack
from loradar.core.errors import BadConfigError, did_you_mean
from loradar.core.types import Attack
from loradar.fewshot.config import MetaTuneConfig
from loradar.fewshot.heads import CENTROID, HeadConfig

Kind = Literal["member", "clean", "random-budget", "random-budget-unperturbed"]


@dataclass(frozen=True, kw_only=True)
class MetaMember:
    """One training, in the folder `name`, under a head made of each task's support.

    Each task meets one of `attacks`; none for clean meta-tuning.
    """

    name: str
    kind: Kind
    attacks: tuple[Attack, ...]
    head: HeadConfig

    @property
    def is_pooled(self) -> bool:
        return self.kind == "member"


def plan(config: MetaTuneConfig) -> tuple[MetaMember, ...]:
    """Every training, the pool first. Raises BadConfigError for budgets or members that do not fit."""
    if not config.eps_255 or len(set(config.eps_255)) != len(config.eps_255):
        raise BadConfigError(f"budgets are {config.eps_255}; expected one or more, none of them twice")
    attacks = tuple(_attack(config, budget) for budget in config.eps_255)
    head = HeadConfig(kind=config.head)
    found = [
        MetaMember(name=f"eps-{budget:g}", kind="member", attacks=(attack,), head=head)
        for budget, attack in zip(config.eps_255, attacks, strict=True)
    ]
    if config.baselines:
        found.append(MetaMember(name="clean", kind="clean", attacks=(), head=CENTROID))  # as published
        found.append(MetaMember(name="random-budget", kind="random-budget", attacks=attacks, head=head))
    if config.ablations:
        name: Kind = "random-budget-unperturbed"
        found.append(MetaMember(name=name, kind=name, attacks=attacks, head=head))
    for wanted in config.member:
        if wanted not in {one.name for one in found}:
            raise BadConfigError(f"there is no member {wanted!r}; {did_you_mean(wanted, [one.name for one in found])}")
    return tuple(found)


def _attack(config: MetaTuneConfig, budget: float) -> Attack:
    name, _, settings = config.attack.partition(":")
    if name not in ("pgd", "pyramid"):
        raise BadConfigError(f"attack is {config.attack!r}; expected pgd or pyramid, with settings")
    for taken in ("eps", "step_size"):
        if any(part.partition("=")[0].strip() == taken for part in settings.split(",")):
            raise BadConfigError(f"attack sets {taken}, which follows from --eps-255 and --step; leave it out")
    own = f"eps={budget}/255,step_size={budget * config.step}/255"
    return parse_attack(f"{name}:{settings},{own}" if settings else f"{name}:{own}")
