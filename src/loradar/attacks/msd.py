"""MSD, multi steepest descent: PGD in a union of balls, each step in the ball where it harms most."""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

import torch
from torch import nn

from loradar.attacks.ascend import steepest_or_aside
from loradar.attacks.base import BaseAttack
from loradar.attacks.objectives import Objective, borrowed, detour, gradient_and_gaps, kept, objective_of
from loradar.attacks.pgd import PGD
from loradar.attacks.registry import register
from loradar.attacks.settings import setting
from loradar.attacks.worst_of import traits_of_parts
from loradar.core.errors import BadConfigError
from loradar.core.types import Attack, Images, Labels, LabelUse, Traits


@register("msd")
@dataclass(frozen=True, kw_only=True)
class MSD(BaseAttack):
    """Maini, Wong and Kolter, "Adversarial Robustness Against the Union of Multiple Perturbation Models", 2020, algorithm 1.

    At every step each of `attacks`, which are all `pgd`, proposes its own step from the common iterate, projected into its
    own ball, and each image takes the proposal of highest loss. The paper starts at the image (random_start=false); where
    members start at random, the start of highest loss is taken. Members have the same steps, loss and keep, and no
    restarts. A step costs one gradient and as many forward passes as there are members.
    """

    attacks: tuple[Attack, ...] = setting(
        (PGD(), PGD(norm="l2")), "Two or more pgd, joined by + and in double quotes, whose balls are united."
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        for attack in self.attacks:
            if not isinstance(attack, PGD):
                raise BadConfigError(f"attacks is {attack.spec} among others; msd takes gradient steps of pgd alone")
            if attack.restarts > 1:
                raise BadConfigError(f"attacks is {attack.spec} among others; msd takes pgd without restarts")
        for key in ("steps", "loss", "keep"):
            if len(values := dict.fromkeys(getattr(attack, key) for attack in self.attacks)) > 1:
                raise BadConfigError(
                    f"attacks is of {key} {' and '.join(map(str, values))}; msd takes pgd of the same {key}"
                )

    @property
    def traits(self) -> Traits:
        """Those of its parts; every image is asked for at every step."""
        return dataclasses.replace(traits_of_parts(self.attacks), whole_batches=True)

    def reseeded(self, seed: int) -> "MSD":
        """Other draws of every part."""
        return MSD(attacks=tuple(attack.reseeded(seed) for attack in self.attacks))

    def relabelled(self, label: LabelUse) -> "MSD":
        """Every part with the labels used so."""
        return MSD(attacks=tuple(attack.relabelled(label) for attack in self.attacks))

    def __call__(self, model: nn.Module, x: Images, y: Labels) -> Images:
        """(batch, C, H, W) in [0, 1] and in one of the balls around `x`. Raises BadImagesError."""
        members = cast(tuple[PGD, ...], self.attacks)
        with borrowed(model, x, y) as (x, y):
            objective = objective_of(model, x, y, members[0].loss, members[0].keep)
            x_adv = x
            if any(member.random_start for member in members):
                x_adv = _worst(objective, [member.start(x) for member in members])
            asides = [member.ball.steepest(detour(x)) for member in members]
            for _ in range(members[0].steps):
                grad, gaps = gradient_and_gaps(objective, x_adv)
                steps = [
                    member.size_of_step * steepest_or_aside(member.ball, grad, gaps, aside)
                    for member, aside in zip(members, asides, strict=True)
                ]
                moved = [m.ball.project(x_adv + step, x).clamp(0, 1) for m, step in zip(members, steps, strict=True)]
                x_adv = _worst(objective, moved)
            return kept(objective, x_adv)


@torch.no_grad()
def _worst(objective: Objective, proposals: Sequence[Images]) -> Images:
    """Of each image the proposal of highest loss, the first of equal ones; one that the model answers NaN to comes first."""
    values = torch.stack([objective(x_adv).nan_to_num(nan=torch.inf) for x_adv in proposals])
    rows = torch.arange(values.shape[1], device=values.device)
    return torch.stack(list(proposals))[values.argmax(0), rows]
