"""Heads of timm, torchvision and of whatever a user wrote; and the features before them."""

from collections.abc import Callable
from contextlib import AbstractContextManager
from types import SimpleNamespace

import pytest
import timm
import torch
import torchvision
from torch import Tensor, nn

from loradar.adapters import (
    Card,
    feature_extractor,
    find_head,
    find_heads,
    init_adapter,
    load,
    merge_weights,
    plug,
    save,
)
from loradar.core.errors import BadTargetError
from tests.adapters.tiny import Centred, images, resnet, step, vit


class Net(nn.Module):
    """Layers in the order of their registration, and a forward pass over them in an order of its own."""

    def __init__(self, forward: Callable[["Net", Tensor], Tensor], **layers: nn.Module) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 6, 3, stride=2)
        for name, layer in layers.items():
            self.add_module(name, layer)
        self.kind = SimpleNamespace(forward=forward)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.kind.forward(self, self.stem(x).relu().mean((2, 3)))
        return logits


def scaled(net: nn.Module, z: Tensor) -> Tensor:
    logits: Tensor = net.last(net.first(z)).log_softmax(1) * 3  # type: ignore[operator]
    return logits


def tied(net: Net) -> Net:
    net.get_submodule("a").register_parameter("weight", net.get_submodule("e").get_parameter("weight"))
    return net


MINE: dict[str, tuple[Callable[[], nn.Module], tuple[str, ...]]] = {
    "the classifier registered first": (
        lambda: Net(lambda n, z: n.classifier(n.hidden(z)), classifier=nn.Linear(5, 4), hidden=nn.Linear(6, 5)),  # type: ignore[operator]
        ("classifier",),
    ),
    "a projection registered last": (
        lambda: Net(lambda n, z: n.answers(z), answers=nn.Linear(6, 4), projection=nn.Linear(6, 9)),  # type: ignore[operator]
        ("answers",),
    ),
    "a hidden layer that is called fc": (
        lambda: Net(lambda n, z: n.out(n.fc(z)), out=nn.Linear(5, 4), fc=nn.Linear(6, 5)),  # type: ignore[operator]
        ("out",),
    ),
    "a hidden layer as wide as the logits": (
        lambda: Net(lambda n, z: n.one(n.two(z).relu()), one=nn.Linear(4, 4), two=nn.Linear(6, 4)),  # type: ignore[operator]
        ("one",),
    ),
    "two heads that are averaged": (
        lambda: Net(lambda n, z: (n.a(z) + n.b(z)) / 2, a=nn.Linear(6, 4), b=nn.Linear(6, 4), c=nn.Linear(6, 4)),  # type: ignore[operator]
        ("a", "b"),
    ),
    "logits that go through a function": (
        lambda: Net(scaled, last=nn.Linear(5, 4), first=nn.Linear(6, 5)),
        ("last",),
    ),
    "a convolution": (
        lambda: Net(
            lambda n, z: n.conv(z[:, :, None, None]).flatten(1),  # type: ignore[operator]
            conv=nn.Conv2d(6, 4, 1),
            other=nn.Linear(6, 4),
        ),
        ("conv",),
    ),
    "a residual on the logits": (
        lambda: Net(lambda n, z: (o := n.a(z)) + n.r(o.relu()), a=nn.Linear(6, 4), r=nn.Linear(4, 4)),  # type: ignore[operator]
        ("a", "r"),
    ),
    "logits with a temperature of their own": (
        lambda: Net(lambda n, z: n.a(z) * n.t(z).sigmoid(), a=nn.Linear(6, 4), t=nn.Linear(6, 1)),  # type: ignore[operator]
        ("a",),
    ),
    "a weight that is an embedding's, too": (
        lambda: tied(Net(lambda n, z: n.a(z), a=nn.Linear(6, 4, bias=False), e=nn.Embedding(4, 6))),  # type: ignore[operator]
        ("a",),
    ),
    "a multilayer perceptron": (lambda: nn.Sequential(nn.Flatten(), nn.Linear(192, 8), nn.Linear(8, 4)), ("2",)),
}


@pytest.mark.parametrize(("make", "heads"), MINE.values(), ids=list(MINE))
def test_the_heads_of_a_user_s_own_model(make: Callable[[], nn.Module], heads: tuple[str, ...]) -> None:
    torch.manual_seed(0)
    base = Centred(make()).eval()
    before = {name: tensor.clone() for name, tensor in base.state_dict().items()}
    assert set(find_heads(base)) == set(heads)
    adapter = init_adapter(base, target_modules=(), rank=0)
    assert {name.rpartition(".")[0] for name in adapter.modules_to_save} == set(heads)
    assert all(torch.equal(base.state_dict()[name], tensor) for name, tensor in before.items())
    assert all(p.requires_grad and p.grad is None for p in base.parameters())
    assert not any(m.training or m._forward_hooks for m in base.modules())


@pytest.mark.parametrize(("make", "heads"), MINE.values(), ids=list(MINE))
def test_without_its_heads_an_adapter_says_nothing(make: Callable[[], nn.Module], heads: tuple[str, ...]) -> None:
    torch.manual_seed(0)
    base = Centred(make()).eval()
    adapter = init_adapter(base, target_modules=(), rank=0)
    for tensor in adapter.modules_to_save.values():
        tensor.data.zero_()
    x = images()[:, :, :8, :8] if "2" in heads else images()
    logits = plug(base, adapter)(x)
    assert torch.equal(logits, logits[:1, :1].expand_as(logits))


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
@pytest.mark.parametrize(("make", "heads"), MINE.values(), ids=list(MINE))
def test_heads_are_the_same_without_gradients(
    make: Callable[[], nn.Module], heads: tuple[str, ...], mode: Callable[[], AbstractContextManager[None]]
) -> None:
    torch.manual_seed(0)
    base = Centred(make()).eval()
    x = images()[:, :, :8, :8] if "2" in heads else images()
    with mode():
        assert set(find_heads(base)) == set(heads)
        features = feature_extractor(base)(x)
        adapter = init_adapter(base, target_modules=(), rank=0)
    torch.testing.assert_close(features, feature_extractor(base)(x))
    assert adapter.card.modules_to_save == find_heads(base)
    assert not any(tensor.is_inference() for tensor in adapter.modules_to_save.values())


class Raw(nn.Module):
    """Its logits come of a matrix of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(4, 6))

    def forward(self, z: Tensor) -> Tensor:
        return z @ self.weight.T


def own(net: Net, z: Tensor) -> Tensor:
    return net.hidden(z) @ net.get_parameter("own.weight").T  # type: ignore[no-any-return, operator]


NO_HEAD: dict[str, tuple[Callable[[], nn.Module], str]] = {
    "a Conv1d": (
        lambda: Net(lambda n, z: n.c(n.hidden(z)[:, :, None])[:, :, 0], hidden=nn.Linear(6, 6), c=nn.Conv1d(6, 4, 1)),  # type: ignore[operator]
        "made by c, a Conv1d",
    ),
    "a Bilinear": (
        lambda: Net(lambda n, z: n.c(n.hidden(z), z), hidden=nn.Linear(6, 6), c=nn.Bilinear(6, 6, 4)),  # type: ignore[operator]
        "made by c, a Bilinear",
    ),
    "a matrix of a module": (
        lambda: Net(lambda n, z: n.c(n.hidden(z)), hidden=nn.Linear(6, 6), c=Raw()),  # type: ignore[operator]
        "made by c, a Raw",
    ),
    "a matrix that no call shows": (
        lambda: Net(own, hidden=nn.Linear(6, 6), own=Raw()),
        r"made by own\.weight, used without a layer",
    ),
    "an embedding's weight": (
        lambda: Net(own, hidden=nn.Linear(6, 6), own=nn.Embedding(4, 6)),
        r"made by own\.weight, used without a layer",
    ),
    "a Conv1d beside a Linear": (
        lambda: Net(lambda n, z: n.a(z) + n.c(z[:, :, None])[:, :, 0], a=nn.Linear(6, 4), c=nn.Conv1d(6, 4, 1)),  # type: ignore[operator]
        "made by c, a Conv1d",
    ),
    "a layer for each class": (
        lambda: Net(lambda n, z: torch.cat([n.a(z), n.b(z)], 1), a=nn.Linear(6, 1), b=nn.Linear(6, 3)),  # type: ignore[operator]
        "made by a, a Linear; b, a Linear",
    ),
}


@pytest.mark.parametrize(("make", "says"), NO_HEAD.values(), ids=list(NO_HEAD))
def test_what_makes_the_logits_and_is_no_layer_is_named(make: Callable[[], nn.Module], says: str) -> None:
    with pytest.raises(BadTargetError, match=f"{says}.*say head=NAME"):
        find_heads(Centred(make()).eval())


def test_a_lone_linear_is_no_head_beside_other_matrices() -> None:
    class Unusual(nn.Module):  # takes no image
        def __init__(self, **layers: nn.Module) -> None:
            super().__init__()
            for name, layer in layers.items():
                self.add_module(name, layer)

    assert find_heads(Unusual(stem=nn.Conv2d(3, 6, 3), out=nn.Linear(6, 4))) == ("out",)
    for other in (nn.Conv1d(6, 4, 1), nn.Bilinear(6, 6, 4), nn.Embedding(4, 6), Raw()):
        with pytest.raises(BadTargetError, match="say head=NAME"):
            find_heads(Unusual(stem=nn.Conv2d(3, 6, 3), middle=nn.Linear(6, 6), other=other))


TIMM = {
    "deit_tiny_distilled_patch16_224": ({"img_size": 32, "depth": 1}, 2, "concatenated"),
    "levit_128s": ({"img_size": 32}, 2, "concatenated"),  # each head has a normalisation of its own
    "efficientformerv2_s0": ({"img_size": 32}, 2, "shared"),
    "crossvit_tiny_240": ({}, 2, "concatenated"),
    "dla46_c": ({}, 1, "shared"),
    "resnetv2_18": ({}, 1, "shared"),
    "convnext_atto": ({}, 1, "shared"),
    "test_vit": ({"img_size": 32}, 1, "shared"),
}


@pytest.mark.parametrize(("name", "settings"), TIMM.items())
def test_the_heads_of_timm(name: str, settings: tuple[dict[str, int], int, str]) -> None:
    options, count, inputs = settings
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model: nn.Module = timm.create_model(name, num_classes=5, **options).eval()
    base, x = Centred(model).eval(), images(2)
    heads = find_heads(base)
    assert len(heads) == count
    layers = [model.get_submodule(head) for head in heads]
    with torch.no_grad():
        features, logits = feature_extractor(base)(x), base(x)
        parts = [features] * count if inputs == "shared" else features.chunk(count, 1)
        if name.startswith("crossvit"):
            parts = features.split([layer.in_features for layer in layers], 1)
        made = [
            layer(part[:, :, None, None]).flatten(1) if isinstance(layer, nn.Conv2d) else layer(part)
            for layer, part in zip(layers, parts, strict=True)
        ]
    torch.testing.assert_close(torch.stack(made).mean(0), logits)
    adapter = init_adapter(base, target_modules=(), rank=0)
    assert adapter.card.modules_to_save == heads
    for tensor in adapter.modules_to_save.values():
        tensor.data.zero_()
    assert plug(base, adapter)(x).abs().max() == 0


def test_a_head_on_tokens_has_no_features() -> None:
    model = timm.create_model("volo_d1_224", img_size=32, num_classes=5).eval()
    assert set(find_heads(model)) == {"head", "aux_head"}
    with pytest.raises(BadTargetError, match="a head of VOLO reads 2 dimensions per image"):
        feature_extractor(model)(images(2))


@pytest.mark.parametrize("name", ["squeezenet1_1", "mobilenet_v3_small", "shufflenet_v2_x0_5", "googlenet"])
def test_the_heads_of_torchvision(name: str) -> None:
    settings = {"init_weights": False} if name == "googlenet" else {}
    model: nn.Module = torchvision.models.get_model(name, num_classes=5, **settings).eval()
    (head,) = find_heads(model)
    layer = model.get_submodule(head)
    assert (layer.out_channels if isinstance(layer, nn.Conv2d) else layer.out_features) == 5
    assert feature_extractor(model)(images(2)).ndim == 2


def test_a_head_that_was_replaced_by_several_layers() -> None:
    model = torchvision.models.resnet18(num_classes=5)
    model.fc = nn.Sequential(nn.Linear(512, 8), nn.ReLU(), nn.Linear(8, 5))
    assert find_head(model) == "fc.2"
    model.fc = nn.Identity()
    with pytest.raises(BadTargetError, match="ResNet has no layer in its head"):
        find_head(model)


def test_the_head_can_be_named() -> None:
    base = resnet()
    assert find_heads(base, "fc") == find_heads(base, ["fc"]) == ("fc",)
    adapter = init_adapter(base, target_modules="block-conv1", head=["fc", "layer4.0.conv2"])
    assert adapter.card.head == "layer4.0.conv2"
    assert adapter.card.modules_to_save == ("layer4.0.conv2", "fc")
    with pytest.raises(BadTargetError, match="head='fcc' is no Linear or convolution of the model; did you mean 'fc'"):
        init_adapter(base, head="fcc")


def test_a_model_whose_head_cannot_be_told() -> None:
    class Odd(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(3, 4), nn.Linear(4, 4)

    with pytest.raises(
        BadTargetError, match="which layer of Odd makes the logits is not known; say head=NAME, one of a, b"
    ):
        find_head(Odd())
    assert find_head(Odd(), "b") == "b"
    with pytest.raises(BadTargetError, match="no head is known"):
        find_head(nn.Sequential(nn.Conv2d(3, 4, 1)))
    with pytest.raises(BadTargetError, match="VisionTransformer was built without a head; build it with num_classes=N"):
        find_head(vit(classes=0))


def test_one_head_is_asked_of_a_model_with_two() -> None:
    model = timm.create_model("deit_tiny_distilled_patch16_224", img_size=32, depth=1, num_classes=5)
    with pytest.raises(BadTargetError, match=r"2 heads \(head, head_dist\) and this needs a model with one"):
        find_head(model)


def test_several_heads_are_trained_saved_and_loaded(tmp_path: object) -> None:
    base = Centred(timm.create_model("deit_tiny_distilled_patch16_224", img_size=32, depth=1, num_classes=4)).eval()
    adapter = init_adapter(base, rank=2)
    before = {name: tensor.clone() for name, tensor in adapter.modules_to_save.items()}
    step(plug(base, adapter), adapter, images())
    assert not any(torch.equal(tensor, before[name]) for name, tensor in adapter.modules_to_save.items())
    again = load(save(adapter, f"{tmp_path}/adapter", base))
    assert again.card == adapter.card
    assert torch.equal(plug(base, again)(images()), plug(base, adapter)(images()))
    assert [p.requires_grad for p in again.parameters()] == [p.requires_grad for p in adapter.parameters()]
    torch.testing.assert_close(merge_weights(base, adapter)(images()), plug(base, adapter)(images()))


def test_cards_of_the_first_version_name_the_head_alone() -> None:
    card = Card.from_json('{"name": "old", "head": "fc"}')
    assert card.modules_to_save == ("fc",)
    assert Card.from_json(card.to_json()) == card
