"""Published weights, with the network replaced: what is made of them, and what is said when there is none."""

from pathlib import Path
from typing import Any
from urllib.error import URLError

import huggingface_hub
import pytest
import timm
import torch
from torch import Tensor, nn
from torchvision import models

from loradar.core.errors import BadConfigError, BadFileError
from loradar.models import build, load_base, loading, save_base

_create = timm.create_model


@pytest.fixture
def published(monkeypatch: pytest.MonkeyPatch) -> dict[str, Tensor]:
    """torchvision's weights of squeezenet1_1: those of a fresh one."""
    state = build("squeezenet1_1", num_classes=1000, seed=7).state_dict()

    def fetch(_self: object, **options: object) -> dict[str, Tensor]:
        assert options["weights_only"] is True
        return dict(state)

    monkeypatch.setattr(models.SqueezeNet1_1_Weights, "get_state_dict", fetch)
    return state


def test_torchvision_weights_come_with_their_classes_and_size(published: dict[str, Tensor]) -> None:
    base = load_base("torchvision:squeezenet1_1")
    assert base.num_classes == 1000
    assert base.classes is not None
    assert base.classes[0] == "tench"
    assert base.input_size == (3, 224, 224)
    assert base.description["weights"] == "SqueezeNet1_1_Weights.IMAGENET1K_V1"
    own = base.model.wrapped.state_dict()
    assert all(torch.equal(own[name], tensor) for name, tensor in published.items())


def test_another_number_of_classes_gets_a_fresh_head_alone(published: dict[str, Tensor]) -> None:
    base = load_base("torchvision:squeezenet1_1:num_classes=5,mean=0.1/0.2/0.3")
    own = base.model.wrapped.state_dict()
    differ = {name for name, tensor in published.items() if own[name].shape != tensor.shape}
    assert differ == {"classifier.1.weight", "classifier.1.bias"}
    assert torch.equal(own["features.0.weight"], published["features.0.weight"])
    assert base.classes is None
    assert base.description["mean"] == [0.1, 0.2, 0.3]


def test_without_a_network_there_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_args: object, **_options: object) -> None:
        raise URLError("Name or service not known")

    monkeypatch.setattr(models.ResNet18_Weights, "get_state_dict", fail)
    monkeypatch.setattr(timm, "create_model", fail)
    monkeypatch.setattr(timm.models, "load_model_config_from_hf", fail)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    for spec in ("torchvision:resnet18", "timm:resnet18", "hub:owner/name"):
        with pytest.raises(BadFileError, match="is there a network") as raised:
            load_base(spec)
        assert "\n" not in str(raised.value)


@pytest.fixture
def offline_timm(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """timm builds what it is asked for, and fetches nothing. Gives the names asked for."""
    asked: list[str] = []

    def create(name: str, pretrained: bool, **options: Any) -> nn.Module:
        asked.extend([name] if pretrained else [])
        model: Any = _create("vit_tiny_patch16_224", pretrained=False, **options)
        if pretrained:
            model.pretrained_cfg["mean"] = (0.1, 0.2, 0.3)  # weights may differ from their architecture's usual
        built: nn.Module = model
        return built

    arguments = {"embed_dim": 24, "depth": 1, "num_heads": 2}
    monkeypatch.setattr(timm, "create_model", create)
    monkeypatch.setattr(loading, "find_file", lambda _place, _name: None)
    monkeypatch.setattr(timm.models, "load_model_config_from_hf", lambda _name: ({}, "vit_tiny_patch16_224", arguments))
    return asked


def test_timm_weights_come_with_their_normalisation(offline_timm: list[str]) -> None:
    base = load_base("timm:vit_tiny_patch16_224:num_classes=6,img_size=32,depth=1")
    assert offline_timm == ["vit_tiny_patch16_224"]
    assert (base.num_classes, base.input_size) == (6, (3, 32, 32))
    assert base.description["mean"] == [0.1, 0.2, 0.3]
    assert base.model(torch.rand(1, 3, 32, 32)).shape == (1, 6)


def test_a_hub_model_is_built_again_offline(offline_timm: list[str], tmp_path: Path) -> None:
    base = load_base("hub:owner/name:num_classes=2,img_size=32")
    assert offline_timm == ["hf-hub:owner/name"]
    opened = load_base(str(save_base(tmp_path / "base", base)))
    x = torch.rand(2, 3, 32, 32)
    assert torch.equal(opened.model(x), base.model(x))


def test_an_option_that_the_constructor_does_not_have_is_no_network_trouble(offline_timm: list[str]) -> None:
    with pytest.raises(BadConfigError, match="img_sze"):
        load_base("timm:vit_tiny_patch16_224:img_sze=32")
    assert offline_timm


def test_weights_without_a_head_get_a_fresh_one_or_none(monkeypatch: pytest.MonkeyPatch) -> None:
    def create(name: str, *, pretrained: bool, **options: Any) -> nn.Module:
        assert pretrained
        model: nn.Module = _create(name, pretrained=False, **{"num_classes": 0, **options})
        vars(model)["pretrained_cfg"] = {**vars(model)["pretrained_cfg"], "num_classes": 0}
        return model

    monkeypatch.setattr(timm, "create_model", create)
    of_none = load_base("timm:test_vit:img_size=32")
    assert (of_none.num_classes, of_none.description["head"]) == (0, "none")
    assert of_none.model(torch.rand(1, 3, 32, 32)).shape == (1, 0)
    base = load_base("timm:test_vit:num_classes=10,img_size=32,seed=3")
    assert base.num_classes == 10
    assert base.description["head"] == "fresh, seed 3: the weights have none"
    assert base.model(torch.rand(1, 3, 32, 32)).shape == (1, 10)


def test_timm_weights_of_imagenet_have_its_names(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(timm, "create_model", lambda name, pretrained, **options: _create(name, **options))  # noqa: ARG005
    base = load_base("timm:test_resnet")
    assert base.classes is not None
    assert base.classes[497] == "church"
    assert load_base("timm:test_resnet:num_classes=3").classes is None
