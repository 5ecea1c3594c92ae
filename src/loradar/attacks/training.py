"""Cheaper attacks on the same threat, to train against, and stronger ones, to choose epochs by."""

import dataclasses

from loradar.attacks.fgsm import FGSM
from loradar.attacks.msd import MSD
from loradar.attacks.occlusion import ROA
from loradar.attacks.pgd import PGD
from loradar.attacks.random_choice import RandomChoice
from loradar.attacks.worst_of import WorstOf
from loradar.core.balls import L2, Linf, Norm
from loradar.core.types import Attack

_CANDIDATES = 4
"""Positions that the cheap ROA paints, among those of the largest gradient on a grid of half a rectangle: of all positions,
the four of the largest gradient are neighbours, and so nearly one."""
_RECTANGLE_STEPS = 10
"""Steps of the cheap ROA, at least. A pixel of a rectangle may cross its whole range, where a norm ball leaves it a few
255ths, so one or two steps fill a rectangle badly, and what withstands those does not withstand more."""


def training_attack(attack: Attack, steps: int, *, escalations: int = 0) -> Attack:
    """Returns an attack of `steps` gradient steps that moves images in the same set as `attack`; to train against.

    In a norm ball of one step it is N-FGSM, which does not overfit as FGSM does, and of several PGD. In a rectangle it is
    ROA with few candidates and ten large steps that shrink, or more. Several attacks are cheapened each (those of MSD of one
    step are the worst of several); any other is returned as it is.
    Each of `escalations` makes it harder to fool: more noise for one step in a norm ball, else a further step.
    """
    if isinstance(attack, WorstOf | RandomChoice | MSD):
        parts = tuple(training_attack(part, steps, escalations=escalations) for part in attack.attacks)
        if isinstance(attack, MSD) and steps == 1:  # of one step, there is nothing to choose in between
            return WorstOf(attacks=parts)
        return dataclasses.replace(attack, attacks=parts)
    more = steps + escalations
    match attack.traits.region:
        case Linf(radius=eps):
            return _in_ball("linf", eps, more if steps > 1 else 1, 2.0 + escalations)
        case L2(radius=eps):
            return _in_ball("l2", eps, more if steps > 1 else 1, 1.0 + escalations)
        case (height, width):
            more = max(steps, _RECTANGLE_STEPS) + escalations
            # the first step may cross much of the range of a pixel, the last ones settle
            size = 2 / (1 + more)
            return ROA(
                height=height,
                width=width,
                stride=(min(height, width) + 1) // 2,
                n_candidates=_CANDIDATES,
                steps=more,
                step_size=size,
                schedule="linear",
            )
        case _:
            return attack


def _in_ball(norm: Norm, eps: float, steps: int, noise: float) -> Attack:
    if steps == 1:
        return FGSM(eps=eps, norm=norm, noise=noise, clip=False)
    return PGD(eps=eps, norm=norm, steps=steps, step_size=1.5 * eps / steps)


def selection_attack(attack: Attack) -> Attack:
    """Returns an attack on the same threat that epochs are chosen by: stronger than what `training_attack` gives.

    In a norm ball PGD of ten steps on the margin, which is no loss that training descends; ROA of thirty steps at least; any
    other is returned as it is.
    """
    if isinstance(attack, WorstOf | RandomChoice | MSD):
        return WorstOf(attacks=tuple(map(selection_attack, attack.attacks)))
    if isinstance(attack, ROA):
        return dataclasses.replace(attack, steps=max(attack.steps, 3 * _RECTANGLE_STEPS))
    match attack.traits.region:
        case Linf(radius=eps):
            return PGD(eps=eps, steps=10, loss="margin")
        case L2(radius=eps):
            return PGD(eps=eps, norm="l2", steps=10, loss="margin")
        case _:
            return attack
