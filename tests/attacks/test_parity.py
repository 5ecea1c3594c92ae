"""The same adversarial images as the field's libraries make, where the method leaves no choice."""

import warnings
from types import ModuleType
from typing import Any

import pytest
import torch

from loradar.attacks import FGSM, MIFGSM, PGD
from loradar.core.types import Attack
from tests.attacks.toys import Net, answers, pictures

RADIUS, STEP, STEPS = 0.03, 0.008, 6


def peer(name: str) -> ModuleType:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what a library warns of when it is imported is not ours
        module: ModuleType = pytest.importorskip(name, reason=f"{name} (a peer) is not installed")
    return module


@pytest.fixture
def setting() -> tuple[Net, torch.Tensor, torch.Tensor]:
    # in double precision, a rounding never turns a sign
    model, x = Net().double(), pictures(5)
    return model, x, answers(model, x)


def test_torchattacks(setting: tuple[Net, torch.Tensor, torch.Tensor]) -> None:
    theirs = peer("torchattacks")
    model, x, y = setting
    pairs: list[tuple[Attack, Any]] = [
        (FGSM(eps=RADIUS), theirs.FGSM(model, eps=RADIUS)),
        (
            PGD(eps=RADIUS, step_size=STEP, steps=STEPS, random_start=False),
            theirs.PGD(model, eps=RADIUS, alpha=STEP, steps=STEPS, random_start=False),
        ),
        (
            PGD(eps=0.4, norm="l2", step_size=0.1, steps=STEPS, random_start=False),
            theirs.PGDL2(model, eps=0.4, alpha=0.1, steps=STEPS, random_start=False),
        ),
        (
            MIFGSM(eps=RADIUS, step_size=STEP, steps=STEPS),
            theirs.MIFGSM(model, eps=RADIUS, alpha=STEP, steps=STEPS, decay=1.0),
        ),
    ]
    for ours, other in pairs:
        torch.testing.assert_close(ours(model, x, y), other(x, y), rtol=0, atol=1e-7)


def test_foolbox(setting: tuple[Net, torch.Tensor, torch.Tensor]) -> None:
    theirs = peer("foolbox")
    model, x, y = setting
    wrapped = theirs.PyTorchModel(model, bounds=(0, 1))
    pairs: list[tuple[Attack, Any, float]] = [
        (FGSM(eps=RADIUS), theirs.attacks.LinfFastGradientAttack(random_start=False), RADIUS),
        (FGSM(eps=0.4, norm="l2"), theirs.attacks.L2FastGradientAttack(random_start=False), 0.4),
        (
            PGD(eps=RADIUS, step_size=STEP, steps=STEPS, random_start=False),
            theirs.attacks.LinfPGD(abs_stepsize=STEP, steps=STEPS, random_start=False),
            RADIUS,
        ),
        (
            PGD(eps=0.4, norm="l2", step_size=0.1, steps=STEPS, random_start=False),
            theirs.attacks.L2PGD(abs_stepsize=0.1, steps=STEPS, random_start=False),
            0.4,
        ),
    ]
    for ours, other, radius in pairs:
        raw, _, _ = other(wrapped, x, theirs.criteria.Misclassification(y), epsilons=radius)
        torch.testing.assert_close(ours(model, x, y), raw, rtol=0, atol=1e-7)
