import pytest

from loradar.evaluation.names import attack_fields, flat, kind, readable, short_names


@pytest.mark.parametrize(
    ("setting", "expected"),
    [
        ("Linf(radius=0.06274509803921569)", "Linf(radius=16/255)"),
        ("step=0.006274509803921568,", "step=1.6/255,"),
        ("L2(radius=0.5)", "L2(radius=0.5)"),
        ("rate=0.123456789", "rate=0.123456789"),
        ("rate=10.031372549019607", "rate=10.031372549019607"),
        ("eps=0.0000000001", "eps=0.0000000001"),
    ],
)
def test_only_steps_of_the_pixel_scale_are_rewritten(setting: str, expected: str) -> None:
    assert readable(setting) == expected


def test_a_kind_that_is_there_once_is_named_by_its_class() -> None:
    assert short_names(["roa:height=7", "none", "roa:height=7"]) == {"roa:height=7": "ROA", "none": "none"}


def test_what_differs_is_told_defaults_too() -> None:
    first, second = "pgd:steps=20", "pgd:norm=l2,steps=20"
    assert list(short_names([first, second]).values()) == ["PGD eps=8/255 norm=linf", "PGD eps=0.5 norm=l2"]
    assert list(short_names(["roa", "roa:restarts=3"]).values()) == ["ROA restarts=1", "ROA restarts=3"]


def test_an_attack_within_an_attack_is_told_too() -> None:
    specs = ["evade:attack=pgd", 'evade:attack="pgd:norm=l2,steps=3"', "evade:attack=roa"]
    assert list(short_names(specs).values()) == [
        "evade PGD eps=8/255 norm=linf steps=10",
        "evade PGD eps=0.5 norm=l2 steps=3",
        "evade ROA",
    ]


def test_several_attacks_are_told_apart() -> None:
    specs = ["pgd+roa", "pgd|roa", "(pgd|roa)+fgsm", "pgd:steps=2+roa", "roa"]
    names = short_names(specs)
    assert len(set(names.values())) == len(specs)
    assert [kind(spec) for spec in specs] == ["PGD+ROA", "PGD|ROA", "(PGD|ROA)+FGSM", "PGD+ROA", "ROA"]


def test_what_is_no_spec_and_what_nobody_here_knows_keep_their_names() -> None:
    odd = ["union(attacks=12)", "corruptions", "blink:times=3", "blink:times=4", "function:name=mine", ""]
    assert list(short_names(odd).values()) == ["union", "corruptions", "blink times=3", "blink times=4", "mine", ""]


@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        ("pgd:norm=l2", {"eps": "0.5", "norm": "l2", "steps": "10", "step_size": "none"}),
        ("pgd:eps=4/255", {"eps": "4/255", "norm": "linf"}),
        ("fia", {"eps": "16/255"}),
        ("none", {}),
    ],
)
def test_every_setting_is_known_whether_written_or_not(spec: str, expected: dict[str, str]) -> None:
    fields = attack_fields(spec)
    assert {key: fields[key] for key in expected} == expected


def test_flat_values() -> None:
    values = {"mean": [0.4914, 0.4822], "nothing": None, "empty": {}, "a": {"b": {"c": True}}, "name": "x"}
    assert flat(values) == [
        ("mean", "0.4914, 0.4822"),
        ("nothing", "None"),
        ("empty", "{}"),
        ("a.b.c", "True"),
        ("name", "x"),
    ]
