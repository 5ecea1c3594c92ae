"""Bases by a one-line name."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from loradar.core.errors import BadConfigError, BadFileError
from loradar.models import build, load_base


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    path = tmp_path / "net.safetensors"
    save_file(build("squeezenet1_1", num_classes=3, seed=9).state_dict(), path)
    return path


def test_a_file_of_weights_needs_its_architecture(checkpoint: Path) -> None:
    options = "architecture=squeezenet1_1,num_classes=3,size=64,mean=0.5/0.5/0.5,std=0.2/0.2/0.2"
    base = load_base(f"{checkpoint}:{options}")
    assert base.input_size == (3, 64, 64)
    assert base.description["mean"] == [0.5, 0.5, 0.5]
    assert len(base.description["sha256"]) == 64
    own = build("squeezenet1_1", num_classes=3, seed=9).eval()
    x = torch.rand(1, 3, 64, 64)
    torch.testing.assert_close(base.model(x), own((x - 0.5) / 0.2))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("", "add :architecture=NAME"),
        (":architecture=squeezenet1_1", "add num_classes=N"),
        (":architecture=squeezenet1_0,num_classes=3", "does not fit the architecture"),
        (":architecture=squeezenet1_1,num_classes=3,sise=4", "did you mean 'size'"),
        (":architecture=squeezenet9,num_classes=3", "did you mean 'squeezenet1_"),
    ],
)
def test_a_file_that_is_not_said_right_is_refused(checkpoint: Path, options: str, message: str) -> None:
    with pytest.raises((BadConfigError, BadFileError), match=message):
        load_base(f"{checkpoint}{options}")


@pytest.mark.parametrize("spec", ["squeezenet1_1", "torchvision:squeezenet1_1"])
def test_fresh_weights_are_asked_for_by_name(spec: str) -> None:
    base = load_base(f"{spec}:pretrained=false,num_classes=2,seed=4")
    again = load_base(f"{spec}:pretrained=false,num_classes=2,seed=4")
    assert base.description["architecture"] == "torchvision:squeezenet1_1"
    assert base.description["spec"].startswith(spec)
    assert all(torch.equal(a, b) for a, b in zip(base.model.parameters(), again.model.parameters(), strict=True))


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("no/such/folder", "expected a folder"),
        ("resnet18-cifar", "there is no base"),
        ("keras:resnet18", "there is no base"),
        ("timm:", "there is no base"),
        ("hub:name", "expected hub:owner/name"),
        ("missing.pt:architecture=resnet18", "there is no file"),
        ("torchvision:resnet81", "did you mean 'resnet18'"),
        ("timm:resnett18", "did you mean 'resnet18'"),
        ("torchvision:resnet18:weights=V9", "no weights 'V9'"),
        ("torchvision:resnet18:pretrained=perhaps", "true or false"),
        ("torchvision:resnet18:seed=x", "seed=x: expected an integer"),
        ("", "the name is empty"),
    ],
)
def test_a_name_that_is_no_base_is_refused(spec: str, message: str) -> None:
    with pytest.raises((BadConfigError, BadFileError), match=message) as raised:
        load_base(spec)
    assert "\n" not in str(raised.value)


def test_a_folder_takes_no_options(tmp_path: Path) -> None:
    with pytest.raises(BadConfigError, match="has no option 'num_classes'"):
        load_base(f"{tmp_path}:num_classes=3")


def test_a_file_of_other_classes_gets_a_fresh_head_and_says_so(checkpoint: Path) -> None:
    base = load_base(f"{checkpoint}:architecture=squeezenet1_1,num_classes=4")
    own, saved = base.model.wrapped.state_dict(), build("squeezenet1_1", num_classes=3, seed=9).state_dict()
    differ = {name for name, tensor in saved.items() if own[name].shape != tensor.shape}
    assert differ == {"classifier.1.weight", "classifier.1.bias"}
    assert all(torch.equal(own[name], tensor) for name, tensor in saved.items() if name not in differ)
    assert base.description["head"] == "fresh, seed 0: the weights have 3 classes"


def test_a_file_without_a_head(tmp_path: Path) -> None:
    options = "architecture=timm:test_vit,img_size=32"
    state = build("timm:test_vit", num_classes=0, seed=3, img_size=32).state_dict()
    del state["head.weight"], state["head.bias"]
    save_file(state, tmp_path / "net.safetensors")
    base = load_base(f"{tmp_path}/net.safetensors:{options},num_classes=4")
    assert base.description["head"] == "fresh, seed 0: the weights have none"
    assert base.model(torch.rand(1, 3, 32, 32)).shape == (1, 4)
    of_none = load_base(f"{tmp_path}/net.safetensors:{options},num_classes=0")
    assert (of_none.num_classes, of_none.description["head"]) == (0, "none")
    del state["norm.weight"]
    save_file(state, tmp_path / "less.safetensors")
    with pytest.raises(BadFileError, match=r"missing: norm\.weight, head\.weight, head\.bias"):
        load_base(f"{tmp_path}/less.safetensors:{options},num_classes=4")


def test_a_thousand_classes_are_those_of_imagenet(tmp_path: Path) -> None:
    save_file(build("squeezenet1_1", num_classes=1000).state_dict(), tmp_path / "net.safetensors")
    base = load_base(f"{tmp_path}/net.safetensors:architecture=squeezenet1_1,num_classes=1000")
    assert base.classes is not None
    assert [base.classes[i] for i in (0, 217, 571, 701)] == ["tench", "English springer", "gas pump", "parachute"]
    assert len(set(base.classes)) == 1000
    assert load_base("squeezenet1_1:pretrained=false").classes is None
