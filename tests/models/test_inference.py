"""The same logits with less work."""

import copy

import pytest
import torch
from torch import Tensor, nn

from loradar.core.errors import BadTargetError
from loradar.models import Normalized, foldable_conv_bn, new_base, optimize_for_inference, skip_padding


def moved(model: nn.Module) -> nn.Module:
    """With statistics and gains that are not those of a start, in eval mode."""
    draws = torch.Generator().manual_seed(0)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d) and module.running_mean is not None:
            for tensor in (module.running_mean, module.running_var, module.weight, module.bias):
                assert tensor is not None
                tensor.data.uniform_(0.5, 1.5, generator=draws)
    return model.eval()


def pictures(count: int = 4, size: int = 32) -> Tensor:
    return torch.rand(count, 3, size, size, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize(
    ("architecture", "size", "pairs"),
    [("resnet18", 32, 20), ("resnet18-cifar", 32, 20), ("timm:test_resnet", 32, None), ("timm:test_vit", 160, 0)],
)
def test_a_frozen_copy_answers_as_the_model(architecture: str, size: int, pairs: int | None) -> None:
    model = moved(new_base(architecture, num_classes=5, input_size=(3, size, size)).model)
    before = copy.deepcopy(model.state_dict())
    merge = foldable_conv_bn(model)
    assert merge if pairs is None else len(merge) == pairs
    copied = optimize_for_inference(model, "fp32", merge=merge)
    left = [name for name, module in copied.named_modules() if isinstance(module, nn.BatchNorm2d)]
    assert not set(left) & {f"wrapped.{second}" for _, second in merge}
    x = pictures(2, size)
    with torch.no_grad():
        torch.testing.assert_close(copied(x), model(x), rtol=1e-4, atol=1e-4)
    assert not any(parameter.requires_grad for parameter in copied.parameters())
    assert all(torch.equal(model.state_dict()[name], tensor) for name, tensor in before.items())
    assert all(parameter.requires_grad for parameter in model.parameters())


def test_gradients_reach_the_images_and_are_the_models() -> None:
    model = moved(new_base("resnet18", num_classes=5, input_size=(3, 32, 32)).model).double()
    grads = []
    for one in (model, optimize_for_inference(model, "fp32", merge=foldable_conv_bn(model))):
        x = pictures().double().requires_grad_()
        grads.append(torch.autograd.grad(one(x)[:, 0].sum(), x)[0])
    torch.testing.assert_close(grads[0], grads[1])


def test_weights_lie_in_the_precision_that_they_are_used_in() -> None:
    model = moved(new_base("resnet18", num_classes=5, input_size=(3, 32, 32)).model)
    copied = optimize_for_inference(model, "bf16", merge=foldable_conv_bn(model))
    assert {parameter.dtype for parameter in copied.parameters()} == {torch.bfloat16}
    with torch.no_grad():
        logits = copied(pictures())
        exact = model(pictures())
    assert logits.dtype == torch.float32
    assert (logits - exact).norm() < 0.05 * exact.norm()


class Net(nn.Module):
    """A convolution and a normalisation, used in the way that its name says."""

    def __init__(self, way: str) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)
        self.bn = nn.BatchNorm2d(4, track_running_stats=way != "batch statistics")
        self.way = way

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.conv(x)
        match self.way:
            case "two readers":
                out = self.bn(out) + out
            case "called twice":
                out = self.bn(self.conv(x.flip(3))) + self.bn(out)
            case "something between":
                out = self.bn(out.relu())
            case "not to be traced" if out.sum() == 0:
                raise AssertionError
            case _:
                out = self.bn(out)
        means: Tensor = out.mean((2, 3))
        return means


@pytest.mark.parametrize(
    ("way", "pairs"),
    [
        ("plain", (("conv", "bn"),)),
        ("two readers", ()),
        ("called twice", ()),
        ("something between", ()),
        ("not to be traced", ()),
        ("batch statistics", ()),
    ],
)
def test_only_what_nothing_else_reads_is_merged(way: str, pairs: tuple[tuple[str, str], ...]) -> None:
    model = moved(Normalized(Net(way), [0.5] * 3, [0.2] * 3))
    assert foldable_conv_bn(model) == pairs
    with torch.no_grad():
        torch.testing.assert_close(optimize_for_inference(model, "fp32", merge=pairs)(pictures()), model(pictures()))


def test_a_pair_that_is_none_is_refused() -> None:
    with pytest.raises(BadTargetError, match="bn, conv: no convolution"):
        optimize_for_inference(Net("plain"), "fp32", merge=[("bn", "conv")])


@pytest.mark.parametrize(
    ("convolution", "shortened"),
    [
        (nn.Conv2d(4, 6, 3, padding=1), True),
        (nn.Conv2d(4, 6, 3, padding=1, stride=2, bias=False), True),
        (nn.Conv2d(4, 6, (5, 3), padding=(2, 1), groups=2), True),
        (nn.Conv2d(4, 6, 3, padding=2, dilation=2), True),
        (nn.Conv2d(4, 6, 3, padding=2), False),
        (nn.Conv2d(4, 6, 1), False),
        (nn.Conv2d(4, 6, 3, padding="same"), False),
        (nn.Conv2d(4, 6, 3, padding=1, padding_mode="replicate"), False),
    ],
    ids=str,
)
@pytest.mark.parametrize("size", [1, 2, 5])
def test_a_single_pixel_meets_the_centre_alone(convolution: nn.Conv2d, shortened: bool, size: int) -> None:
    quickened = skip_padding(copy.deepcopy(convolution))
    assert (type(quickened) is not nn.Conv2d) == shortened
    x = torch.rand(2, 4, size, size, requires_grad=True)
    torch.testing.assert_close(quickened(x), convolution(x))
    ours, plain = (torch.autograd.grad(one(x).square().sum(), x)[0] for one in (quickened, convolution))
    torch.testing.assert_close(ours, plain)
    assert quickened.state_dict().keys() == convolution.state_dict().keys()
