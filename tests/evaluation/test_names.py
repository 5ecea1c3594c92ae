import pytest

from loradar.evaluation.names import flat, readable, short_names


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
    assert short_names(["ROA(height=5)", "none", "ROA(height=5)"]) == {"ROA(height=5)": "ROA", "none": "none"}


def test_what_differs_is_told_even_below_brackets() -> None:
    first = "PGD(ball=Linf(radius=0.03137254901960784), loss='a,b', seed=0)"
    second = "PGD(ball=L2(radius=0.5), loss='a,b', seed=0)"
    assert list(short_names([first, second]).values()) == ["PGD ball=Linf(radius=8/255)", "PGD ball=L2(radius=0.5)"]


def test_members_of_a_tuple_are_told_too() -> None:
    names = short_names(["WorstOf(attacks=(PGD(steps=1), FGSM(seed=0)))", "WorstOf(attacks=(PGD(steps=2),))"])
    assert len(set(names.values())) == 2
    assert all(name.startswith("WorstOf attacks=(PGD(") for name in names.values())


def test_flat_values() -> None:
    values = {"mean": [0.4914, 0.4822], "nothing": None, "empty": {}, "a": {"b": {"c": True}}, "name": "x"}
    assert flat(values) == [
        ("mean", "0.4914, 0.4822"),
        ("nothing", "None"),
        ("empty", "{}"),
        ("a.b.c", "True"),
        ("name", "x"),
    ]
