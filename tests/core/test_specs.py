import pytest

from loradar.core.errors import BadConfigError
from loradar.core.specs import split_spec


@pytest.mark.parametrize(
    ("text", "what", "options"),
    [
        ("digits", "digits", {}),
        ("torchvision:resnet18", "torchvision:resnet18", {}),
        ("a/b.pt:architecture=timm:x,num_classes=3", "a/b.pt", {"architecture": "timm:x", "num_classes": "3"}),
        (" hub:a/b:image=x ", "hub:a/b", {"image": "x"}),
    ],
)
def test_splits(text: str, what: str, options: dict[str, str]) -> None:
    assert split_spec(text) == (what, options)


@pytest.mark.parametrize("text", ["", "a:b=1,c", "a:b=1,b=2", "a:b=", "a:b=1,=2"])
def test_what_is_no_spec_is_said_in_one_line(text: str) -> None:
    with pytest.raises(BadConfigError, match="expected") as caught:
        split_spec(text)
    assert "\n" not in str(caught.value)
