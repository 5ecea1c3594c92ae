"""Bases of models in memory."""

from collections.abc import Callable

import pytest
import timm
import torch
from torch import Tensor, nn

from loradar.adapters import fingerprint, init_adapter, plug
from loradar.core.errors import BadConfigError, BadImagesError
from loradar.models import Base, build, new_base, save_base, wrap


def flat(side: int, channels: int = 3, classes: int = 4) -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(channels * side * side, 8), nn.ReLU(), nn.Linear(8, classes))


def convolutional(channels: int = 3) -> nn.Module:
    layers = [nn.Conv2d(channels, 4, 3), nn.BatchNorm2d(4), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 5)]
    return nn.Sequential(*layers)


MODELS: dict[str, tuple[Callable[[], nn.Module], tuple[int, int, int], int]] = {
    "a perceptron": (lambda: flat(12), (3, 12, 12), 4),
    "a perceptron of grey images": (lambda: flat(10, 1), (1, 10, 10), 4),
    "a convolutional one": (convolutional, (3, 32, 32), 5),
    "a convolutional one of grey images": (lambda: convolutional(1), (1, 32, 32), 5),
    "a fixed size": (lambda: timm.create_model("test_vit", img_size=48, num_classes=7), (3, 48, 48), 7),
    "timm's own size": (lambda: timm.create_model("test_vit", num_classes=7), (3, 160, 160), 7),
}


@pytest.mark.parametrize(("make", "size", "classes"), MODELS.values(), ids=list(MODELS))
def test_a_model_in_memory_is_left_as_it_is(
    make: Callable[[], nn.Module], size: tuple[int, int, int], classes: int
) -> None:
    model = make().train()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    base = Base.of(model)
    assert (base.input_size, base.num_classes) == (size, classes)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert all(module.training for module in model.modules())
    assert not any(module.training for module in base.model.modules())
    x = torch.rand(2, *size)
    assert torch.equal(base.model(x), model.eval()(x))
    assert base.description["input_size"] == list(size)


def test_normalised_images() -> None:
    model, x = convolutional().eval(), torch.rand(2, 3, 32, 32)
    base = Base.of(model, mean=[0.5, 0.4, 0.3], std=[0.2, 0.3, 0.4], classes=list("abcde"), input_size=(3, 32, 32))
    torch.testing.assert_close(base.model(x), wrap(model, [0.5, 0.4, 0.3], [0.2, 0.3, 0.4])(x))
    assert base.classes == ("a", "b", "c", "d", "e")
    again = Base.of(base.model)
    assert torch.equal(again.model(x), base.model(x))
    assert fingerprint(again.model) == fingerprint(base.model)


def test_an_adapter_of_the_base_fits_the_model_itself() -> None:
    model, x = convolutional().eval(), torch.rand(2, 3, 32, 32)
    base = Base.of(model)
    adapter = init_adapter(base.model, rank=1)
    assert torch.equal(plug(model, adapter)(x), plug(base.model, adapter)(x))


class Named(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.net = convolutional()

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        return {"logits": self.net(x)}


def test_logits_in_a_dictionary() -> None:
    model, x = Named().eval(), torch.rand(2, 3, 32, 32)
    base = Base.of(model)
    assert base.num_classes == 5
    assert torch.equal(base.model(x), model(x)["logits"])


@pytest.mark.parametrize(
    ("make", "settings", "message"),
    [
        (
            convolutional,
            {"input_size": (1, 32, 32)},
            r"does not take images of shape \(2, 1, 32, 32\): .*; say its input_size",
        ),
        (lambda: flat(12), {"input_size": (3, 32, 32)}, r"does not take images of shape \(2, 3, 32, 32\)"),
        (lambda: flat(12, 5), {}, "takes no images of a usual size; say input_size"),
        (convolutional, {"num_classes": 4}, "gives 5 logits, num_classes is 4"),
        (convolutional, {"classes": ["a"]}, "1 class names for 5 classes"),
        (convolutional, {"mean": [0.5] * 3}, "mean and std belong together"),
        (convolutional, {"mean": [0.5], "std": [0.5]}, "expected one per channel: 3"),
        (lambda: flat(12, classes=1), {}, "one value per image"),
        (lambda: nn.Conv2d(3, 4, 3), {}, "pool it first"),
    ],
)
def test_what_does_not_fit(make: Callable[[], nn.Module], settings: dict[str, object], message: str) -> None:
    with pytest.raises(BadConfigError, match=message) as caught:
        Base.of(make(), **settings)  # type: ignore[arg-type]
    assert "\n" not in str(caught.value)


def test_images_that_do_not_fit_are_told_with_both_shapes() -> None:
    base = Base.of(convolutional())
    base.check_size(torch.rand(2, 3, 32, 32))
    with pytest.raises(BadImagesError, match=r"shape \(2, 3, 28, 28\), the model takes \(batch, 3, 32, 32\)"):
        base.check_size(torch.rand(2, 3, 28, 28))


def test_a_model_of_no_known_architecture_is_not_saved(tmp_path: object) -> None:
    with pytest.raises(BadConfigError, match="no known architecture"):
        save_base(f"{tmp_path}/base", Base.of(build("timm:test_resnet", num_classes=3)))
    assert new_base("timm:test_resnet", num_classes=3).description["architecture"] == "timm:test_resnet"
