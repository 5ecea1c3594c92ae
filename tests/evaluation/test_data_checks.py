"""Data that a base can answer: as many classes, some of its names, in its order."""

import dataclasses

import pytest

from loradar.core.errors import BadConfigError
from loradar.data.source import Source
from loradar.evaluation import check_classes
from loradar.models import Base, new_base

PETS = ("ant", "bee", "grey cat")


def base(classes: tuple[str, ...] | None) -> Base:
    made = new_base("timm:test_resnet", num_classes=3, input_size=(3, 32, 32), seed=0)
    return dataclasses.replace(made, classes=classes)


def source(classes: tuple[str, ...], name: str = "mine") -> Source:
    return Source(name=name, classes=classes, splits={"train": lambda: pytest.fail("no image is needed")})


@pytest.mark.parametrize(
    ("own", "classes", "name"),
    [
        (PETS, PETS, "mine"),
        (PETS, ("ant", "bee", "Grey_Cat"), "mine"),
        (PETS, ("ant", "wasp", "grey cat"), "mine"),  # some of them called otherwise
        (None, ("x", "y", "z"), "mine"),
        (PETS, ("0", "1", "2"), "mine"),  # labels without names
        (("0", "1", "2"), PETS, "mine"),
        (("0", "1", "2"), ("0", "1", "2"), "digits"),
        (PETS, ("n01440764", "n01443537", "n01484850"), "mine"),
        (("tench, Tinca tinca", "crane", "crane"), ("n01440764 tench", "crane", "other"), "mine"),
        (("ant, emmet", "bee", "cat"), ("Emmet", "x", "y"), "mine"),
    ],
)
def test_what_belongs_together_is_taken(own: tuple[str, ...] | None, classes: tuple[str, ...], name: str) -> None:
    check_classes(base(own), source(classes, name))


@pytest.mark.parametrize(
    ("own", "classes", "name", "says"),
    [
        (PETS, ("x", "y"), "mine", r"mine has 2 classes, the base 3; .*--head new"),
        (PETS, ("x", "y", "z"), "mine", r"no class of mine \('x', ...\) is one of the base's \('ant', ...\); .*--data"),
        (PETS, ("0", "1", "2"), "digits", "no class of digits"),
        (
            PETS,
            ("bee", "ant", "grey cat"),
            "mine",
            "class 0 is 'bee' in mine and 'ant' in the base; expected one order",
        ),
        (PETS, ("ant", "grey cat", "wasp"), "mine", "class 1 is 'grey cat' in mine"),
        (("ant, emmet", "bee", "cat"), ("bee", "emmet", "cat"), "mine", "class 0 is 'bee' in mine"),
        (("0", "1", "2"), ("0", "2", "1"), "mine", "class 1 is '2' in mine"),
    ],
)
def test_what_does_not_is_one_line(own: tuple[str, ...], classes: tuple[str, ...], name: str, says: str) -> None:
    with pytest.raises(BadConfigError, match=says) as error:
        check_classes(base(own), source(classes, name))
    assert "\n" not in str(error.value)
