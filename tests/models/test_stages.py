"""Features of several stages, under the backbone's own logits."""

from pathlib import Path

import pytest
import torch
from torch import nn

from loradar.adapters import feature_extractor, find_head, init_adapter, load, merge_weights, save
from loradar.core.errors import BadConfigError
from loradar.models import (
    Base,
    MultiStageFeatures,
    build,
    foldable_conv_bn,
    load_base,
    optimize_for_inference,
    save_base,
    staged,
    wrap,
)

SPECS = {
    "resnet18:pretrained=false,num_classes=7": (32, 128 * 16 + 256 * 4 + 512),
    "timm:resnet10t:pretrained=false,num_classes=7": (64, 128 * 16 + 256 * 4 + 512),
    "timm:vit_tiny_patch16_224:pretrained=false,num_classes=7,img_size=32,patch_size=4": (32, 192 * (16 + 4 + 1)),
}


@pytest.fixture(params=sorted(SPECS))
def spec(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@torch.no_grad()
def test_logits_are_the_bases_own(spec: str) -> None:
    side, width = SPECS[spec]
    x = torch.rand(2, 3, side, side)
    plain, staged = load_base(spec), load_base(f"stages:{spec}")
    assert torch.allclose(staged.model(x), plain.model(x), atol=1e-6)
    assert find_head(staged.model) == "head"
    features = feature_extractor(staged.model)(x)
    assert features.shape == (2, width)
    last = feature_extractor(plain.model)(x)
    assert torch.equal(features[:, -last.shape[1] :], last)


@torch.no_grad()
def test_every_stage_counts_alike(spec: str) -> None:
    side, _ = SPECS[spec]
    model = load_base(f"stages:{spec}").model
    assert isinstance(model.wrapped, MultiStageFeatures)
    last = model.wrapped.last
    features = feature_extractor(model)(torch.rand(3, 3, side, side))
    early = features[:, :-last]
    # two earlier stages, each as long as the last
    assert torch.allclose(early.norm(dim=1), features[:, -last:].norm(dim=1) * 2**0.5, rtol=1e-4)


def test_it_takes_adapters_and_merges_normalisation_as_a_plain_one(spec: str, tmp_path: Path) -> None:
    side, _ = SPECS[spec]
    base = load_base(f"stages:{spec}")
    targets = "attention+mlp" if "vit" in spec else "all-conv"
    adapter = init_adapter(base.model, target_modules=targets, rank=2, init="svd", head=False)
    save(adapter, tmp_path / "adapter", base.model)
    x = torch.rand(2, 3, side, side)
    with torch.no_grad():
        merged = merge_weights(base.model, load(tmp_path / "adapter"))(x)
        assert torch.allclose(merged, base.model(x), atol=1e-4)
    pairs = foldable_conv_bn(base.model)
    assert pairs == tuple((f"backbone.{a}", f"backbone.{b}") for a, b in foldable_conv_bn(load_base(spec).model))
    assert torch.allclose(optimize_for_inference(base.model, "fp32", merge=pairs)(x), base.model(x), atol=1e-4)


class OwnForward(nn.Module):
    """A ResNet by the names of its modules, which rectifies between them by a function."""

    def __init__(self) -> None:
        super().__init__()
        for i in range(1, 5):
            setattr(self, f"layer{i}", nn.Conv2d(3, 3, 3, padding=1))
        self.fc = nn.Linear(3, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for i in range(1, 5):
            x = self.get_submodule(f"layer{i}")(x).relu()
        logits: torch.Tensor = self.fc(x.mean((2, 3)))
        return logits


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("squeezenet1_1", "no stages that are known; expected a ResNet or a ViT of timm"),
        ("timm:vit_tiny_patch16_224:img_size=32,patch_size=8,depth=2", "has 2 blocks; several stages need 3"),
        ("timm:deit_tiny_distilled_patch16_224:img_size=32,patch_size=8,depth=3", "does more than its modules"),
    ],
)
def test_a_backbone_without_known_stages_is_refused(spec: str, message: str) -> None:
    what, _, options = spec.rpartition(":") if "=" in spec else (spec, "", "")
    given = ",".join(filter(None, ["pretrained=false,num_classes=3", options]))
    with pytest.raises(BadConfigError, match=message):
        load_base(f"stages:{what}:{given}")


def test_a_backbone_that_is_refused_is_left_as_it_was() -> None:
    own = OwnForward().train()
    head, x = own.fc, torch.rand(2, 3, 8, 8)
    before = own(x)
    with pytest.raises(BadConfigError, match="does more than its modules"):
        MultiStageFeatures(own, input_size=(3, 8, 8))
    assert own.fc is head
    assert own.training
    assert torch.equal(own(x), before)
    for missing, message in ((nn.Identity(), "give it num_classes=N"), (nn.Sequential(), "is of several layers")):
        own.fc = missing  # type: ignore[assignment]
        with pytest.raises(BadConfigError, match=message):
            MultiStageFeatures(own, input_size=(3, 8, 8))


def test_a_base_in_training_keeps_its_statistics() -> None:
    backbone = build("resnet18", num_classes=3).train()
    before = {name: value.clone() for name, value in backbone.named_buffers()}
    base = Base(model=wrap(backbone, (0.5,) * 3, (0.2,) * 3), num_classes=3, input_size=(3, 32, 32))
    assert staged(base).description["architecture"] == "stages of ResNet"
    assert all(torch.equal(value, before[name]) for name, value in backbone.named_buffers())


def test_it_is_not_saved_as_what_it_is_not(tmp_path: Path) -> None:
    base = load_base("stages:resnet18:pretrained=false,num_classes=3")
    with pytest.raises(BadConfigError, match="save the base below"):
        save_base(tmp_path / "base", base)
