"""The grammar WHAT[:key=value,...]."""

import pytest

from loradar.core.errors import BadConfigError
from loradar.models.specs import Spec, Value, parse_spec, refuse_rest, take_flag, take_integer, take_numbers


@pytest.mark.parametrize(
    ("text", "what", "options"),
    [
        ("folder/sub", "folder/sub", {}),
        (" timm:resnet18 ", "timm:resnet18", {}),
        ("timm:resnet18:num_classes=3", "timm:resnet18", {"num_classes": 3}),
        ("hub:owner/name:a=0.5,b=TRUE, c=word", "hub:owner/name", {"a": 0.5, "b": True, "c": "word"}),
        ("x.pt:mean=0.1/0.2/0.3", "x.pt", {"mean": "0.1/0.2/0.3"}),
        ("a=b/c", "a=b/c", {}),
    ],
)
def test_what_and_options_come_apart(text: str, what: str, options: dict[str, Value]) -> None:
    assert parse_spec(text) == Spec(what=what, options=options)


@pytest.mark.parametrize("text", ["", "  ", "x:a=", "x:a=1,b", "x:a=1,a=2", "x:a=1,,b=2"])
def test_what_cannot_be_read_is_refused(text: str) -> None:
    with pytest.raises(BadConfigError, match="expected"):
        parse_spec(text)


def test_options_are_taken_with_their_types() -> None:
    options: dict[str, Value] = {"n": 3, "flag": False, "mean": "0.5/1", "one": 0.5}
    assert take_integer(options, "n") == 3
    assert take_integer(options, "n") is None
    assert take_flag(options, "flag", True) is False
    assert take_flag(options, "flag", True) is True
    assert take_numbers(options, "mean") == (0.5, 1.0)
    assert take_numbers(options, "one") == (0.5,)
    assert take_numbers(options, "std") is None
    assert options == {}


def test_options_of_another_type_are_refused() -> None:
    for value in ("many", 0, -1, True, 1.5):
        with pytest.raises(BadConfigError, match="expected an integer of 1 or more"):
            take_integer({"n": value}, "n")
    with pytest.raises(BadConfigError, match="expected true or false"):
        take_flag({"flag": 1}, "flag", True)
    with pytest.raises(BadConfigError, match="between slashes"):
        take_numbers({"mean": "a/b"}, "mean")
    with pytest.raises(BadConfigError, match="did you mean 'size'"):
        refuse_rest({"sise": 1}, ("size", "seed"), "x")
