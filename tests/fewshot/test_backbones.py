"""Backbones without a head: features as timm gives them, the layers that members change, and a task from end to end."""

import re
from pathlib import Path

import pytest
import timm
import torch
from torch import nn

from loradar.adapters import feature_extractor, find_heads, target_share
from loradar.adapters.layers import fused_matrices
from loradar.core.errors import BadConfigError
from loradar.core.modules import unwrap
from loradar.core.types import NullProgress
from loradar.fewshot import classify, evaluate, fit, meta_tune
from loradar.fewshot.classifier import FewShotClassifier
from loradar.fewshot.config import FewShotEvalConfig, FewShotFitConfig
from loradar.fewshot.pools import targets_of
from loradar.models import load_base, save_base
from tests.data.pictures import digits_folder
from tests.fewshot.made_pools import tuning

SMALL = "embed_dim=48,depth=2,num_heads=3"
ATTENTION = {"attn.qkv": 3, "attn.proj": 1}
APART = {"attn.q_proj": 1, "attn.k_proj": 1, "attn.v_proj": 1, "attn.proj": 1}
MLP, GATED = {"mlp.fc1": 1, "mlp.fc2": 1}, {"mlp.fc1_g": 1, "mlp.fc1_x": 1, "mlp.fc2": 1}
POOL = {"attn_pool.q": 1, "attn_pool.kv": 2, "attn_pool.proj": 1, "attn_pool.mlp.fc1": 1, "attn_pool.mlp.fc2": 1}
TABLE: dict[str, tuple[str, dict[str, int], dict[str, int], set[str]]] = {
    # name: options, what members change of each block (and how many matrices it is), what beyond, what they leave
    "vit_small_patch14_dinov2": (f"img_size=70,{SMALL}", ATTENTION | MLP, {}, {"patch_embed.proj"}),
    "vit_small_patch14_reg4_dinov2": (f"img_size=28,{SMALL}", ATTENTION | MLP, {}, {"patch_embed.proj"}),
    "vit_giant_patch14_dinov2": (f"img_size=28,{SMALL}", ATTENTION | MLP, {}, {"patch_embed.proj"}),
    "vit_small_patch16_dinov3": (f"img_size=32,{SMALL}", ATTENTION | MLP, {}, {"patch_embed.proj"}),
    "vit_small_plus_patch16_dinov3": (f"img_size=32,{SMALL}", ATTENTION | GATED, {}, {"patch_embed.proj"}),
    "vit_small_patch16_224.dino": (f"img_size=32,{SMALL}", ATTENTION | MLP, {}, {"patch_embed.proj"}),
    "vit_base_patch16_siglip_224": (f"img_size=32,{SMALL}", ATTENTION | MLP, POOL, {"patch_embed.proj"}),
    "vit_base_patch16_siglip_gap_224": (f"img_size=32,{SMALL}", ATTENTION | MLP, {}, {"patch_embed.proj"}),
    # as small as this, attention and MLP are little of it: all of it is changed
    "vit_base_patch32_clip_224": (
        f"img_size=64,{SMALL},num_classes=0",
        ATTENTION | MLP,
        {"patch_embed.proj": 1},
        set(),
    ),
    "eva02_tiny_patch14_224": (f"img_size=28,{SMALL}", ATTENTION | MLP, {}, {"patch_embed.proj"}),
    "eva02_base_patch14_224": (f"img_size=28,{SMALL}", APART | GATED, {}, {"patch_embed.proj"}),
    "eva02_base_patch16_clip_224": (f"img_size=32,{SMALL},num_classes=0", APART | GATED, {}, {"patch_embed.proj"}),
}


def spec_of(name: str) -> str:
    return f"timm:{name}:pretrained=false,{TABLE[name][0]}"


@pytest.mark.parametrize("name", TABLE)
def test_features_are_those_before_the_head(name: str) -> None:
    base = load_base(spec_of(name))
    assert (base.num_classes, base.description["head"]) == (0, "none")
    x = torch.rand(2, *base.input_size)
    found = feature_extractor(base.model)(x)
    backbone = unwrap(base.model)
    normalised = (x - base.model.mean) / base.model.std
    assert torch.equal(found, backbone.forward_head(backbone.forward_features(normalised), pre_logits=True))  # type: ignore[operator]
    # timm's own model without a head, of the same weights
    options = dict(part.split("=") for part in TABLE[name][0].split(",") if "num_classes" not in part)
    own = timm.create_model(name, num_classes=0, **{key: int(value) for key, value in options.items()}).eval()
    state = {key: value for key, value in backbone.state_dict().items() if not key.startswith("head.")}
    own.load_state_dict(state)
    assert torch.equal(found, own(normalised))
    assert base.model(x).shape == (2, 0)


@pytest.mark.parametrize("name", TABLE)
def test_the_layers_that_members_change(name: str) -> None:
    model = load_base(spec_of(name)).model
    _, block, beyond, left = TABLE[name]
    expected = {f"blocks.{i}.{layer}": count for i in range(2) for layer, count in block.items()} | beyond
    found = targets_of(model, ())
    backbone = unwrap(model)
    assert {layer: fused_matrices(backbone, layer) for layer in found} == expected
    layers = {n for n, m in backbone.named_modules() if isinstance(m, nn.Linear | nn.Conv2d)}
    assert layers - set(found) - set(find_heads(model)) == left
    assert target_share(model, found) >= 0.5


class Listening(NullProgress):
    def __init__(self) -> None:
        self.messages: list[str] = []

    def message(self, text: str) -> None:
        self.messages.append(text)


# pooling by attention with a fused key and value; gated MLPs and rotary positions
@pytest.mark.parametrize("name", ["vit_base_patch16_siglip_224", "vit_small_plus_patch16_dinov3"])
def test_a_task_from_end_to_end(name: str, tmp_path: Path) -> None:
    spec, images = spec_of(name), digits_folder(tmp_path / "support", classes=3, each=4)
    progress, pool = Listening(), tmp_path / "pool"
    config = tuning(spec, pool, epochs=1, warm_up=0, validation_episodes=1, member=["eps-8", "clean"])
    meta_tune.run(meta_tune.resolve(config), progress=progress)
    share, preset, *expected = progress.messages
    assert "% of the parameters below the head" in share
    assert preset.startswith("preset paper: ")
    assert [text.partition(": about ")[0] for text in expected] == ["eps-8", "clean"]
    assert all(re.search(r"\(2 tasks of \S+ s, 1 validation tasks of \S+ s\)$", text) for text in expected)
    settings = {"support": str(images), "pool": pool, "out": tmp_path / "task", "device": "cpu"}
    fitted = fit.run(fit.resolve(FewShotFitConfig(**settings)))
    answers = classify.run(classify.resolve(tmp_path / "task", sorted(images.rglob("*.png"))))
    assert {one.answer for one in answers} <= set(fitted.adapter.card.classes)
    x = torch.rand(6, *load_base(spec).input_size)
    task = FewShotClassifier(spec, pool).fit(x, [0, 1, 2, 0, 1, 2])
    opened = FewShotClassifier.load(task.save(tmp_path / "saved"))
    assert torch.equal(opened.predict(x), task.predict(x))
    wanted = {"setting": ["2w1s"], "query": 2, "episodes": 2, "attacked_episodes": 0, "corrupted_episodes": 0}
    evaluation = FewShotEvalConfig(
        pool=pool,
        domain=[f"own={images}"],
        ablations=False,
        out=tmp_path / "report",
        device="cpu",
        **wanted,
    )
    report = evaluate.run(evaluate.resolve(evaluation)).report
    assert report.few_shot is not None
    assert report.few_shot.rows


def test_a_base_without_a_head_is_saved_and_opened(tmp_path: Path) -> None:
    base = load_base(f"{spec_of('vit_small_patch14_dinov2')}")
    opened = load_base(str(save_base(tmp_path / "base", base)))
    x = torch.rand(2, *base.input_size)
    assert opened.num_classes == 0
    assert torch.equal(feature_extractor(opened.model)(x), feature_extractor(base.model)(x))


def test_stages_of_a_base_without_a_head() -> None:
    spec = f"timm:vit_small_patch14_dinov2:pretrained=false,img_size=28,{SMALL.replace('depth=2', 'depth=4')}"
    staged, plain = load_base(f"stages:{spec}"), load_base(spec)
    x = torch.rand(2, 3, 28, 28)
    found, last = feature_extractor(staged.model)(x), feature_extractor(plain.model)(x)
    assert found.shape[1] > last.shape[1]
    assert torch.allclose(found[:, -last.shape[1] :], last, atol=1e-5)


def test_other_libraries_need_a_head() -> None:
    with pytest.raises(BadConfigError, match=r"without a head are timm's alone"):
        load_base("resnet18-cifar:pretrained=false,num_classes=0")
