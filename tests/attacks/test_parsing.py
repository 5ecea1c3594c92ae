"""A spec is an attack's identity: it is read back as the very same setting."""

import dataclasses
from contextlib import suppress
from typing import Any, get_args, get_origin

import pytest
from hypothesis import given
from hypothesis import strategies as st

from loradar.attacks import (
    APGD,
    FGSM,
    FIA,
    MIFGSM,
    MSD,
    PGD,
    ROA,
    AutoAttack,
    Pyramid,
    RandomChoice,
    Smooth,
    UniformNoise,
    WorstOf,
    available_attacks,
    named_attack,
    parse_attack,
)
from loradar.attacks.base import BaseAttack
from loradar.attacks.registry import PRESETS, attack_class
from loradar.attacks.settings import hints_of, limits_of
from loradar.core.errors import BadConfigError, LoradarError
from loradar.core.types import Attack
from tests.core.strategies import patient

SPECS: list[tuple[str, Attack, str]] = [
    ("fgsm", FGSM(), "fgsm"),
    ("pgd", PGD(), "pgd"),
    ("pgd:steps=20,eps=8/255", PGD(steps=20), "pgd:steps=20"),
    ("pgd:eps=4/255,steps=5,random_start=false", PGD(eps=4 / 255, steps=5, random_start=False), ""),
    ("pgd:norm=l2", PGD(eps=0.5, norm="l2"), "pgd:norm=l2"),
    ("pgd:eps=1,norm=l2,step_size=0.1", PGD(norm="l2", eps=1, step_size=0.1), ""),
    ("pgd:step_size=none", PGD(), "pgd"),
    ("pgd:eps=0.031373", PGD(), "pgd"),
    ("pgd:eps=0.3e-1", PGD(eps=0.03), "pgd:eps=0.03"),
    ("pyramid:eps=6/255,steps=3", Pyramid(steps=3), "pyramid:steps=3"),
    ("apgd:norm=l2,loss=dlr-targeted,n_targets=3", APGD(norm="l2", loss="dlr-targeted", n_targets=3), ""),
    ("smooth:cells=4,loss=margin", Smooth(cells=4, loss="margin"), ""),
    ("pgd:keep=best", PGD(keep="best"), ""),
    ("mi-fgsm:momentum=0.5", MIFGSM(momentum=0.5), ""),
    (
        "roa:height=7,width=9,search=exhaustive,init=uniform",
        ROA(height=7, width=9, search="exhaustive", init="uniform"),
        "",
    ),
    ("fia:eps=8/255,layer=layer3,label=predicted", FIA(layer="layer3", label="predicted", eps=8 / 255), ""),
    ('fia:layer="a b,c+d|e"', FIA(layer="a b,c+d|e"), ""),
    (
        "roa-quick:height=7",
        ROA(height=7, n_candidates=5, steps=15, step_size=0.3, schedule="linear", momentum=0.5),
        "roa:height=7,n_candidates=5,steps=15,step_size=0.3,schedule=linear,momentum=0.5",
    ),
    ("roa-quick-exhaustive", ROA(search="coarse", steps=15, step_size=0.3, schedule="linear", momentum=0.5), "roa:*"),
    ("fia-quick:n_masks=5", FIA(n_masks=5, step_size=4.8 / 255, schedule="linear", momentum=0.9), "fia:*"),
    ("noise", UniformNoise(), "noise"),
    ("autoattack:eps=1/255,attacks=apgd-ce/square", AutoAttack(eps=1 / 255, attacks=("apgd-ce", "square")), ""),
    ('msd:attacks="pgd:steps=5+pgd:norm=l2,steps=5"', MSD(attacks=(PGD(steps=5), PGD(norm="l2", steps=5))), ""),
    ("pgd+roa:steps=3", WorstOf(attacks=(PGD(), ROA(steps=3))), ""),
    ("pgd|roa+fgsm", RandomChoice(attacks=(PGD(), WorstOf(attacks=(ROA(), FGSM())))), ""),
    ("(pgd|roa)+fgsm", WorstOf(attacks=(RandomChoice(attacks=(PGD(), ROA())), FGSM())), ""),
    ("(pgd|roa):seed=3", RandomChoice(attacks=(PGD(), ROA()), seed=3), ""),
    ("(pgd+roa)+fgsm", WorstOf(attacks=(WorstOf(attacks=(PGD(), ROA())), FGSM())), ""),
    ("pgd+", WorstOf(attacks=(PGD(),)), ""),
]


@pytest.mark.parametrize(("text", "expected", "spec"), SPECS)
def test_a_name_and_settings_become_an_attack(text: str, expected: Attack, spec: str) -> None:
    """And the attack says its spec: the text itself where none is given here."""
    attack = parse_attack(text)
    assert attack == expected
    assert attack.spec.startswith(spec.removesuffix("*")) if spec.endswith("*") else attack.spec == (spec or text)


def test_every_name_is_tried_above() -> None:
    assert {text.partition(":")[0] for text, _, _ in SPECS} >= {*available_attacks()}


def _values(hint: Any, low: float, high: float) -> st.SearchStrategy[Any]:
    if hint == tuple[Attack, ...]:
        members = st.builds(
            PGD, norm=st.sampled_from(["linf", "l2"]), eps=st.floats(2**-20, 1) | st.just(0.0), seed=st.integers(0, 3)
        )
        return st.lists(members, min_size=1, max_size=3).map(tuple)
    if get_origin(hint) is tuple:
        return st.lists(st.sampled_from(get_args(get_args(hint)[0])), min_size=1, max_size=4).map(tuple)
    if get_args(hint) and type(None) in get_args(hint):
        return st.none() | _values(get_args(hint)[0], low, high)
    if get_args(hint):
        return st.sampled_from(get_args(hint))
    if hint is bool:
        return st.booleans()
    if hint is int:
        return st.integers(int(low), int(high))
    if hint is str:
        return st.text(min_size=1, max_size=12)
    fractions = st.integers(1, 255).map(lambda k: k / 255) | st.integers(1, 2550).map(lambda k: k / 10 / 255)
    # a radius that moves no pixel is refused
    values = st.floats(low, high).filter(lambda v: v == 0 or v >= 2**-20)
    return values | fractions.filter(lambda v: low <= v <= high)


@st.composite
def single(draw: st.DrawFn) -> Attack:
    """Any registered attack with any of its settings."""
    kind = attack_class(draw(st.sampled_from([name for name in available_attacks() if name not in PRESETS])))
    norm = draw(st.sampled_from(["linf", "l2"]))
    given: dict[str, Any] = {"norm": norm} if "norm" in hints_of(kind) else {}
    for field in dataclasses.fields(kind):
        if field.name != "norm" and draw(st.booleans()):
            limits = limits_of(field, norm)
            low, high = (limits.low, limits.high) if limits else (0, 1)
            given[field.name] = draw(_values(hints_of(kind)[field.name], low, high))
    try:
        return kind(**given)
    except BadConfigError:  # what does not go together: a probability of 1, the divergence from a zero start
        return kind()


attacks = st.recursive(
    single(),
    lambda inner: st.lists(inner, min_size=1, max_size=3).flatmap(
        lambda parts: (
            st.builds(WorstOf, attacks=st.just(tuple(parts)))
            | st.builds(RandomChoice, attacks=st.just(tuple(parts)), seed=st.integers(0, 3))
        )
    ),
    max_leaves=5,
)


@patient
@given(attack=attacks)
def test_every_spec_is_read_back_as_the_same_attack(attack: Attack) -> None:
    again = parse_attack(attack.spec)
    assert again == attack
    assert again.spec == attack.spec
    assert "\n" not in attack.spec


@patient
@given(first=attacks, second=attacks)
def test_different_attacks_have_different_specs(first: Attack, second: Attack) -> None:
    assert (first.spec == second.spec) == (first == second)


def test_a_literal_that_is_rounded_means_the_fraction() -> None:
    for literal in (0.031373, 0.03137, 0.0313725, 0.031372550874948502):  # the last in single precision
        assert PGD(eps=literal) == PGD(eps=8 / 255), literal
    for other in (0.0314, 0.03, 8.01 / 255, 4.5 / 255):
        assert PGD(eps=other).eps == other
    assert PGD(step_size=0.007843).step_size == 2 / 255
    assert MIFGSM(momentum=0.031373).momentum == 0.031373  # no size in pixels


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("pdg", "did you mean 'pgd'"),
        ("roa:hight=5", "did you mean 'height'"),
        ("roa:height", "key=value"),
        ("roa:height=5,height=6", "each key once"),
        ("roa:height=five", "roa:height is 'five'"),
        ("roa:height=5.5", "roa:height is '5.5'; expected a whole number"),
        ("roa:search=random", "roa:search is 'random'"),
        ("pgd:norm=l1", "pgd:norm is 'l1'"),
        ("pgd:random_start=perhaps", "expected true or false"),
        ("pgd:eps=8/0", "pgd:eps is '8/0'"),
        ("pgd:eps=-1", "eps is -1"),
        ("roa:eps=1", "no setting 'eps'"),
        ("pgd:steps=0", "steps is 0"),
        ("pgd:eps=1e-45", "eps is 1e-45, which moves no pixel"),
        ("fgsm:eps=1e-8", "eps is 1e-08, which moves no pixel"),
        ("apgd:norm=l2,eps=1e-30", "eps is 1e-30, which moves no pixel"),
        ("pgd:eps=1e-400", "eps is '1e-400'"),
        ("pgd:radius=8/255", "radius is now eps"),
        ("pgd:step=1/255", "step is now step_size"),
        ("fia:masks=3", "masks is now n_masks"),
        ("fia:drop=0.1", "drop is now drop_prob"),
        ("roa:candidates=3", "candidates is now n_candidates"),
        ("roa:start=uniform", "start is now init"),
        ("pgd:ball=linf", "ball is now norm and eps"),
        ("roa:radius=1", "no setting 'radius'"),
        ("pgd:version=2", "pgd of version 2 is asked for; this loradar has version 1"),
        ("(pgd|roa):eps=1", "no setting 'eps' of its own"),
        ("(pgd+roa):seed=1", "no settings of its own"),
        ("pgd++roa", "two + in a row"),
        ("pgd||roa", "names no attack"),
        ("(pgd|roa", "no partner"),
        ("pgd)", "no partner"),
        ("(pgd)roa", "expected +, | or the end"),
        ('fia:layer="x', "no partner"),
        ("", "names no attack"),
        ("(" * 5000 + "pgd" + ")" * 5000, "nests deeper"),
        ("x" * 5000, "..."),
        ("pgd:eps=" + "1" * 5000, "eps is inf"),
        ("pgd:steps=" + "1" * 5000, "steps"),
        ("pgd:eps=1e999", "eps is inf"),
        ("pgd:eps=nan", "eps is nan"),
    ],
)
def test_what_does_not_fit_is_said_in_one_line(text: str, says: str) -> None:
    with pytest.raises(BadConfigError) as caught:
        parse_attack(text)
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 600


@patient
@given(text=st.text(alphabet='pgdroa:=,+|()"/.0123456789 \n', max_size=30))
def test_no_text_ends_in_anything_but_an_attack_or_one_line(text: str) -> None:
    with suppress(LoradarError):
        attack = parse_attack(text)
        assert parse_attack(attack.spec) == attack


def test_a_version_is_part_of_the_identity() -> None:
    later = type("Later", (PGD,), {"version": 2})
    assert isinstance(attack := later(steps=5), BaseAttack)
    assert attack.spec == "pgd:version=2,steps=5"


def test_names() -> None:
    assert named_attack("mine=roa:height=7")[0] == "mine"
    assert named_attack("pgd:norm=l2,eps=1/2")[0] == "pgd-norml2-eps1o2"
    assert named_attack("roa") == ("roa", ROA())
