"""Architectures by name."""

import pytest
import torch
from torch import nn

from loradar.core.errors import BadConfigError
from loradar.models import build, new_base
from loradar.models.backbones import canonical, default_input_size, default_normalisation


@pytest.mark.parametrize(
    ("name", "full"),
    [
        ("resnet18", "torchvision:resnet18"),
        ("torchvision:mobilenet_v3_small", "torchvision:mobilenet_v3_small"),
        ("timm:resnet18", "timm:resnet18"),
        ("resnet34-cifar", "resnet34-cifar"),
    ],
)
def test_names_have_one_full_form(name: str, full: str) -> None:
    assert canonical(name) == full
    assert canonical(full) == full


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("resnet81", "'resnet18'"),
        ("timm:resnett18", "'resnet18'"),
        ("resnet81-cifar", "'resnet18-cifar'"),
        ("keras:resnet18", "known: 'torchvision', 'timm'"),
    ],
)
def test_an_unknown_name_is_refused_with_near_misses(name: str, hint: str) -> None:
    with pytest.raises(BadConfigError, match=hint):
        build(name, num_classes=2)


def test_a_cifar_stem_keeps_the_size_and_torchvisions_names() -> None:
    model = build("resnet18-cifar", num_classes=7).eval()
    stock = build("resnet18", num_classes=7)
    assert set(model.state_dict()) == set(stock.state_dict())
    assert {n for n, t in stock.state_dict().items() if t.shape != model.state_dict()[n].shape} == {"conv1.weight"}
    shapes: list[torch.Size] = []
    model.get_submodule("layer1").register_forward_hook(lambda _m, _x, out: shapes.append(out.shape))
    with torch.no_grad():
        assert model(torch.rand(1, 3, 32, 32)).shape == (1, 7)
    assert shapes == [(1, 64, 32, 32)]


def test_the_seed_alone_decides_the_weights() -> None:
    torch.manual_seed(1)
    before = torch.random.get_rng_state()
    first = build("squeezenet1_1", num_classes=2, seed=3).state_dict()
    assert torch.equal(before, torch.random.get_rng_state())
    torch.manual_seed(2)
    again = build("squeezenet1_1", num_classes=2, seed=3).state_dict()
    other = build("squeezenet1_1", num_classes=2, seed=4).state_dict()
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not torch.equal(first["features.0.weight"], other["features.0.weight"])


def test_options_that_the_constructor_refuses_are_one_line() -> None:
    with pytest.raises(BadConfigError, match="img_sze") as raised:
        build("timm:vit_tiny_patch16_224", num_classes=2, img_sze=32)
    assert "\n" not in str(raised.value)


def test_normalisation_and_size_go_with_the_name() -> None:
    assert default_normalisation("resnet18-cifar")[0] == (0.4914, 0.4822, 0.4465)
    assert default_normalisation("torchvision:resnet18")[0] == (0.485, 0.456, 0.406)
    assert default_normalisation("timm:vit_tiny_patch16_224") == ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
    assert default_input_size("resnet18-cifar") == (3, 32, 32)
    assert default_input_size("torchvision:resnet18") == (3, 224, 224)
    assert default_input_size("torchvision:vit_b_16", image_size=64) == (3, 64, 64)
    assert default_input_size("timm:vit_tiny_patch16_224", img_size=32, in_chans=1) == (1, 32, 32)


def test_a_new_base_takes_images_and_says_what_it_is() -> None:
    base = new_base("resnet18-cifar", num_classes=3, classes=["x", "y", "z"], mean=(0.5,) * 3, std=(0.5,) * 3, seed=5)
    assert isinstance(base.model, nn.Module)
    assert not any(module.training for module in base.model.modules())
    assert base.input_size == (3, 32, 32)
    assert base.classes == ("x", "y", "z")
    assert base.description["architecture"] == "resnet18-cifar"
    assert base.description["weights"] == "fresh, seed 5"
    assert base.model.mean.flatten().tolist() == [0.5, 0.5, 0.5]


def test_class_names_and_channels_must_fit() -> None:
    with pytest.raises(BadConfigError, match="2 class names for 3 classes"):
        new_base("squeezenet1_1", num_classes=3, classes=["x", "y"])
    with pytest.raises(BadConfigError, match="one per channel: 3"):
        new_base("squeezenet1_1", num_classes=3, mean=(0.5,), std=(0.5,))
