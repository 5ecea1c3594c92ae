"""A rank for each layer: which pattern holds, what is refused, and PEFT's reading of it."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from loradar.adapters import init_adapter, load, merge_weights, plug, save, verify
from loradar.core.errors import BadConfigError, BadTargetError
from tests.adapters.tiny import images, resnet, step, trained, vit

LAYERS = ("conv1", "layer1.0.conv1", "layer2.0.conv1", "layer3.0.conv1", "layer4.0.conv1")


def ranks(rank: object, targets: str = "block-conv1+stem") -> dict[str, int]:
    return init_adapter(resnet(), target_modules=targets, rank=rank).ranks  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("rank", "expected"),
    [
        (3, (3, 3, 3, 3, 3)),
        ("3", (3, 3, 3, 3, 3)),
        ({"layer2*": 8, "layer4*": 2}, (4, 4, 8, 4, 2)),
        ("layer2*=8,layer4*=2", (4, 4, 8, 4, 2)),
        ("5,layer2*=8", (5, 5, 8, 5, 5)),
        ("layer2.0.conv1=1,layer*=6,*=3", (3, 6, 1, 6, 6)),
        ("<=16", (16, 8, 8, 16, 16)),
        ("layer[34]*=<=99,2", (2, 2, 2, 16, 16)),
    ],
    ids=str,
)
def test_the_first_pattern_that_matches_holds(rank: object, expected: tuple[int, ...]) -> None:
    assert ranks(rank) == dict(zip(LAYERS, expected, strict=True))


def test_a_layer_of_rank_0_is_left_out() -> None:
    assert ranks("conv1=0,2") == dict.fromkeys(LAYERS[1:], 2)
    adapter = init_adapter(resnet(), target_modules="block-conv1", rank={"*": 0})
    assert (adapter.deltas, adapter.card.target_modules) == ({}, ())


@pytest.mark.parametrize(
    ("rank", "error", "says"),
    [
        ("layer5*=8", BadTargetError, "'layer5*' holds for no layer that is adapted; known: 'conv1', 'layer1.0.conv1'"),
        ("layer*=8,layer2*=4", BadTargetError, "'layer2*' holds for no layer: patterns before it match them all"),
        ({"layer4*": 17}, BadTargetError, "rank 17 exceeds 16, the smaller side of layer4.0.conv1.weight"),
        (-1, BadConfigError, "rank is -1; expected N, or PATTERN=N"),
        ({}, BadConfigError, "rank is {}; expected N, or PATTERN=N"),
        ({"": 4}, BadConfigError, "expected N, or PATTERN=N"),
        ({"layer1*": True}, BadConfigError, "expected N, or PATTERN=N"),
    ],
    ids=str,
)
def test_a_rank_that_fits_nothing_is_refused(rank: object, error: type[Exception], says: str) -> None:
    with pytest.raises(error) as caught:
        ranks(rank)
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("alpha", [None, 6.0])
def test_the_scale_is_alpha_over_the_rank_of_the_layer(alpha: float | None) -> None:
    adapter = init_adapter(resnet(), target_modules="block-conv1", rank="layer2*=2,4", lora_alpha=alpha)
    for name, delta in adapter.deltas.items():
        assert delta.scale == (1.0 if alpha is None else alpha / adapter.ranks[name])
    assert (adapter.card.rank, adapter.card.lora_alpha) == (0, alpha or 0.0)


@pytest.mark.parametrize("settings", [{}, {"lora_alpha": 6.0}, {"init": "svd"}, {"norm": "owned"}], ids=str)
@pytest.mark.parametrize(
    ("make", "targets", "rank"),
    [(resnet, "all-conv", "layer2*=2,layer4.0.conv2=1,3"), (vit, "attention+mlp", "*.qkv=5,blocks.1*=2,1")],
    ids=["resnet", "vit"],
)
def test_peft_computes_the_same_at_ranks_of_their_own(
    make: Callable[[], nn.Module], targets: str, rank: str, settings: dict[str, Any], tmp_path: Path
) -> None:
    peft = pytest.importorskip("peft", reason="peft, of the extra 'peers', is not installed")
    base = make().wrapped
    assert isinstance(base, nn.Module)
    adapter = trained(base, targets, rank=rank, **settings)
    folder, x = save(adapter, tmp_path / "ours", base), images()
    assert len(set(adapter.ranks.values())) > 1
    assert verify(folder, base) == []
    expected = plug(base, adapter)(x).detach()
    assert torch.equal(plug(base, load(folder))(x), expected)
    assert load(folder).ranks == adapter.ranks
    assert torch.allclose(merge_weights(base, adapter)(x), expected, atol=1e-5)
    assert not torch.allclose(base(x), expected, atol=1e-3)
    theirs = peft.PeftModel.from_pretrained(base, str(folder)).eval()
    assert torch.allclose(theirs(x), expected, atol=1e-4)


def test_layers_of_each_rank_stand_in_the_folder(tmp_path: Path) -> None:
    base = resnet()
    adapter = init_adapter(base, target_modules="block-conv1", rank="layer2*=2,4")
    step(plug(base, adapter), adapter, images())
    text = (save(adapter, tmp_path / "ours", base) / "README.md").read_text()
    assert "rank 2 (layer2.0.conv1), 4 (layer1.0.conv1, layer3.0.conv1, layer4.0.conv1)" in text
