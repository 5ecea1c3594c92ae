"""The battery: an adaptive figure is the worst, image by image, over several attacks of the same threat.

The threat is the set that the configured attack moves in. Members run in turn, each on the images that still resist.
"""

import importlib.util
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from torch import Tensor

from loradar.attacks import APGD, ROA, AutoAttack, Smooth
from loradar.core.balls import L2, Linf, Norm
from loradar.core.config import Effort
from loradar.core.types import Attack, NormBall
from loradar.evaluation.names import kind

Shape = tuple[int, int, int]
Region = NormBall | tuple[int, int]

HARDER: dict[Effort, Effort] = {"quick": "standard", "standard": "full", "full": "full"}
"""What an effort is checked by, on some of its images; `full` by itself with other draws."""

RULE = (
    "An adaptive figure counts the images that are right without an attack and under every attack below. They run in turn, "
    "each on the images that are still right: the configured attack; others that move in the same set, more of them and for "
    "longer with more effort; and images that the configured attack crafts on the other models. Where it says so, the next "
    "effort up was tried on some of the images; it should break none that the figure counts."
)

_EXHAUSTIVE = 1024
"""Positions of a rectangle that are all painted; of more, a coarse search paints a ninth at first."""
_SPREAD: dict[Effort, dict[str, Any]] = {
    "standard": {"restarts": 40, "steps": 10, "step_size": 0.4, "schedule": "linear", "momentum": 0.5},
    "full": {"restarts": 256, "steps": 20, "step_size": 0.2, "schedule": "linear", "momentum": 0.5},
}
"""ROA at many positions, half a rectangle apart: the most harmful ones of a dense grid are neighbours, and so nearly one.
On digits, 20 positions apart break 10 points more than the 20 best of all, and 40 nearly as many as all 100."""
_DENSE: dict[Effort, dict[str, Any]] = {
    "standard": {"restarts": 3, "steps": 10, "step_size": 0.4, "schedule": "linear", "momentum": 0.5},
    "full": {"restarts": 10, "steps": 150, "step_size": 0.05},
}
"""ROA at the most harmful of all positions, in the authors' own setting with full effort."""
_FORWARD = 1 / 3
"""A forward pass, in forward and backward passes."""


@dataclass(frozen=True, kw_only=True)
class BatteryMember:
    """One attack of a battery. `passes` are forward and backward passes per image, about and at most.

    `crafted_on` names the model whose images are tried, "" the measured model itself. With `where_blind`, only images
    whose loss has no gradient are attacked. Without `probes`, it costs too much for checking a figure of less effort.
    """

    name: str
    attack: Attack
    passes: float = 0.0
    crafted_on: str = ""
    where_blind: bool = False
    probes: bool = True


@dataclass(frozen=True, kw_only=True)
class MemberResult:
    """What a member did: of `tried` images that were right until then, it `broke` so many."""

    name: str
    attack: str
    crafted_on: str
    tried: int
    broke: int


def members(attack: Attack, effort: Effort, *, shape: Shape, classes: int) -> tuple[BatteryMember, ...]:
    """What is tried on the model itself after `attack`, for each set that it moves in; the cheap ones first.

    `shape` is an image's (channels, height, width). An attack that moves in no norm ball and no rectangle stands alone.

    >>> from loradar.attacks import PGD
    >>> [member.name for member in members(PGD(), "quick", shape=(3, 32, 32), classes=10)]
    ['Smooth', 'APGD-CE', 'APGD-DLR']
    """
    found: list[BatteryMember] = []
    for region in regions(attack):
        if isinstance(region, tuple):
            found += _in_rectangle(region, effort, shape)
        elif isinstance(region, Linf | L2) and region.radius > 0:
            found += _in_ball(region, effort, shape, classes)
    return tuple(found)


def regions(attack: Attack) -> tuple[Region, ...]:
    """The sets that an attack moves in: its own, or those of its parts, each once."""
    traits = attack.traits
    if traits.parts:
        return tuple(dict.fromkeys(region for part in traits.parts for region in regions(part)))
    return () if traits.region is None else (traits.region,)


def transfers(attack: Attack, others: Sequence[str]) -> tuple[BatteryMember, ...]:
    """The images that `attack` crafts on other models of the report."""
    name = kind(attack.spec)
    return tuple(BatteryMember(name=f"{name} on {other}", attack=attack, crafted_on=other) for other in others)


def probe_members(attack: Attack, effort: Effort, *, shape: Shape, classes: int) -> tuple[BatteryMember, ...]:
    """What a figure of `effort` is checked by: the next effort up, but for what costs more than all of it."""
    harder = HARDER[effort]
    tried = [one for one in members(attack, harder, shape=shape, classes=classes) if one.probes]
    if harder == effort:
        tried = [replace(one, attack=one.attack.reseeded(1)) for one in tried]
    return tuple(tried)


def passes(battery: Sequence[BatteryMember]) -> float:
    """Forward and backward passes for an image that has a gradient and survives every member."""
    return sum(member.passes for member in battery if not member.where_blind)


def run_battery(
    battery: Sequence[BatteryMember],
    right: Tensor,
    survives: Callable[[BatteryMember, Tensor], Tensor],
    blind: Callable[[], Tensor],
) -> tuple[Tensor, tuple[MemberResult, ...]]:
    """The images of `right` (bool, one for each image) that survive every member, and what each member broke.

    `survives` says for a member and some images (indices) which of them stay right; `blind` says of all images which have
    no gradient, and is asked once at most.
    """
    right, unseen, results = right.clone(), None, []
    for member in battery:
        tried = right
        if member.where_blind:
            unseen = blind() if unseen is None else unseen
            tried = right & unseen
        rows = torch.nonzero(tried).squeeze(1)
        held = survives(member, rows) if len(rows) else right.new_zeros(0)
        right[rows] = held
        results.append(
            MemberResult(
                name=member.name,
                attack=member.attack.spec,
                crafted_on=member.crafted_on,
                tried=len(rows),
                broke=len(rows) - int(held.sum()),
            )
        )
    return right, tuple(results)


def _in_ball(ball: Linf | L2, effort: Effort, shape: Shape, classes: int) -> list[BatteryMember]:
    norm: Norm = "linf" if isinstance(ball, Linf) else "l2"
    eps = ball.radius
    steps, smooth_steps, restarts = {"quick": (20, 10, 1), "standard": (50, 20, 1), "full": (100, 50, 3)}[effort]
    cells = max(1, min(shape[1:]) // 4)
    smooth = Smooth(eps=eps, norm=norm, cells=cells, steps=smooth_steps, restarts=restarts, loss="margin")
    found = [
        BatteryMember(name="Smooth", attack=smooth, passes=smooth_steps * restarts),
        BatteryMember(name="APGD-CE", attack=APGD(eps=eps, norm=norm, steps=steps), passes=steps),
        _ratio_of_logits(eps, norm, effort, steps, classes),
    ]
    if effort != "quick" and importlib.util.find_spec("pyautoattack"):
        square = AutoAttack(eps=eps, norm=norm, attacks=("square",))
        found.append(BatteryMember(name="Square", attack=square, passes=5000 * _FORWARD, where_blind=True))
    if effort == "full" and importlib.util.find_spec("pyautoattack"):
        # apgd-ce and apgd-t of 100 steps, fab-t of 100 steps with 2 passes each, 5,000 queries of square
        targets = min(9, classes - 1)
        cost = 100 * (1 + targets) + 200 * targets + 5000 * _FORWARD
        found.append(BatteryMember(name="AutoAttack", attack=AutoAttack(eps=eps, norm=norm), passes=cost, probes=False))
    return found


def _ratio_of_logits(eps: float, norm: Norm, effort: Effort, steps: int, classes: int) -> BatteryMember:
    """APGD on the difference of logits ratio, targeted where there is time; on the margin where there are too few classes."""
    if classes < 3:
        return BatteryMember(
            name="APGD-margin", attack=APGD(eps=eps, norm=norm, loss="margin", steps=steps), passes=steps
        )
    if effort == "quick" or classes < 4:
        return BatteryMember(name="APGD-DLR", attack=APGD(eps=eps, norm=norm, loss="dlr", steps=steps), passes=steps)
    targets = min(3 if effort == "standard" else 9, classes - 1)
    attack = APGD(eps=eps, norm=norm, loss="dlr-targeted", steps=steps, n_targets=targets)
    return BatteryMember(name="APGD-T", attack=attack, passes=steps * targets)


def _in_rectangle(size: tuple[int, int], effort: Effort, shape: Shape) -> list[BatteryMember]:
    if effort == "quick":
        return []
    stride = (min(size) + 1) // 2
    return [
        _roa("ROA-margin", size, shape, loss="margin", stride=stride, **_SPREAD[effort]),
        # so that a figure is checked by what breaks most for its time
        replace(_roa("ROA-CE", size, shape, loss="cross_entropy", stride=1, **_DENSE[effort]), probes=False),
    ]


def _roa(name: str, size: tuple[int, int], shape: Shape, *, stride: int, **settings: Any) -> BatteryMember:
    """ROA of `settings`, with no more restarts than positions."""
    height, width = size
    # the last row and column are positions, too
    positions = (-(-(shape[1] - height) // stride) + 1) * (-(-(shape[2] - width) // stride) + 1)
    everywhere = positions <= _EXHAUSTIVE
    search: Literal["exhaustive", "coarse"] = "exhaustive" if everywhere else "coarse"
    settings["restarts"] = min(settings["restarts"], positions)
    attack = ROA(
        height=height,
        width=width,
        stride=stride,
        search=search,
        keep="best",
        **settings,
    )
    painted = positions if everywhere else positions / 9 + 75
    return BatteryMember(name=name, attack=attack, passes=painted * _FORWARD + attack.restarts * attack.steps)
