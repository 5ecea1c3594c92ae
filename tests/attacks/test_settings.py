"""One schema for every field of every attack: what is no attack is refused when it is made."""

import dataclasses
import math
from typing import Any

import numpy as np
import pytest
import torch

from loradar.attacks import PGD, ROA, AutoAttack, RandomChoice, UniformNoise, WorstOf, available_attacks
from loradar.attacks.registry import PRESETS, attack_class
from loradar.attacks.settings import hints_of, limits_of
from loradar.core.errors import BadConfigError

KINDS = {name: attack_class(name) for name in available_attacks() if name not in PRESETS}
NUMBERS = [
    (name, field.name)
    for name, kind in KINDS.items()
    for field in dataclasses.fields(kind)
    if hints_of(kind)[field.name] in (int, float, float | None)
]


@pytest.mark.parametrize(("name", "field"), NUMBERS)
@pytest.mark.parametrize(
    "value",
    [
        *(-1, -0.1, math.nan, math.inf, -math.inf, 10**19, 1e300, True, "3", 1j, [1], torch.ones(2)),
        pytest.param(10**400, id="of 400 digits"),
        pytest.param(-(10**5000), id="of 5000 digits"),
    ],
)
def test_no_number_is_negative_or_not_finite_or_absurd(name: str, field: str, value: Any) -> None:
    with pytest.raises(BadConfigError) as caught:
        KINDS[name](**{field: value})
    assert str(caught.value).startswith(f"{field} is ")
    assert "expected" in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(("name", "field"), NUMBERS)
def test_every_number_has_bounds_and_only_what_may_be_zero_is(name: str, field: str) -> None:
    kind = KINDS[name]
    may = {"eps", "momentum", "drop_prob", "noise", "seed"}
    limits = limits_of(next(f for f in dataclasses.fields(kind) if f.name == field), "linf")
    assert limits is not None
    if field in may:
        kind(**{field: 0})
    else:
        with pytest.raises(BadConfigError, match=f"{field} is 0"):
            kind(**{field: 0})


@pytest.mark.parametrize("name", KINDS)
def test_every_choice_is_held_against_its_names(name: str) -> None:
    for field, hint in hints_of(KINDS[name]).items():
        if hint in (bool, str) or "Literal" in str(hint):
            for value in (3, "", None):
                if not (value is None and "None" in str(hint)):
                    with pytest.raises(BadConfigError, match=f"{field} is "):
                        KINDS[name](**{field: value})


def test_numbers_of_other_kinds_become_plain_ones() -> None:
    attack = PGD(eps=np.float64(0.25), steps=np.int64(3), step_size=1)  # type: ignore[arg-type]
    assert attack == PGD(eps=0.25, steps=3, step_size=1.0)
    assert [type(value) for value in (attack.eps, attack.steps, attack.step_size)] == [float, int, float]


def test_each_norm_has_its_own_default_and_bounds() -> None:
    assert (PGD().eps, PGD(norm="l2").eps) == (8 / 255, 0.5)
    assert PGD(norm="l2", eps=3).eps == 3
    for setting in ({"eps": 1.5}, {"step_size": 1.5}):
        with pytest.raises(BadConfigError, match=r"is 1.5; expected at most 1"):
            PGD(**setting)  # type: ignore[arg-type]


def test_members_are_known_and_several() -> None:
    for wrong in ((), ("pgd",), "square", [1]):
        with pytest.raises(BadConfigError, match="attacks is "):
            AutoAttack(attacks=wrong)  # type: ignore[arg-type]
    assert AutoAttack(attacks=["square"]) == AutoAttack(attacks=("square",))  # type: ignore[arg-type]


@pytest.mark.parametrize("kind", [WorstOf, RandomChoice])
def test_parts_are_attacks(kind: Any) -> None:
    for wrong in ((), PGD(), (PGD(), "roa"), (max,)):
        with pytest.raises(BadConfigError, match="attacks is "):
            kind(attacks=wrong)


def test_traits() -> None:
    assert PGD().traits.region == PGD().ball
    assert ROA(height=3, width=4).traits.region == (3, 4)
    assert not UniformNoise().traits.needs_gradients
    assert not AutoAttack(attacks=("square",)).traits.needs_gradients
    assert AutoAttack(attacks=("square", "fab")).traits.needs_gradients
    assert (PGD().traits.whole_batches, PGD(restarts=2).traits.whole_batches) == (True, False)
    both = WorstOf(attacks=(UniformNoise(), AutoAttack())).traits
    assert (both.needs_gradients, both.independent_rows, both.whole_batches) == (True, False, False)
    assert both.parts == (UniformNoise(), AutoAttack())
