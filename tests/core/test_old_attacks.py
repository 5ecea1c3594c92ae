"""What folders written before call an attack becomes its spec."""

import pytest

from loradar.attacks import parse_attack
from loradar.core.old_attacks import spec_of_repr, upgraded_spec

PIXEL = "0.03137254901960784"
PGD = (
    f"PGD(ball=Linf(radius={PIXEL}), step=None, steps=10, restarts=1, random_start=True, loss='cross_entropy', seed=0)"
)
L2 = "PGD(ball=L2(radius=0.5), step=None, steps=3, restarts=1, random_start=True, loss='cross_entropy', seed=0)"
ROA = (
    "ROA(height=5, width=5, stride=1, search='gradient', candidates=5, steps=15, step=0.3, schedule='linear', momentum=0.5, "
    "start='grey', restarts=1, seed=0)"
)
FIA = (
    "FIA(layer='layer2', masks=5, drop=0.3, ball=Linf(radius=0.06274509803921569), step=0.012549019607843138, steps=5, "
    "schedule='constant', momentum=1.0, label='given', seed=0)"
)
# before schedules and momentum
OLDEST = (
    "ROA(height=7, width=7, stride=1, search='gradient', candidates=50, steps=150, step=0.05, start='uniform', "
    "restarts=10, seed=0)"
)

KNOWN = {
    PGD: "pgd",
    L2: "pgd:steps=3,norm=l2",
    "PGD(ball=Linf(radius=3.9215686274509805e-05), step=1.9607843137254903e-05, steps=2, loss='kl', seed=7)": (
        "pgd:eps=0.01/255,step_size=0.005/255,steps=2,loss=kl,seed=7"
    ),
    f"FGSM(ball=Linf(radius={PIXEL}), seed=0)": "fgsm",
    "MIFGSM(ball=L2(radius=0.5), step=0.1, steps=10, momentum=0.5, seed=1)": (
        "mi-fgsm:norm=l2,step_size=0.1,momentum=0.5,seed=1"
    ),
    "UniformNoise(ball=Linf(radius=0.1), seed=0)": "noise:eps=0.1",
    ROA: "roa-quick",
    OLDEST: "roa:height=7,width=7,n_candidates=50,steps=150,restarts=10,init=uniform",
    FIA: "fia:n_masks=5,steps=5,step_size=3.2/255,label=given",
    "Pyramid(radius=0.023529411764705882, step=None, steps=2, random_start=True, loss='kl', seed=0)": "pyramid",
    f"AutoAttack(norm='L2', radius={PIXEL}, attacks=('apgd-ce', 'square'), seed=0)": (
        "autoattack:norm=l2,eps=8/255,attacks=apgd-ce/square"
    ),
    f"WorstOf(attacks=({PGD}, {L2}))": "pgd+pgd:norm=l2,steps=3",
    f"WorstOf(attacks=({PGD},))": "pgd+",
    f"OneOf(attacks=({ROA}, {PGD}), seed=0)": "roa-quick|pgd",
    f"OneOf(attacks=({PGD}, {L2}), seed=4)": "(pgd|pgd:norm=l2,steps=3):seed=4",
}


@pytest.mark.parametrize("text", KNOWN)
def test_a_repr_of_before_becomes_the_spec_of_that_very_attack(text: str) -> None:
    spec = spec_of_repr(text)
    assert spec == parse_attack(KNOWN[text]).spec
    assert parse_attack(spec).spec == spec


def test_attacks_on_guards_and_corruptions_are_known_too() -> None:
    assert spec_of_repr(f"Evading(attack={PGD}, steps=20, weight=1.0)") == "evade:attack=pgd"
    assert spec_of_repr(f"DetectorEvasion(attack={L2}, steps=6, weight=3.0)") == (
        'evade:attack="pgd:norm=l2,steps=3",steps=6,weight=3'
    )
    assert spec_of_repr("Corrupted(corruption='contrast', severity=3, seed=0)") == "corrupted:corruption=contrast"
    assert spec_of_repr(f"{PGD} or {L2}") == "pgd or pgd:norm=l2,steps=3"


@pytest.mark.parametrize(
    "text",
    [
        *(
            "",
            "none",
            "corruptions",
            "pgd:steps=3",
            "(pgd|roa)+fgsm",
            "union(attacks=12)",
            "PGD(",
            "PGD(3)",
            "PGD(steps=f())",
        ),
        *(
            "certified(MaskSet(height=5, width=5, count=6))",
            "PGD(ball=L7(radius=1))",
            "PGD(unheard_of=3)",
            "x" * 200_000,
        ),
        *("__import__('os').getcwd()", "(" * 5000, "PGD(steps=" + "-" * 5000 + "1)", "WorstOf(attacks=())"),
    ],
)
def test_anything_else_stays_as_it_is(text: str) -> None:
    assert spec_of_repr(text) == text


@pytest.mark.parametrize(
    ("before", "now"),
    [
        ("pgd:radius=4/255,step=1/255", "pgd:eps=4/255,step_size=1/255"),
        ("mine=roa:candidates=3,start=uniform", "mine=roa:n_candidates=3,init=uniform"),
        ("fia:masks=3,drop=0.1|pgd:norm=l2,radius=1", "fia:n_masks=3,drop_prob=0.1|pgd:norm=l2,eps=1"),
        ("pgd:steps=3+roa", "pgd:steps=3+roa"),
        ("autoattack:norm=Linf", "autoattack:norm=linf"),
        ("pgd:eps=4/255", "pgd:eps=4/255"),
        ("what is this", "what is this"),
    ],
)
def test_a_spec_in_the_words_of_before_is_understood(before: str, now: str) -> None:
    assert upgraded_spec(before) == now
