"""Models that compute elsewhere than in their own modules, or use a weight without its layer: found at the first batch."""

import copy
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from loradar.adapters import Adapter, AdapterSwitch, feature_extractor, init_adapter, merge_weights, plug
from loradar.core.errors import BadTargetError
from loradar.core.modules import capture, output_of
from loradar.models import foldable_conv_bn, optimize_for_inference
from tests.adapters.tiny import images, resnet, step

ELSEWHERE: dict[str, nn.Module] = {}


class Elsewhere(nn.Module):
    """Calls a module that a copy of it does not hold."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.fc = nn.Conv2d(3, 4, 3), nn.Linear(4, 4)
        ELSEWHERE["conv"], ELSEWHERE["fc"] = self.conv, self.fc

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = ELSEWHERE["fc"](ELSEWHERE["conv"](x).mean((2, 3)))
        return logits


class Functional(nn.Module):
    """Uses the weight of `fc1` without calling it, and does not use `spare` at all."""

    def __init__(self) -> None:
        super().__init__()
        self.fc1, self.fc2, self.spare = nn.Linear(3, 5), nn.Linear(5, 5), nn.Linear(5, 5)
        self.head = nn.Linear(5, 4)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.head(self.fc2(F.linear(x.mean((2, 3)), self.fc1.weight, self.fc1.bias)))
        return logits


def test_a_model_that_computes_elsewhere() -> None:
    base = Elsewhere().eval()
    adapter = init_adapter(base, target_modules="conv", rank=2, head="fc", name="lost")
    for model in (plug(base, adapter), AdapterSwitch(base, {"a": adapter}).model):
        if model is not base:
            with pytest.raises(BadTargetError, match="of Elsewhere comes by nothing that adapter 'lost' changes"):
                model(images())
    with pytest.raises(BadTargetError, match="comes by nothing"):
        plug(base, init_adapter(base, target_modules=(), rank=0, head="fc"))(images())


@pytest.mark.parametrize("mode", [torch.enable_grad, torch.no_grad, torch.inference_mode])
def test_a_weight_that_is_used_without_its_layer(mode: Any) -> None:
    base = Functional().eval()
    adapter = init_adapter(base, target_modules=["fc1", "fc2"], rank=2, head=False)
    with mode(), pytest.raises(BadTargetError, match="uses the weight of fc1 without calling the layer"):
        plug(base, adapter)(images())


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.conv(x)
        return out


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.block, self.fc = Block(), nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.fc(self.block(x).relu().mean((2, 3)))
        return logits


class Kept(Block):
    """Computes with what is kept beside its layer."""

    kept: Any

    def forward(self, x: Tensor) -> Tensor:
        weight = self.kept[0] if isinstance(self.kept, list) else self.kept
        return F.conv2d(x, weight.view(4, 3, 3, 3), self.conv.bias)


class Both(Kept):
    """Calls its layer, and uses what is kept beside it as well."""

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.conv(x)
        return out + super().forward(x)


def computing(kept: Any, kind: type[Kept]) -> Callable[[Net], None]:
    def change(net: Net) -> None:
        net.block.__class__ = kind
        net.block.kept = kept(net.block.conv.weight)

    return change


def by_partial(net: Net) -> None:
    conv = net.block.conv
    net.block.forward = partial(F.conv2d, weight=conv.weight, bias=conv.bias)  # type: ignore[method-assign]


def by_class(net: Net) -> None:
    called = net.block.forward
    net.block.__class__ = type("Other", (Block,), {"forward": lambda _, x: called(x)})


KEPT: dict[str, Any] = {
    "in a list": lambda w: [w],
    "data": lambda w: w.data,
    "detached": lambda w: w.detach(),
    "a copy": lambda w: w.detach().clone(),
    "a flat one": lambda w: w.detach().flatten(),
}
WIRINGS: dict[str, Callable[[Net], None]] = {"a partial": by_partial, "a class": by_class}
WIRINGS |= {name: computing(kept, Kept) for name, kept in KEPT.items()}
WIRINGS |= {f"{name} as well": computing(kept, Both) for name, kept in KEPT.items()}


def served(how: str, base: nn.Module, adapter: Adapter) -> nn.Module:
    if how == "switch":
        switch = AdapterSwitch(base, {"a": adapter})
        switch.use("a")
        return switch.model
    made = plug(base, adapter) if how == "plug" else merge_weights(base, adapter)
    return optimize_for_inference(made, "fp32") if how == "optimized" else made


@pytest.mark.parametrize("how", ["plug", "merge", "switch", "optimized"])
@pytest.mark.parametrize("wiring", WIRINGS)
def test_a_weight_that_something_else_keeps_is_named(wiring: str, how: str) -> None:
    base = Net().eval()
    WIRINGS[wiring](base)
    model = served(how, base, init_adapter(base, target_modules=["block*conv", "fc"], rank=2, head=False))
    for _ in range(2):  # not the first time alone
        with pytest.raises(BadTargetError, match=r"of Net uses the weight of block\.conv "):
            model(images())


def no_gradient(net: Net) -> None:
    """Computes its block without gradients, which changes no answer."""

    class Frozen(Block):
        def forward(self, x: Tensor) -> Tensor:
            with torch.no_grad():
                return super().forward(x)

    net.block.__class__ = Frozen


def dead(net: Net) -> None:
    nn.init.constant_(net.block.conv.bias, -100)  # type: ignore[arg-type]


def tied(net: Net) -> None:
    net.add_module("tied", nn.Conv2d(3, 4, 3))
    net.tied.weight = net.block.conv.weight  # type: ignore[union-attr]


@pytest.mark.parametrize("how", ["plug", "merge", "switch", "optimized"])
@pytest.mark.parametrize("change", [no_gradient, dead, tied])
def test_what_arrives_without_a_gradient_is_no_loss(change: Callable[[Net], None], how: str) -> None:
    base = Net().eval()
    change(base)
    adapter = init_adapter(base, target_modules=["block*conv", "fc"], rank=2, head=False)
    for delta in adapter.deltas.values():
        nn.init.normal_(delta.b)
    model = served(how, base, adapter)
    truth = Net().eval()
    change(truth)
    truth.load_state_dict(base.state_dict())
    with torch.no_grad():
        for name, delta in adapter.deltas.items():
            truth.get_submodule(name).weight.add_(delta.weight())  # type: ignore[operator]
        torch.testing.assert_close(model(images()), truth(images()))
    assert not model._forward_pre_hooks


def test_the_look_leaves_random_numbers_counters_and_other_copies_alone() -> None:
    class Counting(Net):
        count: Tensor

        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("count", torch.zeros(()))

        def forward(self, x: Tensor) -> Tensor:
            self.count += 1
            return super().forward(x) + torch.rand(())

    base = Counting().eval()
    torch.manual_seed(0)
    expected = base(images())
    adapter = init_adapter(base, target_modules=["block*conv"], rank=2, head=False)
    for how in ("plug", "merge"):
        copied = copy.deepcopy(served(how, base, adapter))
        torch.manual_seed(0)
        torch.testing.assert_close(copied(images()), expected)
        assert copied.get_buffer("count") == 2
        assert copied.get_submodule("block.conv").weight is not base.block.conv.weight


def test_a_base_that_is_wired_anew_is_looked_at_again() -> None:
    base = Net().eval()
    adapter = init_adapter(base, target_modules=["block*conv", "fc"], rank=2, head=False)
    merge_weights(base, adapter)(images())
    by_partial(base)
    with pytest.raises(BadTargetError, match="uses the weight of block"):
        merge_weights(base, adapter)(images())


def test_a_model_of_features_has_no_head_to_reach() -> None:
    base = Net().eval()
    features = feature_extractor(base, "fc")
    adapter = init_adapter(base, target_modules=(), rank=0, head="fc")
    headless = copy.deepcopy(merge_weights(base, adapter))
    headless.get_submodule("").add_module("fc", nn.Identity())
    assert torch.equal(headless(images()), features(images()))


def test_a_normalisation_that_went_into_its_convolution() -> None:
    base = resnet()
    adapter = init_adapter(base, target_modules="block-conv1", norm="owned")
    merged = merge_weights(base, adapter)
    expected = merge_weights(base, adapter)(images())
    folded = optimize_for_inference(merged, "fp32", merge=foldable_conv_bn(base))
    torch.testing.assert_close(folded(images()), expected)
    assert not folded._forward_pre_hooks


def test_a_layer_that_is_not_used_is_no_loss() -> None:
    base = Functional().eval()
    plugged = plug(base, init_adapter(base, target_modules=["fc2", "spare"], rank=2, head=False))
    assert torch.equal(plugged(images()), base(images()))


def test_training_is_not_looked_at() -> None:
    base = Functional()
    plugged = plug(base, init_adapter(base, target_modules=["fc2", "spare"], rank=2, head=False)).train()
    plugged(images())
    with pytest.raises(BadTargetError):
        plug(base, init_adapter(base, target_modules=["fc1"], rank=2, head=False)).eval()(images())


def test_the_look_changes_neither_model_nor_answer() -> None:
    base = resnet()
    adapter = init_adapter(base, target_modules="block-conv1")
    step(plug(base, adapter), adapter, images())
    plugged = plug(base, adapter)
    first, second = plugged(images()), plugged(images())
    assert torch.equal(first, second)
    torch.testing.assert_close(first, merge_weights(base, adapter)(images()))


def test_who_reads_a_layer_does_not_see_the_look() -> None:
    base = resnet()
    x, adapter = images(3).requires_grad_(), init_adapter(base, target_modules="all-conv", rank=2, head=False)
    for model in (plug(base, adapter), merge_weights(base, adapter)):
        with capture(model, "layer2") as output:
            model(x)
        assert len(output.value) == 3
        assert output.value.requires_grad
    for model in (plug(base, adapter), merge_weights(base, adapter)):
        found = output_of(model, "layer2", x)
        assert isinstance(found, Tensor)
        assert torch.allclose(found, output.value, atol=1e-5)
        assert found.requires_grad
