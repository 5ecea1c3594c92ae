import pytest

from loradar.attacks import FGSM, FIA, MIFGSM, PGD, ROA, AutoAttack, OneOf, Pyramid, UniformNoise, WorstOf
from loradar.attacks.registry import ATTACKS, PRESETS, named_attack, parse_attack
from loradar.core.balls import L2, Linf
from loradar.core.errors import BadConfigError
from loradar.core.types import Attack

SPECS: list[tuple[str, Attack]] = [
    ("fgsm", FGSM()),
    ("pgd", PGD()),
    ("pgd:radius=4/255,steps=5,random_start=false", PGD(ball=Linf(radius=4 / 255), steps=5, random_start=False)),
    ("pgd:norm=l2", PGD(ball=L2(radius=0.5))),
    ("pgd:norm=l2,radius=1,step=0.1", PGD(ball=L2(radius=1.0), step=0.1)),
    ("pgd:step=none", PGD()),
    ("pyramid:radius=6/255,steps=3", Pyramid(radius=6 / 255, steps=3)),
    ("mi-fgsm:momentum=0.5", MIFGSM(momentum=0.5)),
    ("roa:height=7,width=9,search=exhaustive", ROA(height=7, width=9, search="exhaustive")),
    (
        "fia:layer=layer3,label=predicted,radius=8/255",
        FIA(layer="layer3", label="predicted", ball=Linf(radius=8 / 255)),
    ),
    (
        "roa-quick:height=7",
        ROA(height=7, candidates=5, steps=15, step=0.3, schedule="linear", momentum=0.5),
    ),
    (
        "roa-quick-exhaustive",
        ROA(search="coarse", steps=15, step=0.3, schedule="linear", momentum=0.5),
    ),
    ("fia-quick:masks=5", FIA(masks=5, step=4.8 / 255, schedule="linear", momentum=0.9)),
    ("noise", UniformNoise()),
    ("autoattack:radius=1/255", AutoAttack(radius=1 / 255)),
    ("pgd+roa:steps=3", WorstOf(attacks=(PGD(), ROA(steps=3)))),
    ("pgd|roa+fgsm", OneOf(attacks=(PGD(), WorstOf(attacks=(ROA(), FGSM()))))),
]


@pytest.mark.parametrize(("text", "expected"), SPECS)
def test_a_name_and_settings_become_an_attack(text: str, expected: Attack) -> None:
    assert parse_attack(text) == expected


def test_every_name_of_the_table_is_tried_above() -> None:
    assert {text.partition(":")[0] for text, _ in SPECS} >= {*ATTACKS, *PRESETS}


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("pdg", "did you mean 'pgd'"),
        ("roa:hight=5", "did you mean 'height'"),
        ("roa:height", "key=value"),
        ("roa:height=5,height=6", "each key once"),
        ("roa:height=five", "roa:height is 'five'"),
        ("roa:search=random", "roa:search is 'random'"),
        ("pgd:norm=l1", "pgd:norm is 'l1'"),
        ("pgd:radius=8/0", "pgd:radius is '8/0'"),
        ("pgd:radius=-1", "radius is -1"),
        ("roa:radius=1", "no setting 'radius'"),
        ("pgd:steps=0", "steps is 0"),
    ],
)
def test_what_does_not_fit_is_said_in_one_line(text: str, says: str) -> None:
    with pytest.raises(BadConfigError) as caught:
        parse_attack(text)
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)


def test_names() -> None:
    assert named_attack("mine=roa:height=7")[0] == "mine"
    assert named_attack("pgd:norm=l2,radius=1/2")[0] == "pgd-norml2-radius1o2"
    assert named_attack("roa") == ("roa", ROA())
