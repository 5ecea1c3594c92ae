from collections import OrderedDict, namedtuple

import pytest
import torch
from torch import Tensor, nn

from loradar.core.errors import BadConfigError, BadTargetError
from loradar.core.modules import (
    Wrapper,
    capture,
    check_logits,
    evaluating,
    find_layer,
    middle_layer,
    output_of,
    take_logits,
    unwrap,
)


class Around(Wrapper):
    def __init__(self, wrapped: nn.Module) -> None:
        super().__init__()
        self.wrapped = wrapped

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.wrapped(x)
        return out


def model() -> nn.Sequential:
    return nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Sequential(nn.Dropout(0.5), nn.Linear(4, 2)))


def test_unwrap_follows_wrappers_all_the_way() -> None:
    backbone = model()
    assert unwrap(backbone) is backbone
    assert unwrap(Around(Around(backbone))) is backbone


def test_unwrap_stops_at_a_user_s_own_attribute_of_that_name() -> None:
    class Mine(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.wrapped = model()

    mine = Mine()
    assert unwrap(mine) is mine
    assert unwrap(Around(mine)) is mine


LOGITS = torch.rand(3, 4)
Output = namedtuple("Output", "logits aux_logits")


@pytest.mark.parametrize(
    "output",
    [LOGITS, {"loss": None, "logits": LOGITS}, OrderedDict(logits=LOGITS), Output(LOGITS, None), LOGITS.half()],
    ids=["tensor", "dict", "ordered", "named tuple", "half"],
)
def test_logits_that_a_model_names_are_taken(output: object) -> None:
    assert torch.equal(check_logits(output).float(), LOGITS.to(check_logits(output).dtype).float())
    assert take_logits(output) is check_logits(output)


@pytest.mark.parametrize(
    ("output", "message"),
    [
        ((LOGITS, LOGITS), "a tuple of 2; .* wrap it"),
        ([LOGITS], "a list of 1; .* wrap it"),
        ({"scores": LOGITS}, "a dict of 'scores'; .* wrap it"),
        ({}, "a dict of nothing"),
        (namedtuple("Other", "out")(LOGITS), "a Other of 1"),
        (None, "a NoneType"),
        ("logits", "a str"),
        (LOGITS[:, :1], r"one value per image, of shape \(3, 1\).*zeros_like"),
        (LOGITS[:, 0], r"one value per image, of shape \(3,\).*zeros_like"),
        ({"logits": LOGITS[:, :1]}, "one value per image"),
        (LOGITS[:, :, None, None], r"shape \(3, 4, 1, 1\); .*nn.Flatten"),
        (LOGITS[:, :, None, None].expand(3, 4, 2, 2), "pool it first"),
        (LOGITS[0, 0], r"shape \(\); "),
        (LOGITS.long(), "torch.int64; .*argmax"),
        (LOGITS.argmax(1), "torch.int64; .*argmax"),
        (LOGITS > 0, "torch.bool; "),
        (LOGITS[:, :0], r"shape \(3, 0\)"),
    ],
)
def test_other_outputs_are_refused_with_a_line_that_mends_them(output: object, message: str) -> None:
    with pytest.raises(BadConfigError, match=message) as caught:
        check_logits(output)
    assert "\n" not in str(caught.value)


def test_find_layer_is_relative_to_the_backbone() -> None:
    backbone = model()
    assert find_layer(Around(backbone), "2.1") is backbone.get_submodule("2.1")
    for missing in ("2.9", "", "wrapped.0"):
        with pytest.raises(BadTargetError, match="the model has no layer"):
            find_layer(Around(backbone), missing)


def test_evaluating_puts_every_mode_back_even_after_an_error() -> None:
    net = model().train()
    net[0].eval()
    before = [m.training for m in net.modules()]
    with evaluating(net):
        assert not any(m.training for m in net.modules())
    assert [m.training for m in net.modules()] == before
    with pytest.raises(RuntimeError, match="inside"), evaluating(net):
        raise RuntimeError("inside")
    assert [m.training for m in net.modules()] == before


def test_capture_gives_the_first_output_and_leaves_no_hook() -> None:
    net = model().eval()
    first, second = torch.ones(2, 3), torch.zeros(2, 3)
    with capture(Around(net), "0") as output:
        net(first)
        net(second)
        assert torch.equal(output.value, net[0](first))
    assert not net[0]._forward_hooks
    with pytest.raises(RuntimeError, match="inside"), capture(net, "0"):
        raise RuntimeError("inside")
    assert not net[0]._forward_hooks


def test_capture_keeps_the_graph() -> None:
    net = model().eval()
    with capture(net, "0") as output:
        logits = net(torch.ones(1, 3, requires_grad=True))
    (grad,) = torch.autograd.grad(logits.sum(), output.value)
    assert grad.shape == (1, 4)


def test_capture_of_an_unknown_layer_names_the_near_misses() -> None:
    net = nn.Sequential()
    net.add_module("layer1", nn.Identity())
    with pytest.raises(BadTargetError, match="did you mean 'layer1'"), capture(net, "layer2"):
        pass


def test_the_output_of_a_layer_without_what_follows() -> None:
    calls = []
    net = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2))
    net[2].register_forward_hook(lambda *_: calls.append(1))
    x = torch.rand(2, 3)
    out = output_of(Around(net), "1", x)
    assert isinstance(out, torch.Tensor)
    assert torch.equal(out, net[1](net[0](x)))
    assert calls == []
    assert not net[1]._forward_hooks


def test_the_output_of_a_layer_that_no_pass_comes_by() -> None:
    class Lazy(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.used, self.unused = nn.Linear(3, 4), nn.Linear(3, 4)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            out: torch.Tensor = self.used(x)
            return out

    assert output_of(Lazy(), "unused", torch.rand(2, 3)) is None


MIDDLES = {
    "timm:test_resnet": "layer2",
    "timm:test_vit": "blocks.3",
    "timm:test_convnext": "stages.1",
    "timm:test_efficientnet": "blocks.2",
    "torchvision:vgg11": "features.8",
    "torchvision:mobilenet_v3_small": "features.6",
    "torchvision:squeezenet1_0": "features.7",
}


@pytest.mark.parametrize("architecture", MIDDLES)
def test_a_layer_about_halfway(architecture: str) -> None:
    from loradar.models import build

    model = build(architecture, num_classes=4)
    assert middle_layer(model) == MIDDLES[architecture]
    assert find_layer(model, "auto") is model.get_submodule(MIDDLES[architecture])


def test_a_model_without_layers_has_none_halfway() -> None:
    with pytest.raises(BadTargetError, match="layer=NAME"):
        middle_layer(nn.Identity())
