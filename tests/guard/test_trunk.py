"""The shared trunk: to the bit what each model computes alone, and nothing shared where nothing can be."""

import pytest
import torch
from torch import Tensor, nn

from loradar.guard.trunk import share
from tests.adapters import tiny
from tests.guard import toys


@pytest.mark.parametrize(("targets", "least"), [("layer1*.conv1", 3), ("layer4*.conv1", 30)])
def test_tails_behind_the_trunk_are_the_models(targets: str, least: int) -> None:
    models = list(toys.models(targets=targets).values())
    trunk, tails = share(models)
    assert trunk.graph is not None
    assert len(list(trunk.graph.modules())) > least // 3
    x = tiny.images(3)
    with torch.no_grad():
        shared = trunk(x)
        for model, tail in zip(models, tails, strict=True):
            assert torch.equal(tail(*shared), model(x))


class Branching(nn.Module):
    """What torch.fx cannot trace: which way it goes depends on the pixels."""

    def forward(self, x: Tensor) -> Tensor:
        return x.flatten(1)[:, :2] if x.mean() > 0 else -x.flatten(1)[:, :2]


class Writing(nn.Module):
    """Writes into what the shared part gave."""

    def __init__(self, factor: float) -> None:
        super().__init__()
        self.factor = nn.Parameter(torch.tensor(factor))

    def forward(self, x: Tensor) -> Tensor:
        values = x.flatten(1).clone()
        return values.add_(self.factor)


@pytest.mark.parametrize(
    "models", [[Branching(), Branching()], [Writing(1.0), Writing(2.0)], [nn.Flatten(), Writing(1.0)]]
)
def test_what_cannot_be_shared_is_left_whole(models: list[nn.Module]) -> None:
    trunk, tails = share(models)
    x = torch.rand(2, 1, 2, 2)
    expected = [model(x) for model in models]
    assert trunk.graph is None
    for _ in range(2):
        assert all(torch.equal(t(*trunk(x)), e) for t, e in zip(tails, expected, strict=True))


def test_models_that_are_the_same_share_everything() -> None:
    base = tiny.resnet()
    trunk, tails = share([base, base])
    x = tiny.images(2)
    with torch.no_grad():
        assert all(torch.equal(tail(*trunk(x)), base(x)) for tail in tails)
    assert not any(list(tail.parameters()) for tail in tails)
