"""PEFT itself reads our folders, and we read what PEFT itself writes: the same logits either way."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torchvision
from torch import nn

from loradar.adapters import Adapter, AdapterPool, add_weighted, init_adapter, load, merge_weights, plug, save
from loradar.core.errors import BadFileError
from tests.adapters.tiny import images, resnet, step, trained, vit

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
        ({"use_dora": True}, "use_dora=True"),
        ({"bias": "all"}, "bias='all'"),
        ({"lora_bias": True}, "lora_bias=True"),
        ({"fan_in_fan_out": True}, "fan_in_fan_out=True"),
        ({"init_lora_weights": "pissa"}, "changes the base's weights"),
        ({"peft_type": "LOHA"}, "peft_type 'LOHA'; expected LORA"),
        ({"peft_type": "LORADAR"}, "loradar.json is missing"),
        ({"invented_later": 1}, "invented_later=1"),
        ({"r": "four"}, "r 'four'; expected a number"),
        ({"r": 5}, "at rank 5"),
    ],
)
def test_options_whose_maths_are_not_ours(option: dict[str, Any], message: str, tmp_path: Path) -> None:
    adapter: Adapter = init_adapter(resnet(), target_modules="block-conv1")
    folder = save(adapter, tmp_path / "ours")
    (folder / "loradar.json").unlink()
    config = folder / "adapter_config.json"
    config.write_text(json.dumps({**json.loads(config.read_text()), **option}))
    with pytest.raises(BadFileError, match=message):
        load(folder)


def test_the_size_of_the_reference_adapter(tmp_path: Path) -> None:
    # rank 4 on the stem and the eight block conv1s, with fc: 66,646 parameters
    adapter = init_adapter(stock(), target_modules="block-conv1+stem", rank=4)
    assert sum(p.numel() for p in adapter.parameters()) == 66_646
    save(adapter, tmp_path / "ours")
    assert (tmp_path / "ours" / "adapter_model.safetensors").stat().st_size <= 273_463
