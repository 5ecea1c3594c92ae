"""Folders: what is written, and every way in which one can be damaged, refused with a line that says so."""

import errno
import json
import os
import pickle
from pathlib import Path
from typing import Any, NoReturn

import pytest
import safetensors.torch
import torch
from torch import nn

from loradar.adapters import Adapter, init_adapter, load, plug, save, verify
from loradar.core.errors import BadFileError, WrongBaseError
from tests.adapters.tiny import images, resnet, trained

WEIGHTS = "adapter_model.safetensors"


@pytest.fixture(scope="module")
def base() -> nn.Module:
    return resnet()


@pytest.fixture(scope="module")
def adapter(base: nn.Module) -> Adapter:
    return trained(base, "block-conv1", norm="owned", name="roa")


@pytest.fixture
def folder(adapter: Adapter, tmp_path: Path) -> Path:
    return save(adapter, tmp_path / "roa")


def edit(path: Path, **changes: Any) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def test_a_good_folder(folder: Path, base: nn.Module) -> None:
    assert sorted(p.name for p in folder.iterdir()) == ["README.md", "adapter_config.json", WEIGHTS, "loradar.json"]
    assert verify(folder, base) == []
    assert [p.name for p in folder.parent.iterdir()] == ["roa"], "nothing half-made is left beside it"


def test_the_model_card_says_how_to_load_and_what_was_measured(adapter: Adapter, tmp_path: Path) -> None:
    row = {
        "attack": "pgd",
        "threat": "adaptive",
        "correct": 412,
        "total": 500,
        "low": 0.788,
        "high": 0.855,
        "seed": 0,
    }
    text = (save(adapter.with_card(measured=[row]), tmp_path / "roa") / "README.md").read_text()
    for part in ("load(", "PeftModel.from_pretrained", "412 of 500", "82.4%", "78.8% to 85.5%", "adaptive"):
        assert part in text


@pytest.mark.parametrize("keep", [0, 7, 100, -1])
def test_a_truncated_file(folder: Path, keep: int) -> None:
    path = folder / WEIGHTS
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(BadFileError, match="truncated or changed"):
        load(folder)
    (folder / "loradar.json").unlink()  # and without the record that knows its hash
    with pytest.raises(BadFileError, match="not a safetensors file"):
        load(folder)


@pytest.mark.parametrize("where", [0, 20, -1])
def test_a_flipped_bit(folder: Path, base: nn.Module, where: int) -> None:
    data = bytearray((folder / WEIGHTS).read_bytes())
    data[where] ^= 1
    (folder / WEIGHTS).write_bytes(data)
    with pytest.raises(BadFileError, match="truncated or changed"):
        load(folder)
    assert len(verify(folder, base)) == 1


def test_a_pickle_is_never_read(folder: Path, tmp_path: Path) -> None:
    class Bomb:
        def __reduce__(self) -> tuple[Any, ...]:
            return (Path.touch, (tmp_path / "boom",))

    (folder / WEIGHTS).unlink()
    for name in ("adapter_model.bin", "adapter_model.pt"):
        (folder / name).write_bytes(pickle.dumps(Bomb()))
        for path in (folder, folder / name):
            with pytest.raises(BadFileError, match="pickles"):
                load(path)
        (folder / name).unlink()
    (folder / WEIGHTS).write_bytes(pickle.dumps(Bomb()))
    with pytest.raises(BadFileError, match="truncated or changed"):
        load(folder)
    (folder / "loradar.json").unlink()
    with pytest.raises(BadFileError, match="not a safetensors file"):
        load(folder)
    assert not (tmp_path / "boom").exists()


def test_missing_files(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(BadFileError, match=r"cannot read .*nowhere.*No such file"):
        load(tmp_path / "nowhere")
    (folder / "adapter_config.json").unlink()
    with pytest.raises(BadFileError, match=r"adapter_config\.json"):
        load(folder)


@pytest.mark.parametrize("name", ["loradar.json", "adapter_config.json"])
@pytest.mark.parametrize("text", ["", "{", "[]", "\xff"])
def test_damaged_json(folder: Path, name: str, text: str) -> None:
    (folder / name).write_text(text, encoding="latin-1")
    with pytest.raises(BadFileError, match=name):
        load(folder)


def test_a_record_of_other_tensors(folder: Path) -> None:
    record = json.loads((folder / "loradar.json").read_text())
    name = next(iter(record["tensors"]))
    for tensors in (
        {**record["tensors"], name: ["float32", [1]]},
        {**record["tensors"], name: ["float16", record["tensors"][name][1]]},
        {**record["tensors"], "extra": ["float32", [1]]},
        {k: v for k, v in record["tensors"].items() if k != name},
    ):
        edit(folder / "loradar.json", tensors=tensors)
        with pytest.raises(BadFileError, match=r"loradar\.json expects"):
            load(folder)


def test_a_record_of_schema_1_names_its_attacks_by_their_specs(folder: Path) -> None:
    record = json.loads((folder / "loradar.json").read_text())
    row: dict[str, Any] = {
        "attack": "FIA(layer='layer2', masks=10, drop=0.3, ball=Linf(radius=0.06274509803921569), seed=0)"
    }
    row |= {"trained_against": "PGD(ball=L2(radius=0.5), step=None, steps=10, seed=0)", "correct": 3, "threat": "clean"}
    old = {"target_modules": "targets", "lora_alpha": "alpha", "init": "start"}
    card = {old.get(key, key): value for key, value in record["card"].items()}
    card |= {"trained_against": row["trained_against"], "measured": [row]}
    names = {"init_factors": "minus", "branch_equivalent": "plain"}
    deltas = {name: {names.get(k, k): v for k, v in delta.items()} for name, delta in record["deltas"].items()}
    edit(folder / "loradar.json", schema=1, card=card, deltas=deltas)
    found = load(folder).card
    assert found.trained_against == "pgd:norm=l2"
    assert found.measured == [row | {"attack": "fia:n_masks=10", "trained_against": "pgd:norm=l2"}]


def test_a_record_of_a_later_schema(folder: Path) -> None:
    edit(folder / "loradar.json", schema=3)
    with pytest.raises(BadFileError, match="schema 3; this loradar reads 2"):
        load(folder)


def test_a_config_that_parted_from_its_weights(folder: Path) -> None:
    edit(folder / "adapter_config.json", lora_alpha=400, base_model_name_or_path="somebody/model")
    assert verify(folder) == ["adapter_config.json has lora_alpha 400; the weights are for 4"]


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_values_that_are_not_finite(folder: Path, base: nn.Module, tmp_path: Path, bad: float) -> None:
    broken = init_adapter(base, target_modules="block-conv1")
    broken.parameters()[0].data[0, 0] = bad
    with pytest.raises(BadFileError, match=r"NaN or infinite values in .*layer1\.0\.conv1"):
        save(broken, tmp_path / "broken")
    assert not (tmp_path / "broken").exists()
    (folder / "loradar.json").unlink()
    tensors = {
        k: torch.full_like(t, bad) for k, t in safetensors.torch.load_file(folder / WEIGHTS).items() if "fc" in k
    }
    safetensors.torch.save_file(tensors, folder / WEIGHTS)
    with pytest.raises(BadFileError, match="NaN or infinite"):
        load(folder)


@pytest.mark.parametrize("call", ["fsync", "replace"])
def test_a_full_disk_leaves_what_was_there(
    folder: Path, base: nn.Module, adapter: Adapter, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    def full(*_: Any, **__: Any) -> NoReturn:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    before = {p.name: p.read_bytes() for p in folder.iterdir()}
    with monkeypatch.context() as patch:
        patch.setattr(os, call, full)
        with pytest.raises(BadFileError, match="No space left on device"):
            save(init_adapter(base, target_modules="all-conv", rank=2), folder)
    assert {p.name: p.read_bytes() for p in folder.iterdir()} == before
    assert [p.name for p in folder.parent.iterdir()] == ["roa"]
    assert torch.equal(plug(base, load(folder))(images()), plug(base, adapter)(images()))


def test_saving_again_replaces_it_and_nothing_else(folder: Path, base: nn.Module, tmp_path: Path) -> None:
    other = trained(base, "layer1.*.conv1", seed=3)
    save(other, folder)
    assert load(folder).card == other.card
    (tmp_path / "photographs").mkdir()
    (tmp_path / "photographs" / "one.jpg").touch()
    for path in (tmp_path / "photographs", tmp_path / "photographs" / "one.jpg"):
        with pytest.raises(BadFileError, match="is not an adapter"):
            save(other, path)
    assert (tmp_path / "photographs" / "one.jpg").exists()
    (tmp_path / "empty").mkdir()
    save(other, tmp_path / "empty")


def test_a_wrong_base_is_told_when_saving_and_verifying(folder: Path, adapter: Adapter, tmp_path: Path) -> None:
    with pytest.raises(WrongBaseError):
        save(adapter, tmp_path / "new", resnet(seed=1))
    (problem,) = verify(folder, resnet(seed=1))
    assert "belongs to the base" in problem
