"""Presets by structure, on the models of torchvision and timm; patterns; what is refused."""

import re

import pytest
import timm
import torch
import torchvision
from torch import nn

from loradar.adapters import find_head, find_norms, find_targets
from loradar.core.errors import BadTargetError
from tests.adapters.tiny import resnet, vit


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


def test_attention_that_torchvision_never_calls_is_refused() -> None:
    model = on_no_device("vit_b_16")
    for preset in ("attention", "attention+mlp", "*.out_proj"):
        with pytest.raises(BadTargetError, match="MultiheadAttention, whose forward never calls"):
            find_targets(model, preset)
    assert len(find_targets(model, "mlp")) == 24
    assert find_targets(model, "all-linear") == find_targets(model, "mlp")
    assert find_head(model) == "heads.head"


def test_the_head_is_no_mlp() -> None:
    model = on_no_device("vgg11")
    assert find_head(model) == "classifier.6"
    with pytest.raises(BadTargetError, match="presets that fit: 'all-conv', 'all-linear'"):
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
    with pytest.raises(BadTargetError, match="no layers for 'attention'; presets that fit: 'block-conv1'"):
        find_targets(resnet(), "attention")


def test_a_model_without_a_head() -> None:
    with pytest.raises(BadTargetError, match="no Linear head"):
        find_head(nn.Sequential(nn.Conv2d(3, 4, 1)))
    with pytest.raises(BadTargetError, match="no Linear head"):
        find_head(vit(classes=0))
