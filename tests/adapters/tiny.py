"""Bases small enough to train in a test, and an adapter that has learnt something."""

import json
from pathlib import Path
from typing import cast

import safetensors.torch
import timm
import torch
import torch.nn.functional as F
from timm.models.resnet import BasicBlock, ResNet
from torch import Tensor, nn

from loradar.adapters import Adapter, init_adapter, plug
from loradar.core.files import sha256
from loradar.core.modules import Wrapper
from loradar.core.types import Images


class Centred(Wrapper):
    """A wrapper as the models family makes them: pixels in [0, 1] to a backbone that wants them normalised."""

    mean: Tensor

    def __init__(self, wrapped: nn.Module) -> None:
        super().__init__()
        self.wrapped = wrapped
        self.register_buffer("mean", torch.full((1, 3, 1, 1), 0.5))

    def forward(self, x: Images) -> Tensor:
        return cast(Tensor, self.wrapped(x - self.mean))


def images(count: int = 4, seed: int = 0) -> Images:
    return torch.rand(count, 3, 32, 32, generator=torch.Generator().manual_seed(seed))


def resnet(seed: int = 0, classes: int = 4) -> nn.Module:
    """Four residual blocks, with statistics that are not the trivial ones."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model: nn.Module = ResNet(
            BasicBlock, layers=(1, 1, 1, 1), channels=(8, 8, 16, 16), num_classes=classes, zero_init_last=False
        )
        for name, buffer in model.named_buffers():
            if name.endswith("running_mean"):
                buffer.normal_(std=0.1)
            if name.endswith("running_var"):
                buffer.uniform_(0.5, 1.5)
    return Centred(model).eval()


def vit(seed: int = 0, classes: int = 4) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model: nn.Module = timm.create_model(
            "vit_tiny_patch16_224", img_size=32, patch_size=16, embed_dim=24, depth=2, num_heads=2, num_classes=classes
        )
    return Centred(model).eval()


def step(model: nn.Module, adapter: Adapter, x: Images, steps: int = 2) -> None:
    """A little training of `adapter`, in train mode, as the real loop does it."""
    optimiser = torch.optim.Adam(adapter.parameters(), lr=1e-2)
    y = torch.arange(len(x)) % 4
    model.train()
    for _ in range(steps):
        optimiser.zero_grad()
        F.cross_entropy(model(x), y).backward()  # type: ignore[no-untyped-call]
        optimiser.step()
    model.eval()


def trained(base: nn.Module, targets: str, seed: int = 0, **settings: object) -> Adapter:
    adapter = init_adapter(base, target_modules=targets, seed=seed, **settings)  # type: ignore[arg-type]
    step(plug(base, adapter), adapter, images(8, seed))
    return adapter


def snapshot(model: nn.Module) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def as_peft_writes(folder: Path) -> Path:
    """Makes the folder of an adapter one that loradar never saw."""
    (folder / "loradar.json").unlink()
    weights = folder / "adapter_model.safetensors"
    safetensors.torch.save_file(safetensors.torch.load_file(weights), weights, metadata={"format": "pt"})
    return folder


def as_schema_2(folder: Path, **changes: object) -> Path:
    """Makes the folder of an adapter one that was saved before there were digests, with `changes` in its record."""
    record = json.loads((folder / "loradar.json").read_text())
    as_peft_writes(folder)
    del record["digest"]
    record |= {"schema": 2, "sha256": sha256((folder / "adapter_model.safetensors").read_bytes())}
    (folder / "loradar.json").write_text(json.dumps(record | changes))
    return folder
