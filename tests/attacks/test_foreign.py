"""Attacks that are not ours, wrapped; what each wrapper promises besides is in the contract table."""

import functools
import warnings
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from loradar.attacks import PGD, ARTAttack, FoolboxAttack, FunctionAttack, TorchAttack, as_attack
from loradar.core.errors import BadConfigError, BadImagesError
from tests.attacks.toys import Net, answers, pictures


def negative(model: nn.Module, x: Tensor, y: Tensor, *, by: float = 1.0) -> Tensor:  # noqa: ARG001
    return by - x


@dataclass(frozen=True)
class Darken:
    by: float = 1.0

    def __call__(self, model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        return negative(model, x, y, by=self.by)

    def method(self, model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        return self(model, x, y)


def test_a_function_is_known_by_its_name_and_settings() -> None:
    home = negative.__module__
    assert FunctionAttack(negative).name == f"{home}.negative"
    assert FunctionAttack(functools.partial(negative, by=0.5)).name == f"{home}.negative(by=0.5)"
    assert FunctionAttack(Darken(by=0.5)).name.endswith("Darken(by=0.5)")
    assert FunctionAttack(Darken(by=0.5).method).name.endswith("Darken(by=0.5).method")
    assert FunctionAttack(negative, name="mine").spec == "function:name=mine"
    assert FunctionAttack(negative, name="mine").reseeded(1).spec != "function:name=mine"


def test_what_has_no_name_of_its_own_must_be_given_one() -> None:
    def inner(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        return negative(model, x, y)

    class Plain:
        def __call__(self, model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
            return negative(model, x, y)

    for fn in (lambda model, x, y: negative(model, x, y), inner, Plain(), functools.partial(inner)):
        with pytest.raises(BadConfigError, match="give it one: name="):
            FunctionAttack(fn)
        assert FunctionAttack(fn, name="mine").spec == "function:name=mine"


@pytest.mark.parametrize(
    ("made", "says"),
    [
        (lambda x: x[:1], r"gave shape \(1, 3, 8, 8\); expected images of shape \(2, 3, 8, 8\)"),
        (lambda x: x.numpy(), "gave ndarray"),
        (lambda _: None, "gave NoneType"),
        (lambda x: x + 0.5, "gave images span"),
        (lambda x: x * torch.nan, "gave images hold NaN"),
    ],
)
def test_what_is_no_image_is_refused(made: Any, says: str) -> None:
    attack = FunctionAttack(lambda *args: made(args[1]), name="odd")
    with pytest.raises(BadImagesError, match=f"attack 'odd' {says}"):
        attack(Net(), pictures(2).float(), torch.tensor([0, 1]))


def test_a_rounding_outside_is_clamped_and_the_dtype_is_kept() -> None:
    attack = FunctionAttack(lambda *args: args[1].double().round() + 1e-9, name="round")
    x_adv = attack(Net(), pictures(2).float(), torch.tensor([0, 1]))
    assert x_adv.dtype == torch.float32
    assert x_adv.max() == 1


def test_anything_that_a_user_holds_becomes_an_attack() -> None:
    pgd = PGD(steps=3)
    assert as_attack(pgd) is pgd
    assert as_attack("pgd:steps=3") == pgd
    assert as_attack(negative) == FunctionAttack(negative)
    for odd, says in ((PGD, "is a class"), (3, "is no attack"), (None, "is no attack")):
        with pytest.raises(BadConfigError, match=says):
            as_attack(odd)


def peer(name: str) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return pytest.importorskip(name, reason=f"{name} (a peer) is not installed")


def test_torchattacks_by_object_and_by_factory() -> None:
    theirs = peer("torchattacks")
    model, other, x = Net().double(), Net(seed=1).double(), pictures(5)
    y = answers(model, x)
    made = theirs.PGD(other, eps=0.03, alpha=0.008, steps=4, random_start=False)
    ours = PGD(eps=0.03, step_size=0.008, steps=4, random_start=False)
    wrapped = as_attack(made)
    assert isinstance(wrapped, TorchAttack)
    assert "PGD" in wrapped.spec
    torch.testing.assert_close(wrapped(model, x, y), ours(model, x, y), rtol=0, atol=1e-7)
    assert made.model is other
    factory = TorchAttack(functools.partial(theirs.PGD, eps=0.03, alpha=0.008, steps=4, random_start=False))
    assert "eps=0.03" in factory.spec
    torch.testing.assert_close(factory(model, x, y), ours(model, x, y), rtol=0, atol=1e-7)


def test_foolbox() -> None:
    theirs = peer("foolbox")
    model, x = Net().double(), pictures(5)
    y = answers(model, x)
    made = theirs.attacks.LinfPGD(abs_stepsize=0.008, steps=4, random_start=False)
    ours = PGD(eps=0.03, step_size=0.008, steps=4, random_start=False)
    wrapped = FoolboxAttack(made, eps=0.03, name="pgd")
    assert wrapped.spec == "foolbox:name=pgd,eps=0.03"
    torch.testing.assert_close(wrapped(model, x, y), ours(model, x, y), rtol=0, atol=1e-7)
    with pytest.raises(BadConfigError, match="needs its eps"):
        as_attack(made)
    with pytest.raises(BadConfigError, match="eps is -1"):
        FoolboxAttack(made, eps=-1, name="pgd")


def test_art() -> None:
    theirs = peer("art.attacks.evasion")
    model, x = Net(), pictures(5).float()
    y = answers(model, x)
    pgd = functools.partial(
        theirs.ProjectedGradientDescentPyTorch, eps=0.03, eps_step=0.008, max_iter=4, num_random_init=0, verbose=False
    )
    wrapped = ARTAttack(pgd, name="pgd")
    ours = PGD(eps=0.03, step_size=0.008, steps=4, random_start=False)
    assert wrapped.spec == "art:name=pgd"
    torch.testing.assert_close(wrapped(model, x, y), ours(model, x, y), rtol=0, atol=1e-6)
