"""Figures over a battery on models whose weak spots are known by construction."""

from dataclasses import dataclass
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor, nn

from loradar.attacks import PGD, BaseAttack, FunctionAttack, UniformNoise
from loradar.core.types import Attack, Traits
from loradar.evaluation import AccuracyResult, WorstCase, check_worst_cases, run_attack, worst_case
from loradar.evaluation.worst_case import TOLERATED, Probe
from tests.attacks.test_apgd import trained
from tests.evaluation.toys import Keep


@dataclass(frozen=True, kw_only=True, eq=False)
class Plain:
    """A target that is attacked as it is."""

    model: nn.Module
    name: str = "m"
    trained_against: str = ""
    batch_size: int = 64

    def model_for(self, attack: Attack | None) -> nn.Module:  # noqa: ARG002
        return self.model

    def attacked(self, attack: Attack, x: Tensor, y: Tensor, *, name: str) -> Tensor:  # noqa: ARG002
        return run_attack(attack, self.model, x, y, batch_size=self.batch_size)


@dataclass(frozen=True, kw_only=True)
class Weak(BaseAttack):
    """Moves in a ball and does nothing: what the battery adds is all that there is."""

    spec_name: ClassVar[str] = "weak"
    eps: float = 0.03

    @property
    def traits(self) -> Traits:
        return PGD(eps=self.eps).traits

    def __call__(self, model: nn.Module, x: Tensor, y: Tensor) -> Tensor:  # noqa: ARG002
        return x.clone()


@dataclass(frozen=True, kw_only=True)
class Through(BaseAttack):
    """PGD where there is a gradient, nothing elsewhere."""

    spec_name: ClassVar[str] = "through"

    @property
    def traits(self) -> Traits:
        return Traits(needs_gradients=False, region=PGD(eps=0.03).ball)

    def __call__(self, model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        return x.clone() if isinstance(model, Sealed) else PGD(eps=0.03)(model, x, y)


class Steps(nn.Module):
    """A model whose gradient is 0: it rounds its images to 16 levels."""

    def __init__(self, wrapped: nn.Module) -> None:
        super().__init__()
        self.wrapped = wrapped

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.wrapped((x * 15).round() / 15)
        return logits


class Sealed(Steps):
    """Hands no gradient on at all."""

    def forward(self, x: Tensor) -> Tensor:
        with torch.no_grad():
            logits: Tensor = self.wrapped(x)
        return logits


def figure(model: nn.Module, attack: Attack, x: Tensor, y: Tensor, **settings: Any) -> WorstCase:
    return worst_case(Plain(model=model), attack, x, y, **{"effort": "quick"} | settings)


def test_the_figure_is_the_worst_over_the_battery_and_names_its_effort() -> None:
    model, x, y = trained()
    found = figure(model, Weak(), x, y, seed=7)
    assert (found.alone.correct, found.alone.effort) == (64, "")
    assert (found.row.attack, found.row.effort, found.row.threat, found.row.seed) == ("weak", "quick", "adaptive", 7)
    assert found.row.knowledge == "adaptive, quick effort"
    broken = [member.broke for member in found.battery.members]
    assert broken[0] == 0
    assert found.row.correct == 64 - sum(broken) < 40
    assert [member.tried for member in found.battery.members] == [64, 64, *(64 - sum(broken[:k]) for k in (2, 3))]


def test_an_image_that_is_wrong_without_an_attack_is_never_right() -> None:
    """An attack may help a model by chance; whoever attacks would leave that image as it is."""
    model, x, y = trained()
    mend = FunctionAttack(lambda _m, x, _y: 0 * x + x.flip(0), name="mend")
    turned = y.flip(0)
    assert figure(model, mend, x, turned).alone.correct == 64
    assert figure(model, mend, x, turned).row.correct == int((y == turned).sum())


def test_images_of_the_other_models_are_tried() -> None:
    model, x, y = trained()
    sealed = Plain(model=Sealed(model), name="sealed")
    alone = worst_case(sealed, Keep(), x, y, effort="quick")
    assert alone.row.correct == 64
    with_base = worst_case(sealed, Through(), x, y, effort="quick", others=[Plain(model=model, name="base")])
    assert with_base.row.correct < 40
    assert with_base.battery.members[-1].crafted_on == "base"


def test_images_without_a_gradient_are_named_and_attacked_without() -> None:
    pytest.importorskip("pyautoattack", reason="the extra `autoattack` is not installed")
    model, x, y = trained()
    steps = Steps(model)
    with torch.no_grad():
        y = steps(x).argmax(1)
    found = worst_case(Plain(model=steps), PGD(eps=0.06), x[:6], y[:6], effort="standard")
    assert found.battery.blind == (0, 1, 2, 3, 4, 5)
    assert next(m for m in found.battery.members if m.name == "Square").broke > 0
    check = check_worst_cases([found], [found.row])[1]
    assert not check.passed
    assert check.detail == "of 6 images, 6 have none (NaN, infinite, or 0 all over): number 0, 1, 2, 3, 4, 5"
    assert check.numbers == {"without": 6, "total": 6}


def test_a_model_that_hands_no_gradient_on_is_still_measured() -> None:
    model, x, y = trained()
    found = figure(Sealed(model), UniformNoise(eps=0.01), x, y)
    assert found.row.correct > 0
    assert len(found.battery.blind) == 64
    assert [member.name for member in found.battery.members] == ["UniformNoise"]


@pytest.mark.parametrize(
    ("attack", "raises"),
    [(PGD(eps=0.03), True), (Keep(), False), (FunctionAttack(lambda _m, x, _y: x, name="idle"), False)],
)
def test_an_attack_that_raises_no_loss_is_pointed_at(attack: Attack, raises: bool) -> None:
    model, x, y = trained()
    found = figure(model, attack, x, y)
    checks = check_worst_cases([found], [found.row])
    assert [check.passed for check in checks] == [raises, True]
    assert "raises the loss" in checks[0].name
    assert checks[0].numbers["clean"] == 64


def test_an_attack_that_lowers_the_loss_is_pointed_at() -> None:
    """Descent is no attack: every image stays right, and that must not pass for robustness."""
    model, x, y = trained()

    def descend(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        return (2 * x - PGD(eps=0.01, random_start=False)(model, x, y)).clamp(0, 1)

    found = figure(model, FunctionAttack(descend, name="descent"), x, y)
    assert found.alone.correct == 64
    assert not check_worst_cases([found], [found.row])[0].passed


def test_the_transferred_attack_is_compared_with_the_attack_alone() -> None:
    """The battery tries transferred images too, so its figure says nothing of misleading gradients."""
    model, x, y = trained()
    moved = AccuracyResult.count(model="m", attack="weak", threat="transfer", correct=5, total=64, seed=0)
    found = figure(model, Weak(), x, y)
    failed = [check.name for check in check_worst_cases([found], [moved, found.row]) if not check.passed]
    assert failed == ["weak raises the loss", "weak is not weaker on the model itself than on the base"]


def test_a_costlier_effort_checks_the_figure() -> None:
    model, x, y = trained()
    probe = figure(model, Weak(), x, y, probed=True).battery.probe
    assert probe is not None
    assert (probe.effort, probe.total) == ("standard", 64)
    assert probe.right == figure(model, Weak(), x, y).row.correct
    assert not probe.is_beaten
    assert figure(model, Keep(), x, y, probed=True).battery.probe is None
    assert figure(model, Weak(), x, y).battery.probe is None


@pytest.mark.parametrize(("broke", "beaten"), [(0, False), (3, False), (4, True)])
def test_three_points_are_tolerated(broke: int, beaten: bool) -> None:
    assert TOLERATED == 0.03
    assert Probe(effort="full", total=100, right=50, broke=broke).is_beaten is beaten
