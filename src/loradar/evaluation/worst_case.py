"""Adaptive figures: the worst over a battery, with what is needed to believe them."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

import torch
from torch import Tensor, nn

from loradar.attacks import without_gradient
from loradar.attacks.objectives import LabelLoss, logits_of
from loradar.core.config import Effort
from loradar.core.errors import BadConfigError
from loradar.core.losses import margin
from loradar.core.modules import evaluating
from loradar.core.types import Attack, Images, Labels
from loradar.evaluation.battery import (
    HARDER,
    BatteryMember,
    MemberResult,
    Shape,
    members,
    probe_members,
    run_battery,
    transfers,
)
from loradar.evaluation.masking_checks import Check, check_transfer
from loradar.evaluation.measure import AccuracyResult, correct, device_of
from loradar.evaluation.names import kind, labels

PROBED = 100
"""Images, at most, on which a figure is tried by the next effort up."""
TOLERATED = 0.03
"""Share of those images that may break further before the report says so."""


class Target(Protocol):
    """A model that is attacked: how it is called, what attacks and counting see of it, and how it is attacked."""

    @property
    def name(self) -> str: ...
    @property
    def trained_against(self) -> str: ...
    @property
    def batch_size(self) -> int: ...

    def model_for(self, attack: Attack | None) -> nn.Module:
        """The model as `attack` sees it, and as its images are counted."""
        ...

    def attacked(self, attack: Attack, x: Images, y: Labels, *, name: str) -> Images:
        """`attack` on the model at every image, float32 on the CPU; `name` is for progress."""
        ...


@dataclass(frozen=True, kw_only=True)
class Probe:
    """The reported figure tried by a costlier effort: of the first `total` images `right` held, `broke` of them no more."""

    effort: Effort
    total: int
    right: int
    broke: int

    @property
    def is_beaten(self) -> bool:
        """Whether the reported figure is too high by more than TOLERATED."""
        return self.broke > TOLERATED * self.total


@dataclass(frozen=True, kw_only=True)
class BatteryResult:
    """How an adaptive figure came about. The first member is the configured attack, `attack`.

    Of the `clean` images that were right before any attack, it `raised` the loss (the margin of the logits) of so many.
    `blind` are the images, by their place, whose cross-entropy has no usable gradient.
    """

    model: str
    trained_against: str = ""
    attack: str
    effort: Effort
    total: int
    clean: int
    raised: int
    blind: tuple[int, ...] = ()
    members: tuple[MemberResult, ...]
    probe: Probe | None = None

    @property
    def candidate(self) -> tuple[str, str]:
        """As in `AccuracyResult`."""
        return self.model, self.trained_against


@dataclass(frozen=True, kw_only=True)
class WorstCase:
    """An adaptive figure over a battery; `alone` counts the configured attack by itself."""

    row: AccuracyResult
    alone: AccuracyResult
    battery: BatteryResult


def worst_case(
    target: Target,
    attack: Attack,
    x: Images,
    y: Labels,
    *,
    effort: Effort,
    others: Sequence[Target] = (),
    seed: int = 0,
    probed: bool = False,
) -> WorstCase:
    """How many images `target` answers rightly whichever member of the battery attacks them, and if none does.

    `others` are models whose attacked images are tried too. With `probed`, the next effort up is tried on PROBED images.
    """
    count = len(y)
    model = target.model_for(attack)
    x_adv = target.attacked(attack, x, y, name=f"craft {kind(attack.spec)} on {target.name}, {count} reported images")
    before, after = (margins(model, images, y, batch_size=target.batch_size) for images in (x, x_adv))
    clean = correct(model, x, y, batch_size=target.batch_size)
    held = correct(model, x_adv, y, batch_size=target.batch_size)
    own = MemberResult(
        name=kind(attack.spec),
        attack=attack.spec,
        crafted_on="",
        tried=int(clean.sum()),
        broke=int((clean & ~held).sum()),
    )
    trial = _Trial(target=target, others={other.name: other for other in others}, x=x, y=y, attack=attack)
    right, results = trial.run(effort, transfers(attack, tuple(trial.others)), clean & held)

    def row(right: Tensor, effort: Effort | Literal[""]) -> AccuracyResult:
        return AccuracyResult.count(
            model=target.name,
            attack=attack.spec,
            threat="adaptive",
            correct=int(right.sum()),
            total=count,
            seed=seed,
            trained_against=target.trained_against,
            effort=effort,
        )

    battery = BatteryResult(
        model=target.name,
        trained_against=target.trained_against,
        attack=attack.spec,
        effort=effort,
        total=count,
        clean=int(clean.sum()),
        # a comparison with NaN is false: an image whose answer breaks counts as one whose loss was raised
        raised=int((clean & ~(after <= before)).sum()),
        blind=tuple(torch.nonzero(trial.blind("cross_entropy")[0]).flatten().tolist()),
        members=(own, *results),
        probe=trial.probe(effort, right) if probed else None,
    )
    return WorstCase(row=row(right, effort), alone=row(held, ""), battery=battery)


@dataclass(frozen=True, kw_only=True, eq=False)
class _Trial:
    """A target and the images it is tried on."""

    target: Target
    others: dict[str, Target]
    x: Images
    y: Labels
    attack: Attack

    def run(
        self, effort: Effort, last: Sequence[BatteryMember], right: Tensor
    ) -> tuple[Tensor, tuple[MemberResult, ...]]:
        """The members of the effort and then `last`, on the images of `right`."""
        own = members(self.attack, effort, shape=self._shape(), classes=self._classes())
        return self._tried((*own, *last), right)

    def probe(self, effort: Effort, right: Tensor) -> Probe | None:
        """The next effort up on the first images; None for an attack that has no battery."""
        harder = probe_members(self.attack, effort, shape=self._shape(), classes=self._classes())
        if not harder:
            return None
        few = min(PROBED, len(right))
        sample = right & (torch.arange(len(right)) < few)
        left, _ = self._tried(harder, sample)
        held = int(sample.sum())
        return Probe(effort=HARDER[effort], total=few, right=held, broke=held - int(left.sum()))

    def blind(self, loss: LabelLoss) -> tuple[Tensor, bool]:
        """(n,) bool: the images that have no gradient of the loss to follow; and whether the model hands any on."""
        model = self.target.model_for(self.attack)
        device, size = device_of(model), self.target.batch_size
        batches = zip(torch.split(self.x, size), torch.split(self.y, size), strict=True)
        try:
            found = [without_gradient(model, a.to(device), b.to(device), loss).cpu() for a, b in batches]
        except BadConfigError:  # what `gradient` says of a model that runs under torch.no_grad
            return torch.ones(len(self.y), dtype=torch.bool), False
        return torch.cat(found), True

    def _shape(self) -> Shape:
        channels, height, width = self.x.shape[1:]
        return channels, height, width

    def _classes(self) -> int:
        model = self.target.model_for(self.attack)
        with evaluating(model), torch.no_grad():
            return logits_of(model, self.x[:1].to(device_of(model))).shape[1]

    def _tried(self, battery: Sequence[BatteryMember], right: Tensor) -> tuple[Tensor, tuple[MemberResult, ...]]:
        blind, differentiable = self.blind("margin") if battery else (right, True)
        if not differentiable:
            battery = [one for one in battery if one.crafted_on or not one.attack.traits.needs_gradients]
        places = {member: place for place, member in enumerate(battery, start=1)}

        def survives(member: BatteryMember, rows: Tensor) -> Tensor:
            crafts_on = self.others[member.crafted_on] if member.crafted_on else self.target
            x, y = self.x[rows], self.y[rows]
            name = f"{self.target.name}, battery {places[member]} of {len(battery)}: {member.name}, {len(rows)} images left"
            x_adv = crafts_on.attacked(member.attack, x, y, name=name)
            return correct(self.target.model_for(member.attack), x_adv, y, batch_size=self.target.batch_size)

        return run_battery(battery, right, survives, lambda: blind)


def margins(model: nn.Module, x: Images, y: Labels, *, batch_size: int) -> Tensor:
    """(n,) margin of the logits on the CPU: the largest wrong one minus the right one."""
    device, found = device_of(model), []
    with evaluating(model), torch.no_grad():
        for images, answers in zip(torch.split(x, batch_size), torch.split(y, batch_size), strict=True):
            found.append(margin(logits_of(model, images.to(device)), answers.to(device)).cpu())
    return torch.cat(found)


def check_worst_cases(found: Sequence[WorstCase], rows: Sequence[AccuracyResult]) -> tuple[Check, ...]:
    """For every figure, that its attack raises the loss, and is not weaker than transferred; for every model, that its
    images have a gradient to follow.

    `rows` are all of the report's.
    """
    names, batteries = labels(rows), [one.battery for one in found]
    checks = [
        Check(
            model=names[one.candidate],
            name=f"{kind(one.attack)} raises the loss",
            passed=2 * one.raised > one.clean or one.clean == 0,
            detail=f"of {one.clean} images that were right, {one.raised} have a higher loss when they are attacked",
            numbers={"raised": one.raised, "clean": one.clean, "total": one.total},
        )
        for one in batteries
    ]
    for candidate, one in {one.candidate: one for one in reversed(batteries)}.items():
        checks.append(
            Check(
                model=names[candidate],
                name="the loss has a gradient at every image",
                passed=not one.blind,
                detail=f"of {one.total} images, {len(one.blind)} have none (NaN, infinite, or 0 all over){_listed(one.blind)}",
                numbers={"without": len(one.blind), "total": one.total},
            )
        )
    plain = [row for row in rows if row.threat != "adaptive"]
    return (*checks, *check_transfer([*plain, *(one.alone for one in found)]))


def _listed(places: Sequence[int]) -> str:
    """The images by their number in the test split, the first ten of them."""
    if not places:
        return ""
    rest = f" and {len(places) - 10} more" if len(places) > 10 else ""
    return f": number {', '.join(str(place) for place in places[:10])}{rest}"
