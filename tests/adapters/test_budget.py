"""A budget of bytes: the file never exceeds it and comes close, and what does not fit is said with a number."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from loradar.adapters import init_adapter, load, merge_weights, plug, save
from loradar.adapters.budget import file_size
from loradar.core.digests import dump_marked
from loradar.core.errors import BadConfigError
from loradar.core.names import ADAPTER_WEIGHTS
from tests.adapters.tiny import images, resnet, step, vit


class Grouped(nn.Module):
    """Grouped, dilated and plain convolutions, each with its normalisation."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 16, 3)
        self.bn1 = nn.BatchNorm2d(16)
        self.conv2 = nn.Conv2d(16, 32, 3, groups=4)
        self.bn2 = nn.BatchNorm2d(32)
        self.conv3 = nn.Conv2d(32, 24, 3, dilation=2)
        self.fc = nn.Linear(24, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.bn1(self.conv1(x)).relu()
        x = self.bn2(self.conv2(x)).relu()
        logits: torch.Tensor = self.fc(self.conv3(x).mean((2, 3)))
        return logits


def grouped() -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return Grouped().eval()


def saved(folder: Path, make: Callable[[], nn.Module], **settings: Any) -> tuple[int, dict[str, int]]:
    """The bytes of the weights' file, and the ranks."""
    base = make()
    adapter = init_adapter(base, **settings)
    save(adapter, folder, base)
    return (folder / ADAPTER_WEIGHTS).stat().st_size, dict(adapter.ranks)


@pytest.mark.parametrize("norm", ["frozen", "statistics", "owned"])
@pytest.mark.parametrize(
    ("make", "settings"),
    [
        (resnet, {}),
        (resnet, {"init": "svd", "target_modules": "block-conv1"}),
        (resnet, {"head": False}),
        (vit, {}),
        (vit, {"fused": "split"}),
        (grouped, {"target_modules": "all-conv"}),
    ],
    ids=["resnet", "resnet-svd", "resnet-without-head", "vit", "vit-split", "grouped"],
)
def test_the_file_keeps_within_the_budget_and_close_under_it(
    make: Callable[[], nn.Module], settings: dict[str, Any], norm: str, tmp_path: Path
) -> None:
    settings = settings | {"norm": norm}
    least, ranks = saved(tmp_path / "least", make, rank=1, **settings)
    full, most = saved(tmp_path / "full", make, rank="<=1000", **settings)
    assert set(ranks.values()) == {1}
    # what one rank more of each layer adds to the file, but for its names and its padding
    factors = {name: delta.factors() for name, delta in load(tmp_path / "least").deltas.items()}
    steps = {name: a.nbytes + b.nbytes for name, (a, b) in factors.items()}
    for share in (0.0, 0.31, 0.73, 1.0):
        budget = least + round(share * (full - least))
        size, found = saved(tmp_path / "budget", make, max_bytes=budget, **settings)
        assert size <= budget
        growing = [steps[name] for name in found if found[name] < most[name]]
        assert not growing or size >= 0.98 * budget or budget - size < min(growing) + 16
        assert found.keys() == ranks.keys()
        assert all(1 <= found[name] <= most[name] for name in found)
    assert found == most
    with pytest.raises(BadConfigError, match=f"max_bytes is {least - 1}; .* expected {least} or more"):
        init_adapter(make(), max_bytes=least - 1, **settings)


def test_what_is_left_raises_the_first_layers() -> None:
    base = nn.Sequential(*(nn.Linear(16, 16) for _ in range(6)), nn.Linear(16, 4)).eval()
    adapter = init_adapter(base, target_modules="all-linear", head="6", max_bytes="6kB")
    ranks = list(adapter.ranks.values())
    assert ranks == sorted(ranks, reverse=True)
    assert max(ranks) - min(ranks) == 1


def test_trained_and_read_again_it_has_the_same_size(tmp_path: Path) -> None:
    base = resnet()
    adapter = init_adapter(base, max_bytes="16kB", norm="owned")
    step(plug(base, adapter), adapter, images(8))
    save(adapter, tmp_path / "a", base)
    assert 0.98 * 16_000 <= (tmp_path / "a" / ADAPTER_WEIGHTS).stat().st_size <= 16_000
    x = images()
    assert torch.equal(merge_weights(base, load(tmp_path / "a"))(x), merge_weights(base, adapter)(x))


def test_without_layers_a_budget_holds_the_head(tmp_path: Path) -> None:
    size, ranks = saved(tmp_path / "a", resnet, target_modules=(), max_bytes="1kB")
    assert (ranks, size <= 1000) == ({}, True)
    with pytest.raises(BadConfigError, match=f"expected {size} or more"):
        init_adapter(resnet(), target_modules=(), max_bytes=size - 1)


def test_a_rank_beside_a_budget_is_refused() -> None:
    with pytest.raises(BadConfigError, match="rank is 4 and max_bytes is '9kB'; expected one of the two"):
        init_adapter(resnet(), rank=4, max_bytes="9kB")
    with pytest.raises(BadConfigError, match="'9 miles' is no size; expected bytes, kB"):
        init_adapter(resnet(), max_bytes="9 miles")


@pytest.mark.parametrize("count", [0, 1, 3, 40])
def test_the_size_of_a_file_is_exact(count: int) -> None:
    kinds = [torch.float32, torch.int64, torch.bfloat16, torch.float64, torch.float16, torch.bool, torch.uint8]
    kinds += [torch.int8, torch.int16, torch.int32]
    tensors = {
        f"layer{i}.{'é' * (i % 3)}weight": torch.zeros(i, 3 + i % 5, dtype=kinds[i % len(kinds)]) for i in range(count)
    }
    tensors["scalar"] = torch.tensor(0)
    shapes = {name: (tensor.dtype, tuple(tensor.shape)) for name, tensor in tensors.items()}
    assert file_size(shapes) == len(dump_marked(tensors))
