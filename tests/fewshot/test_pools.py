"""Which layers members change by default."""

import pytest
from torch import nn

from loradar.adapters import find_targets, target_share
from loradar.fewshot.pools import targets_of
from loradar.models import new_base

KINDS = {
    "timm:test_resnet": "all-conv",
    "timm:test_vit": "attention+mlp",
    # convolutions are its depthwise ones, a small part
    "timm:test_convnext": "auto",
    "timm:test_efficientnet": "all-conv",
}


@pytest.mark.parametrize("architecture", KINDS)
def test_the_default_covers_most_of_any_model(architecture: str) -> None:
    model = new_base(architecture, num_classes=3, input_size=(3, 32, 32)).model
    found = targets_of(model, ())
    assert found == find_targets(model, KINDS[architecture])
    assert target_share(model, found) >= 0.5


def test_layers_that_are_asked_for_are_taken_however_few() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(), nn.Linear(4, 100), nn.Linear(100, 2))
    assert targets_of(model, ["0"]) == ("0",)
    assert target_share(model, ["0"]) < 0.5
