"""PEFT itself reads our folders, and we read what PEFT itself writes: the same logits either way."""

import copy
import json
import re
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
import torchvision
from timm.layers import StdConv2d
from torch import nn

from loradar.adapters import (
    Adapter,
    AdapterPool,
    add_weighted,
    init_adapter,
    load,
    merge_weights,
    patterns,
    plug,
    save,
    truncate_spectrum,
    truncated,
    verify,
)
from loradar.core.errors import BadFileError, BadTargetError, WrongBaseError
from tests.adapters.tiny import as_peft_writes, images, resnet, step, trained, vit

peft = pytest.importorskip("peft", reason="peft, of the extra 'peers', is not installed")


def stock() -> nn.Module:
    torch.manual_seed(0)
    model: nn.Module = torchvision.models.resnet18(num_classes=10)
    return model.eval()


def bare(make: Callable[[], nn.Module]) -> nn.Module:
    inner = make().wrapped
    assert isinstance(inner, nn.Module)
    return inner


MODELS: dict[str, tuple[Callable[[], nn.Module], str]] = {
    "torchvision resnet": (stock, "block-conv1+stem"),
    "timm resnet": (lambda: bare(resnet), "all-conv"),
    "timm vit": (lambda: bare(vit), "attention+mlp"),
}


@pytest.fixture(params=list(MODELS.values()), ids=list(MODELS))
def model(request: pytest.FixtureRequest) -> tuple[nn.Module, str]:
    make, targets = request.param
    return make(), targets


def as_peft_reads(base: nn.Module, folder: Path) -> nn.Module:
    read: nn.Module = peft.PeftModel.from_pretrained(base, str(folder)).eval()
    return read


@pytest.mark.parametrize(
    "settings",
    [
        {"rank": 2},
        {"rank": 2, "init": "svd", "lora_alpha": 3.0},
        {"rank": 2, "norm": "owned"},
        {"rank": 0, "norm": "owned"},
        {"rank": 2, "head": False},
    ],
    ids=str,
)
def test_peft_reads_ours(model: tuple[nn.Module, str], settings: dict[str, Any], tmp_path: Path) -> None:
    base, targets = model
    adapter = trained(base, targets, **settings)
    x = images()
    expected = plug(base, adapter)(x).detach()
    assert not torch.allclose(expected, base(x), atol=1e-3)
    save(adapter, tmp_path / "ours", base)
    assert torch.allclose(as_peft_reads(base, tmp_path / "ours")(x), expected, atol=1e-4)


@pytest.mark.parametrize("first", ["conv1", "block-conv1"])
def test_peft_reads_a_merge_of_mixed_ranks(first: str, tmp_path: Path) -> None:
    base = bare(resnet)
    # conv1 is the end of every other target's name, and has a rank of its own
    pool = AdapterPool(
        {"a": trained(base, first, rank=3), "b": trained(base, "block-conv1+stem", rank=2, lora_alpha=5.0)}
    )
    merged = add_weighted(pool, {"a": 0.25, "b": 0.75})
    save(merged, tmp_path / "ours", base)
    expected = merge_weights(base, merged)(images())
    assert torch.allclose(as_peft_reads(base, tmp_path / "ours")(images()), expected, atol=1e-4)


def test_peft_hits_the_targets_and_no_other_layers(tmp_path: Path) -> None:
    base = bare(resnet)
    save(trained(base, "conv1"), tmp_path / "ours", base)
    hit = [n for n, m in as_peft_reads(base, tmp_path / "ours").named_modules() if hasattr(m, "lora_A")]
    assert hit == ["base_model.model.conv1"]


@pytest.mark.parametrize("options", [{}, {"use_rslora": True}, {"alpha_pattern": {"layer2.0.conv1|fc2": 5}}], ids=str)
def test_we_read_what_peft_wrote(model: tuple[nn.Module, str], options: dict[str, Any], tmp_path: Path) -> None:
    base, targets = model
    x, layers = images(), list(init_adapter(base, target_modules=targets, rank=1).card.target_modules)
    head = "fc" if hasattr(base, "fc") else "head"
    config = peft.LoraConfig(r=3, lora_alpha=4, target_modules=layers, modules_to_save=[head], **options)
    wrapped = peft.get_peft_model(base, config)
    with torch.no_grad():
        for name, parameter in wrapped.named_parameters():
            if parameter.requires_grad:
                parameter += torch.randn(parameter.shape, generator=torch.Generator().manual_seed(len(name))) * 0.05
    wrapped.save_pretrained(str(tmp_path / "theirs"))
    expected = wrapped.eval()(x).detach()
    fresh_base = wrapped.unload().eval()

    adapter = load(tmp_path / "theirs")
    assert adapter.card.base_fingerprint == ""
    assert adapter.card.head == head
    assert torch.allclose(plug(fresh_base, adapter)(x), expected, atol=1e-4)
    assert torch.allclose(merge_weights(fresh_base, adapter)(x), expected, atol=1e-4)
    step(plug(fresh_base, adapter), adapter, x)  # and it can be trained on
    save(adapter, tmp_path / "ours")
    assert torch.equal(plug(fresh_base, load(tmp_path / "ours"))(x), plug(fresh_base, adapter)(x))


def test_peft_refuses_what_it_would_misread(tmp_path: Path) -> None:
    base = nn.Sequential(nn.Conv2d(3, 4, 3, padding=2, dilation=2), nn.Flatten(), nn.Linear(4 * 32 * 32, 4))
    adapter = trained(base, "0", rank=2)
    save(adapter, tmp_path / "ours")
    with pytest.raises((KeyError, ValueError), match="LORADAR"):
        peft.PeftModel.from_pretrained(base, str(tmp_path / "ours"))
    assert torch.equal(plug(base, load(tmp_path / "ours"))(images()), plug(base, adapter)(images()))
    assert "PEFT refuses" in (tmp_path / "ours" / "README.md").read_text()


def test_a_head_whose_name_ends_others_is_kept_from_peft(tmp_path: Path) -> None:
    base = nn.ModuleDict({"prefc": nn.Linear(2, 2), "fc": nn.Linear(2, 2)})
    save(init_adapter(base, target_modules="prefc", rank=1), tmp_path / "ours", base)
    assert json.loads((tmp_path / "ours" / "adapter_config.json").read_text())["peft_type"] == "LORADAR"


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ({"use_dora": True}, "lacks a tensor that use_dora=True"),
        ({"bias": "some"}, "bias='some'"),
        ({"lora_bias": True}, "lacks a tensor that lora_bias=True"),
        ({"init_lora_weights": "pissa"}, "changes the base's weights"),
        ({"peft_type": "LOHA"}, "peft_type 'LOHA'; expected LORA"),
        ({"peft_type": "LORADAR"}, "loradar.json is missing"),
        ({"invented_later": 1}, "invented_later=1"),
        ({"r": "four"}, "r 'four': Input should be a valid integer"),
        ({"r": True}, "r True: Input should be a valid integer"),
        ({"r": 0}, "r 0: Input should be greater than or equal to 1"),
        ({"lora_alpha": float("nan")}, "lora_alpha nan: Input should be a finite number"),
        ({"lora_alpha": float("inf")}, "lora_alpha inf: Input should be a finite number"),
        ({"lora_alpha": 10**400}, "lora_alpha 1000"),
        ({"rank_pattern": ["conv1"]}, "rank_pattern "),
        ({"rank_pattern": {"conv1": 2.5}}, "rank_pattern.conv1 2.5"),
        ({"alpha_pattern": {"conv1": None}}, "alpha_pattern.conv1 None"),
        ({"rank_pattern": {"conv1\\": 2}}, "rank_pattern has a pattern that is no regular expression"),
        ({"rank_pattern": {"(": 2}}, "rank_pattern has a pattern that cannot be matched"),
        ({"r": 5}, "at rank 5"),
        ({"use_bdlora": {"nblocks": 65}}, "use_bdlora.nblocks 65: Input should be less than or equal to 64"),
        ({"use_bdlora": {"nblocks": 2, "invented_later": 1}}, "use_bdlora.invented_later 1"),
        ({"target_parameters": ["layer1.0.conv1.bias"]}, "target_parameters 'layer1.0.conv1.bias', which is not"),
        ({"use_dora": True, "lora_bias": True}, "use_dora and lora_bias, which PEFT never sets together"),
        ({"kasa_config": {"beta": 1.0}}, "kasa_config="),
    ],
)
def test_options_whose_maths_are_not_ours(option: dict[str, Any], message: str, tmp_path: Path) -> None:
    adapter: Adapter = init_adapter(resnet(), target_modules="block-conv1")
    folder = as_peft_writes(save(adapter, tmp_path / "ours"))
    config = folder / "adapter_config.json"
    config.write_text(json.dumps({**json.loads(config.read_text()), **option}))
    with pytest.raises(BadFileError, match=message):
        load(folder)


def test_a_pattern_that_would_take_years(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(patterns, "_SECONDS", 0.5)
    folder = as_peft_writes(save(init_adapter(resnet(), target_modules="block-conv1"), tmp_path / "ours"))
    config = folder / "adapter_config.json"
    config.write_text(json.dumps({**json.loads(config.read_text()), "rank_pattern": {"(((([a-z0-9.]+)+)+)+)+!": 2}}))
    start = time.monotonic()
    with pytest.raises(BadFileError, match=r"rank_pattern takes more than 0\.5 s to match"):
        load(folder)
    assert time.monotonic() - start < 10


@pytest.mark.parametrize(
    "pattern", ["conv1", "^layer1.conv1", r"layer\d.conv[12]", "(layer2|fc)", "x|fc", "conv", ".*"]
)
def test_patterns_match_as_in_peft(pattern: str) -> None:
    names = ["layer1.conv1", "layer2.conv2", "fc", "conv1", "layer1.conv12"]
    theirs = [name for name in names if peft.utils.other.get_pattern_key([pattern], name) == pattern != name]
    assert [name for name in patterns.match_names({pattern: 1}, names, "it") if name != pattern] == theirs


def test_the_size_of_the_reference_adapter(tmp_path: Path) -> None:
    # rank 4 on the stem and the eight block conv1s, with fc: 66,646 parameters
    adapter = init_adapter(stock(), target_modules="block-conv1+stem", rank=4)
    assert sum(p.numel() for p in adapter.parameters()) == 66_646
    save(adapter, tmp_path / "ours")
    assert (tmp_path / "ours" / "adapter_model.safetensors").stat().st_size <= 273_463


class Small(nn.Module):
    """Every kind of layer that a LoRA of PEFT can be on in a vision model."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, stride=2)
        self.grouped = nn.Conv2d(8, 12, 3, padding=1, groups=2)
        self.norm = nn.BatchNorm2d(12)
        self.attn = nn.MultiheadAttention(12, 2, batch_first=True)
        self.mlp = nn.Linear(12, 12)
        self.scale = nn.Parameter(torch.ones(12))  # layers beside a parameter get a composed weight
        self.fc = nn.Linear(12, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.norm(self.grouped(self.stem(x).relu())).flatten(2).transpose(1, 2)
        x = x + self.attn(x, x, x, need_weights=False)[0]
        logits: torch.Tensor = self.fc(self.mlp(x.mean(1)).relu() * self.scale)
        return logits


def small() -> nn.Module:
    torch.manual_seed(0)
    model = Small()
    for name, buffer in model.named_buffers():
        if name.endswith("running_var"):
            buffer.uniform_(0.5, 1.5)
    return model.eval()


KINDS: dict[str, dict[str, Any]] = {
    "a layer beside a parameter": {"target_modules": ["mlp", "fc"]},
    "all linear": {"target_modules": ["mlp", "fc"], "modules_to_save": ["norm"]},
    "attention": {"target_modules": ["attn"]},
    "attention and more": {"target_modules": ["attn", "mlp", "stem"], "modules_to_save": ["fc"]},
    "a grouped convolution": {"target_modules": ["grouped"], "r": 4},
    "dora": {"target_modules": ["mlp", "stem"], "use_dora": True},
    "dora on a grouped convolution": {"target_modules": ["grouped", "stem"], "use_dora": True, "r": 4},
    "dora, rank-stabilised": {"target_modules": ["mlp"], "use_dora": True, "use_rslora": True},
    "lora_bias": {"target_modules": ["mlp", "stem", "grouped"], "lora_bias": True, "r": 4},
    "attention with lora_bias": {"target_modules": ["attn"], "lora_bias": True},
    "bias of the layers": {"target_modules": ["mlp", "stem"], "bias": "lora_only"},
    "every bias": {"target_modules": ["mlp"], "bias": "all"},
    "fan_in_fan_out": {"target_modules": ["mlp"], "fan_in_fan_out": True},
    "dropout": {"target_modules": ["mlp", "stem"], "lora_dropout": 0.3},
    "a pattern of ranks": {"target_modules": ["mlp", "fc"], "rank_pattern": {"mlp": 3}, "alpha_pattern": {"fc": 7}},
}


def written_by_peft(base: nn.Module, folder: Path, **settings: Any) -> torch.Tensor:
    """Writes an adapter of PEFT's whose every tensor has moved. Returns the logits of PEFT's own model."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        config = peft.LoraConfig(**{"r": 2, "lora_alpha": 5, **settings})
        model = peft.get_peft_model(copy.deepcopy(base), config)
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                if parameter.requires_grad:
                    draws = torch.Generator().manual_seed(len(name))
                    parameter += torch.randn(parameter.shape, generator=draws) * 0.1
            model.save_pretrained(str(folder))
            logits: torch.Tensor = model.eval()(images())
    return logits


@pytest.mark.parametrize("settings", KINDS.values(), ids=list(KINDS))
def test_every_kind_of_lora_that_a_vision_model_carries(settings: dict[str, Any], tmp_path: Path) -> None:
    base, x = small(), images()
    expected = written_by_peft(base, tmp_path / "theirs", **settings)
    assert (expected - base(x)).abs().max() > 1e-3
    adapter = load(tmp_path / "theirs")
    assert torch.allclose(plug(base, adapter)(x), expected, atol=1e-4)
    assert torch.allclose(merge_weights(base, adapter)(x), expected, atol=1e-5)
    pairs = [("grouped", "norm")]
    assert torch.allclose(plug(base, adapter, merge=pairs)(x), expected, atol=1e-4)
    before = [p.detach().clone() for p in adapter.parameters()]
    step(plug(base, adapter), adapter, x)
    assert not any(torch.equal(p, old) for p, old in zip(adapter.parameters(), before, strict=True))
    again = load(save(adapter, tmp_path / "ours", base))
    assert again.card == adapter.card
    assert torch.equal(plug(base, again)(x), plug(base, adapter)(x))
    assert list(again.state()) == list(adapter.state())
    assert verify(tmp_path / "ours", base) == []


@pytest.mark.parametrize(
    ("layer", "says"),
    [
        (lambda: nn.Conv2d(3, 4, 3, padding=1, padding_mode="reflect"), "padding_mode='reflect', where PEFT pads"),
        (lambda: nn.Conv2d(3, 4, 3, padding=1, dilation=2), "a dilated convolution, where PEFT's branch has no"),
        (lambda: StdConv2d(3, 4, 3, padding=1), "a StdConv2d, which computes with another weight"),
    ],
)
def test_a_branch_that_no_weight_equals_is_refused_in_words(
    layer: Callable[[], nn.Module], says: str, tmp_path: Path
) -> None:
    theirs = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 4))
    written_by_peft(theirs, tmp_path / "theirs", target_modules=["0"])
    base = nn.Sequential(layer(), *theirs[1:]).eval()
    (line,) = verify(tmp_path / "theirs", base)
    assert says in line
    for apply in (plug, merge_weights):
        with pytest.raises(WrongBaseError, match=re.escape(says)):
            apply(base, load(tmp_path / "theirs"))


def test_a_norm_that_was_saved_whole_is_the_only_one_that_moves(tmp_path: Path) -> None:
    base = bare(resnet)
    written_by_peft(base, tmp_path / "theirs", target_modules=["conv1"], modules_to_save=["fc", "bn2"])
    adapter = load(tmp_path / "theirs")
    assert adapter.card.head == "fc"
    assert all(tensor.requires_grad for name, tensor in adapter.modules_to_save.items() if name.endswith("weight"))
    plugged = plug(base, adapter).train()
    moving = {name for name, m in plugged.named_modules() if isinstance(m, nn.BatchNorm2d) and m.training}
    assert moving == {name for name, m in plugged.named_modules() if name.endswith("bn2")}


@pytest.mark.parametrize(
    ("name", "target", "is_lost"),
    [
        ("swin_tiny_patch4_window7_224", "qkv", False),
        ("xcit_nano_12_p16_224", "qkv", False),
        ("swinv2_tiny_window8_256", "proj", False),
        ("swinv2_tiny_window8_256", "qkv", True),
    ],
)
def test_attention_of_timm_with_parameters_of_its_own(name: str, target: str, is_lost: bool, tmp_path: Path) -> None:
    torch.manual_seed(0)
    options = {"depths": (1, 1)} if "swin" in name else {"depth": 1}
    base = timm.create_model(name, img_size=32, num_classes=4, **options).eval()
    expected = written_by_peft(base, tmp_path / "theirs", target_modules=[target])
    adapter = load(tmp_path / "theirs")
    if is_lost:
        with pytest.raises(
            WrongBaseError, match=r"qkv, whose weight .* uses without calling the layer: PEFT's change never"
        ):
            plug(base, adapter)
        return
    assert torch.allclose(plug(base, adapter)(images()), expected, atol=1e-4)
    assert torch.allclose(merge_weights(base, adapter)(images()), expected, atol=1e-4)


def test_a_projection_that_peft_never_called_is_refused(tmp_path: Path) -> None:
    base = small()
    written_by_peft(base, tmp_path / "theirs", target_modules=["out_proj"])
    with pytest.raises(
        WrongBaseError, match=r"changes attn\.out_proj, whose weight Small uses without calling the layer"
    ):
        plug(base, load(tmp_path / "theirs"))


def test_what_is_more_than_its_factors_is_not_blended(tmp_path: Path) -> None:
    base = small()
    written_by_peft(base, tmp_path / "theirs", target_modules=["mlp"], use_dora=True)
    adapter = load(tmp_path / "theirs")
    pool = AdapterPool({"a": adapter, "b": adapter})
    blends: list[Callable[[], Adapter]] = [
        lambda: add_weighted(pool, {"a": 0.5, "b": 0.5}),
        lambda: truncated(adapter, 1),
        lambda: truncate_spectrum(base, adapter, 0.5),
    ]
    for blend in blends:
        with pytest.raises(BadTargetError, match=r"the delta of mlp has lengths \(DoRA\) beside its factors"):
            blend()
