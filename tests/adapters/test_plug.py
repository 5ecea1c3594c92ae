"""Deltas applied, layer by layer: every convolution against its weight written out; what a shared copy shares."""

import copy
import itertools
from typing import Literal, TypeAlias

import pytest
import timm
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from loradar.adapters import Adapter, fingerprint, init_adapter, merge_weights, plug
from loradar.core.errors import BadConfigError, BadTargetError, WrongBaseError
from loradar.core.modules import evaluating, unwrap
from tests.adapters.tiny import images, resnet, snapshot, step, trained

Mode: TypeAlias = Literal["zeros", "reflect", "replicate", "circular"]

GRID = [
    (stride, dilation, padding, mode, groups)
    for stride, dilation, (padding, mode), groups in itertools.product(
        (1, 2), (1, 2), ((0, "zeros"), (2, "zeros"), (2, "reflect"), (1, "circular"), (2, "replicate")), (1, 3)
    )
]


def moved(adapter: Adapter) -> Adapter:
    """The adapter with factors that are not where they started."""
    g = torch.Generator().manual_seed(0)
    for parameter in adapter.parameters():
        parameter.data += torch.randn(parameter.shape, generator=g) * 0.1
    return adapter


def by_hand(conv: nn.Conv2d, weight: Tensor, x: Tensor) -> Tensor:
    if conv.padding_mode != "zeros":
        (py, px) = (int(p) for p in conv.padding)
        x = F.pad(x, (px, px, py, py), mode=conv.padding_mode)
        return F.conv2d(x, weight, conv.bias, conv.stride, 0, conv.dilation, conv.groups)
    return F.conv2d(x, weight, conv.bias, conv.stride, conv.padding, conv.dilation, conv.groups)


@pytest.mark.parametrize(("stride", "dilation", "padding", "mode", "groups"), GRID)
def test_every_convolution(stride: int, dilation: int, padding: int, mode: Mode, groups: int) -> None:
    torch.manual_seed(0)
    conv = nn.Conv2d(3, 6, 3, stride, padding, dilation, groups, padding_mode=mode)
    base = nn.Sequential(conv)
    adapter = moved(init_adapter(base, target_modules="0", rank=2, head=False, lora_alpha=3.0))
    x = torch.rand(2, 3, 9, 10)
    delta = adapter.deltas["0"]
    expected = by_hand(conv, conv.weight + 1.5 * (delta.b @ delta.a).view_as(conv.weight), x)
    assert torch.allclose(plug(base, adapter)(x), expected, atol=1e-5)
    assert torch.allclose(merge_weights(base, adapter)(x), expected, atol=1e-5)
    assert (expected - conv(x)).abs().max() > 1e-2


@pytest.mark.parametrize("padding", ["same", "valid"])
def test_padding_by_name(padding: str) -> None:
    base = nn.Sequential(nn.Conv2d(3, 4, (3, 5), padding=padding))
    adapter = moved(init_adapter(base, target_modules="0", rank=2, head=False))
    x = images()
    assert torch.allclose(plug(base, adapter)(x), merge_weights(base, adapter)(x), atol=1e-5)


def test_a_layer_whose_weight_is_used_without_it() -> None:
    torch.manual_seed(0)
    # BEiT's attention hands the weight of qkv to a function: a hook on qkv would never be called
    base = timm.create_model("beit_base_patch16_224", img_size=32, depth=1, embed_dim=24, num_heads=2).eval()
    for parameter in base.parameters():
        parameter.data.normal_(std=0.3)  # as timm starts it, its blocks hardly matter
    adapter = moved(init_adapter(base, target_modules="blocks.0.attn.qkv", rank=2, head=False))
    x = images()
    assert (plug(base, adapter)(x) - base(x)).abs().max() > 1e-3
    assert torch.allclose(plug(base, adapter)(x), merge_weights(base, adapter)(x), atol=1e-5)


def test_parameters_are_shared_and_buffers_copied() -> None:
    base = resnet()
    adapter = init_adapter(base, target_modules="block-conv1")
    for model in (plug(base, adapter), merge_weights(base, adapter)):
        own = dict(model.named_parameters())
        changed = {n for n, p in base.named_parameters() if own[n].data_ptr() != p.data_ptr()}
        assert "wrapped.conv1.weight" not in changed
        assert {"wrapped.fc.weight", "wrapped.fc.bias"} <= changed
        pointers = {b.data_ptr() for b in base.buffers()}
        assert not pointers & {b.data_ptr() for b in model.buffers()}


def test_training_moves_the_very_tensors_of_the_adapter() -> None:
    base = resnet()
    adapter = init_adapter(base, target_modules="block-conv1", norm="statistics")
    before = {n: t.clone() for n, t in adapter.state().items()}
    step(plug(base, adapter), adapter, images(8))
    frozen = {n for n, t in adapter.state().items() if torch.equal(t, before[n])}
    # the affine part of a normalisation with owned statistics is carried along, not trained
    assert frozen == {n for n in before if "bn" in n and n.endswith(("weight", "bias"))} | {
        n for n in before if "downsample" in n and n.endswith(("weight", "bias"))
    }


def test_train_mode_never_reaches_frozen_statistics() -> None:
    base = resnet().train()
    plugged = plug(base, init_adapter(base, target_modules="block-conv1"))
    before = snapshot(plugged)
    for model in (plugged, copy.deepcopy(plugged)):
        model.train()
        with evaluating(model):
            pass
        with torch.no_grad():
            model(images(8))
        assert all(torch.equal(t, before[n]) for n, t in model.state_dict().items())
        assert model.training


def test_channels_last_and_autocast() -> None:
    base = resnet().to(memory_format=torch.channels_last)
    adapter = trained(base, "block-conv1+stem")
    x = images().contiguous(memory_format=torch.channels_last)
    folded, plugged = merge_weights(base, adapter), plug(base, adapter)
    weight = folded.get_submodule("wrapped.layer1.0.conv1").weight
    assert isinstance(weight, Tensor)
    assert weight.is_contiguous(memory_format=torch.channels_last)
    with torch.autocast("cpu", torch.bfloat16):
        assert plugged(x).dtype == torch.bfloat16
        assert torch.allclose(plugged(x).float(), folded(x).float(), atol=0.05)


def test_a_base_in_half_precision() -> None:
    base = resnet().bfloat16()
    adapter = init_adapter(base, target_modules="block-conv1+stem", init="svd")
    x = images().bfloat16()
    assert torch.equal(plug(base, adapter)(x), base(x))
    assert merge_weights(base, adapter)(x).dtype == torch.bfloat16


def test_shapes_are_looked_at_even_without_the_hash() -> None:
    adapter = init_adapter(resnet(classes=4), target_modules="block-conv1")
    with pytest.raises(WrongBaseError, match=r"fc\.weight of \(4, 16\), this base \(5, 16\)"):
        plug(resnet(classes=5), adapter, check=False)
    plug(resnet(seed=1), adapter, check=False)
    with pytest.raises(WrongBaseError, match=r"does not fit this base: the model has no layer 'layer1\.0\.conv1'"):
        plug(nn.Sequential(nn.Linear(2, 2)), adapter, check=False)


def test_an_adapter_of_plain_layers_is_not_worn_by_odd_ones() -> None:
    adapter = init_adapter(nn.Sequential(nn.Conv2d(3, 4, 3)), target_modules="0", rank=2, head=False)
    with pytest.raises(WrongBaseError, match="there it is a dilated convolution"):
        plug(nn.Sequential(nn.Conv2d(3, 4, 3, dilation=2)), adapter, check=False)


def test_what_fresh_refuses() -> None:
    with pytest.raises(BadTargetError, match="fc is the head"):
        init_adapter(resnet(), target_modules=("fc",))
    with pytest.raises(BadConfigError, match="alpha above 0"):
        init_adapter(resnet(), target_modules="block-conv1", lora_alpha=0.0)
    with pytest.raises(BadConfigError, match="rank is -1; expected N, or PATTERN=N"):
        init_adapter(resnet(), target_modules="block-conv1", rank=-1)


def test_normalisation_that_is_merged_changes_neither_answers_nor_gradients() -> None:
    base, x = resnet().double(), images().double()
    before = fingerprint(base)
    adapter = trained(base, "block-conv1+stem", seed=0)
    pairs = [("conv1", "bn1"), ("layer1.0.conv1", "layer1.0.bn1"), ("layer2.0.conv2", "layer2.0.bn2")]
    kept, merged = plug(base, adapter).train(), plug(base, adapter, merge=pairs).train()
    counts = [sum(isinstance(m, nn.BatchNorm2d) for m in model.modules()) for model in (kept, merged)]
    assert counts[0] - counts[1] == 3
    torch.testing.assert_close(merged(x), kept(x))
    gradients = [
        torch.autograd.grad(model(x).square().sum(), [p for p in adapter.parameters() if p.requires_grad])
        for model in (kept, merged)
    ]
    assert len(gradients[0]) > 10
    for one, other in zip(*gradients, strict=True):
        torch.testing.assert_close(one, other)
    assert fingerprint(base) == before


def test_normalisation_that_the_adapter_owns_is_not_merged() -> None:
    base = resnet()
    merged = plug(base, trained(base, "block-conv1", seed=0, norm="owned"), merge=[("conv1", "bn1")])
    assert isinstance(unwrap(merged).get_submodule("bn1"), nn.BatchNorm2d)


def test_a_layer_that_wears_a_composed_weight_is_not_merged() -> None:
    base = resnet()
    unwrap(base).get_submodule("conv1").padding_mode = "reflect"  # type: ignore[assignment]
    unwrap(base).get_submodule("conv1")._reversed_padding_repeated_twice = [1, 1, 1, 1]  # type: ignore[assignment]
    adapter = trained(base, "conv1", seed=0)
    assert not adapter.deltas["conv1"].branch_equivalent
    merged = plug(base, adapter, merge=[("conv1", "bn1")])
    assert isinstance(unwrap(merged).get_submodule("bn1"), nn.BatchNorm2d)
    torch.testing.assert_close(merged(images()), plug(base, adapter)(images()))


def test_a_pair_that_is_none_is_refused() -> None:
    base = resnet()
    with pytest.raises(BadTargetError, match="no convolution and its normalisation"):
        plug(base, trained(base, "block-conv1", seed=0), merge=[("bn1", "conv1")])
