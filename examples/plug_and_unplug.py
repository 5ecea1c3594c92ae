"""Train an adapter against PGD on any classifier of your own, plug it, save it, plug it again: the Python API.

python examples/plug_and_unplug.py
"""

import torch

from loradar.adapters import fold, fresh, load, plug, save
from loradar.attacks import PGD
from loradar.data import load_source, split
from loradar.training import FitSettings, fit, one_to_one

splits = split(load_source("digits"), train=500, validation=50, reported=100)
base = nn.Sequential(
    nn.Conv2d(3, 16, 3, stride=2), nn.ReLU(), nn.AdaptiveAvgPool2d(4), nn.Flatten(), nn.Linear(256, 10)
)
adapter = fresh(base, targets=["0"], rank=4)
defended, attack = plug(base, adapter), PGD(steps=3)


def loss_of(indices: torch.Tensor, seed: int) -> torch.Tensor:  # noqa: ARG001
    x, y = splits.train.fetch(indices)
    return one_to_one(defended, x, attack(fold(base, adapter), x, y), y)


for step in fit(
    loss_of,
    parameters=adapter.parameters(),
    state=adapter.state(),
    count=len(splits.train),
    settings=FitSettings(epochs=3),
):
    print(f"step {step.index}/{step.total}: loss {step.loss:.3f}")

again = plug(base, load(save(adapter, "runs/example")))
x, y = splits.reported.fetch(torch.arange(len(splits.reported)))
with torch.no_grad():
    print("the same logits after saving:", torch.equal(again(x), defended(x)))
print("right under attack:", int((again(attack(fold(base, adapter), x, y)).argmax(1) == y).sum()), "of", len(y))
