"""Fine-tuning on the support: the rate is the support's own choice."""

import torch
from torch import Tensor, nn

from loradar.fewshot.finetune import FineTuning


def make() -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Sequential(nn.Flatten(), nn.Linear(12, 6), nn.Tanh(), nn.Linear(6, 4)).requires_grad_(False)


def noisy(x: Tensor, seed: int) -> Tensor:
    return (x + 0.05 * torch.randn(x.shape, generator=torch.Generator().manual_seed(seed))).clamp(0, 1)


def test_it_learns_where_learning_helps_and_leaves_its_source_alone() -> None:
    source = make()
    before = {name: value.clone() for name, value in source.state_dict().items()}
    x, y = torch.rand(6, 3, 2, 2, generator=torch.Generator().manual_seed(2)), torch.arange(6) % 3
    tuned, rate = FineTuning(steps=20)(make, x, y, way=3, augment=noisy, seed=0)
    assert rate > 0
    assert any(not torch.equal(value, before[name]) for name, value in tuned.state_dict().items())
    assert not any(p.requires_grad for p in tuned.parameters())
    still, none = FineTuning(steps=20, rates=(0.0,))(make, x, y, way=3, augment=noisy, seed=0)
    assert none == 0
    assert all(torch.equal(value, before[name]) for name, value in still.state_dict().items())
