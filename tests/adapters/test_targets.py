"""Presets by structure, on the models of torchvision and timm; patterns; what is refused."""

import re

import pytest
import timm
import torch
import torchvision
from torch import nn

from loradar.adapters import find_head, find_heads, find_norms, find_targets, target_share
from loradar.core.errors import BadTargetError
from tests.adapters.tiny import resnet


def on_no_device(make: str, **settings: object) -> nn.Module:
    """A full-size model without memory for its weights: its structure is all that counts here."""
    with torch.device("meta"):
        if make.startswith("timm:"):
            model: nn.Module = timm.create_model(make.removeprefix("timm:"), **settings)
        else:
            model = torchvision.models.get_model(make, **settings)
    return model


BLOCKS = tuple(f"layer{stage}.{block}.conv1" for stage in range(1, 5) for block in range(2))


@pytest.mark.parametrize("make", ["resnet18", "timm:resnet18"])
def test_resnet_presets(make: str) -> None:
    model = on_no_device(make)
    assert find_targets(model, "block-conv1") == BLOCKS
    assert find_targets(model, "block-conv1+stem") == ("conv1", *BLOCKS)
    assert len(find_targets(model, "all-conv")) == 20
    assert find_head(model) == "fc"
    assert len(find_norms(model)) == 20


def test_bottlenecks_and_deep_stems() -> None:
    assert len(find_targets(on_no_device("resnet50"), "block-conv1")) == 16
    assert find_targets(on_no_device("timm:resnet26d"), "block-conv1+stem")[0] == "conv1.0"


def test_timm_transformer_presets() -> None:
    model = on_no_device("timm:vit_tiny_patch16_224", depth=2)
    attention = tuple(f"blocks.{i}.attn.{part}" for i in range(2) for part in ("qkv", "proj"))
    mlp = tuple(f"blocks.{i}.mlp.{part}" for i in range(2) for part in ("fc1", "fc2"))
    assert find_targets(model, "attention") == attention
    assert find_targets(model, "mlp") == mlp
    assert set(find_targets(model, "attention+mlp")) == {*attention, *mlp}
    assert set(find_targets(model, "all-linear")) == {*attention, *mlp}
    assert find_head(model) == "head"
    assert find_norms(model) == ()


def test_the_attention_of_torchvision_is_its_fused_weight_and_its_projection() -> None:
    model = on_no_device("vit_b_16")
    attention = find_targets(model, "attention")
    assert attention[:2] == (
        "encoder.layers.encoder_layer_0.self_attention",
        "encoder.layers.encoder_layer_0.self_attention.out_proj",
    )
    assert len(attention) == len(find_targets(model, "mlp")) == 24
    assert find_targets(model, "all-linear") == find_targets(model, "attention+mlp") == find_targets(model, "auto")
    assert find_head(model) == "heads.head"


def test_the_head_is_no_mlp() -> None:
    model = on_no_device("vgg11")
    assert find_head(model) == "classifier.6"
    with pytest.raises(BadTargetError, match="presets that fit: 'auto', 'all', 'all-conv', 'all-linear'"):
        find_targets(model, "mlp")
    assert find_targets(model, "all-linear") == ("classifier.0", "classifier.3")


def test_patterns_are_of_the_backbone_and_keep_its_order() -> None:
    base = resnet()
    assert find_targets(base, ["layer2.*.conv?", "layer1.0.conv1"]) == (
        "layer1.0.conv1",
        "layer2.0.conv1",
        "layer2.0.conv2",
    )
    assert find_targets(base, ()) == ()
    assert find_targets(base, "fc") == ("fc",)


def test_near_misses_are_named() -> None:
    with pytest.raises(BadTargetError, match=re.escape("did you mean 'layer1.0.conv1'")):
        find_targets(resnet(), "layer1.0.con1")
    with pytest.raises(BadTargetError, match="did you mean 'block-conv1'"):
        find_targets(resnet(), "block_conv1")
    with pytest.raises(
        BadTargetError, match="no layers for 'attention'; presets that fit: 'auto', 'all', 'block-conv1'"
    ):
        find_targets(resnet(), "attention")


AUTO = {
    "resnet18": "block-conv1+stem",
    "resnet50": "block-conv1+stem",
    "resnext50_32x4d": "block-conv1+stem",
    "wide_resnet50_2": "block-conv1+stem",
    "timm:resnet26d": "block-conv1+stem",
    "timm:resnetv2_50": "block-conv1+stem",
    "timm:seresnet18": "block-conv1+stem",
    "timm:vit_tiny_patch16_224": "attention+mlp",
    "timm:deit_tiny_distilled_patch16_224": "attention+mlp",
    "timm:mixer_s32_224": None,
    "timm:convnext_atto": None,
    "timm:mobilenetv3_small_050": None,
    "timm:efficientnet_b0": None,
    "timm:coatnet_nano_rw_224": None,
    "timm:swin_tiny_patch4_window7_224": None,
    "mobilenet_v2": None,
    "convnext_tiny": None,
    "swin_t": None,
    "squeezenet1_1": None,
    "vgg11": None,
    "maxvit_t": None,
}


@pytest.mark.parametrize(("make", "preset"), AUTO.items())
def test_auto_fits_every_kind_of_model(make: str, preset: str | None) -> None:
    model = on_no_device(make)
    found = find_targets(model, "auto")
    heads = find_heads(model)
    assert not set(heads) & set(found)
    if preset is not None:
        assert found == find_targets(model, preset)
    else:
        assert target_share(model, found) > 0.5
        layers = [model.get_submodule(name) for name in found]
        depthwise = [m for m in layers if isinstance(m, nn.Conv2d) and m.groups == m.in_channels > 1]
        assert depthwise == []


def test_the_share_is_of_the_parameters_below_the_head() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 1), nn.Flatten(), nn.Linear(4 * 64, 5, bias=False), nn.Linear(5, 3))
    assert target_share(model, ()) == 0
    assert target_share(model, ["0"]) == 12 / (16 + 1280)
    assert target_share(model, ["0", "2"]) == (12 + 1280) / (16 + 1280)
    assert target_share(model, ["0", "3"]) == 12 / (16 + 1280), "the head does not count"
    assert target_share(model, ["3"], head="2") == 15 / (16 + 18)


def test_auto_on_a_model_of_tiny_layers() -> None:
    model = nn.Sequential(nn.Conv2d(3, 2, 1), nn.Flatten(), nn.Linear(2 * 64, 3))
    assert find_targets(model, "auto") == ("0",)
