"""Train an adapter against PGD, plug it, save it, plug it again: the Python API.

make demo                              # makes the base that this reads
python examples/plug_and_unplug.py

Any `nn.Module` from images in [0, 1] to logits would do as a base.
"""

import torch

from loradar.adapters import init_adapter, load, merge_weights, plug, save
from loradar.attacks import PGD
from loradar.data import load_source, split
from loradar.models import load_base
from loradar.training import FitSettings, adversarial_loss, fit

splits = split(load_source("digits"), train=500, validation=50, reported=100)
base = load_base("runs/demo/base").model
adapter = init_adapter(base, target_modules="block-conv1", rank=4)
defended, attack = plug(base, adapter), PGD(steps=3)


def loss_of(indices: torch.Tensor, seed: int) -> torch.Tensor:  # noqa: ARG001
    x, y = splits.train.fetch(indices)
    return adversarial_loss(defended, x, attack(merge_weights(base, adapter), x, y), y)


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
print(
    "right under attack:", int((again(attack(merge_weights(base, adapter), x, y)).argmax(1) == y).sum()), "of", len(y)
)
