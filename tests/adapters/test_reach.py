"""Models that compute elsewhere than in their own modules, or use a weight without its layer: found at the first batch."""

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from loradar.adapters import AdapterSwitch, init_adapter, merge_weights, plug
from loradar.core.errors import BadTargetError
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
