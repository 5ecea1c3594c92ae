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

from loradar.adapters import Adapter, init_adapter, load, plug, read_adapter, save, verify
from loradar.core.errors import BadConfigError, BadFileError, WrongBaseError
from tests.adapters.tiny import as_peft_writes, as_schema_2, images, resnet, trained

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


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("[a](b) $^$", "# \\[a\\](b) \\$^\\$"),
        ("a\n---\nb", "# a --- b"),
        ("\x1b[31mred\u202e", "# \\x1b\\[31mred\\u202e"),
    ],
)
def test_the_model_card_shows_names_as_they_are(adapter: Adapter, tmp_path: Path, name: str, shown: str) -> None:
    lines = (save(adapter.with_card(name=name), tmp_path / "roa") / "README.md").read_text().splitlines()
    assert shown in lines


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


def test_a_record_of_other_tensors(folder: Path, adapter: Adapter) -> None:
    record = json.loads((folder / "loradar.json").read_text())
    name = next(iter(record["tensors"]))
    for tensors in (
        {**record["tensors"], name: ["float32", [1]]},
        {**record["tensors"], name: ["float16", record["tensors"][name][1]]},
        {**record["tensors"], "extra": ["float32", [1]]},
        {k: v for k, v in record["tensors"].items() if k != name},
    ):
        as_schema_2(save(adapter, folder), tensors=tensors)
        with pytest.raises(BadFileError, match=r"loradar\.json expects"):
            load(folder)


def test_a_record_of_schema_1_names_its_attacks_by_their_specs(folder: Path) -> None:
    record = json.loads((folder / "loradar.json").read_text())
    row: dict[str, object] = {
        "attack": "FIA(layer='layer2', masks=10, drop=0.3, ball=Linf(radius=0.06274509803921569), seed=0)"
    }
    row |= {"trained_against": "PGD(ball=L2(radius=0.5), step=None, steps=10, seed=0)", "correct": 3, "threat": "clean"}
    old = {"target_modules": "targets", "lora_alpha": "alpha", "init": "start"}
    card = {old.get(key, key): value for key, value in record["card"].items()}
    card |= {"trained_against": row["trained_against"], "measured": [row]}
    names = {"init_factors": "minus", "branch_equivalent": "plain"}
    deltas = {name: {names.get(k, k): v for k, v in delta.items()} for name, delta in record["deltas"].items()}
    as_schema_2(folder, schema=1, card=card, deltas=deltas)
    found = load(folder).card
    assert found.trained_against == "pgd:norm=l2"
    assert found.measured == [row | {"attack": "fia:n_masks=10", "trained_against": "pgd:norm=l2"}]


def test_a_record_of_a_later_schema(folder: Path) -> None:
    edit(folder / "loradar.json", schema=4)
    with pytest.raises(BadFileError, match="schema 4; this loradar reads 1 to 3"):
        load(folder)


MEANINGS: dict[str, tuple[str, dict[str, Any]]] = {
    "any base": ("loradar.json", {"card": {"base_fingerprint": ""}}),
    "classes": ("loradar.json", {"card": {"classes": ["dog", "cat", "bird", "fish"]}}),
    "measured": ("loradar.json", {"card": {"measured": [{"attack": "pgd", "correct": 500, "total": 500}]}}),
    "scale": ("loradar.json", {"deltas": {"layer1.0.conv1": {"scale": 2.5}}}),
    "groups": ("loradar.json", {"deltas": {"layer1.0.conv1": {"groups": 2}}}),
    "another field": ("loradar.json", {"card": {"of_a_later_version": 1}}),
    "no digest": ("loradar.json", {"digest": ""}),
    "an earlier schema": ("loradar.json", {"schema": 2}),
    "what PEFT computes": ("adapter_config.json", {"lora_alpha": 400}),
}


def merged(content: Any, changes: Any) -> Any:
    if not isinstance(changes, dict):
        return changes
    return content | {key: merged(content.get(key, {}), value) for key, value in changes.items()}


@pytest.mark.parametrize("case", MEANINGS)
def test_a_meaning_that_was_changed(folder: Path, base: nn.Module, case: str) -> None:
    name, changes = MEANINGS[case]
    path = folder / name
    path.write_text(json.dumps(merged(json.loads(path.read_text()), changes)))
    with pytest.raises(BadFileError, match="was changed since it was saved"):
        load(folder)
    (problem,) = verify(folder, base)
    assert "was changed since it was saved" in problem


def test_a_card_without_its_digest_or_of_another_adapter(folder: Path, base: nn.Module, tmp_path: Path) -> None:
    path = folder / "loradar.json"
    record = json.loads(path.read_text())
    path.write_text(json.dumps({key: value for key, value in record.items() if key != "digest"} | {"schema": 2}))
    with pytest.raises(BadFileError, match="was changed since it was saved"):
        load(folder)
    other = save(trained(base, "block-conv1", seed=3), tmp_path / "other")
    path.write_bytes((other / "loradar.json").read_bytes())
    with pytest.raises(BadFileError, match="has another sha256"):
        load(folder)


def test_a_card_that_was_taken_away(folder: Path, base: nn.Module) -> None:
    (folder / "loradar.json").unlink()
    with pytest.raises(BadFileError, match=r"loradar\.json is missing: loradar saved this adapter"):
        load(folder)
    assert len(verify(folder, base)) == 1
    # a link that leads nowhere is no reason to take it for a folder of PEFT's
    (folder / "loradar.json").symlink_to("nowhere")
    with pytest.raises(BadFileError, match="cannot read"):
        load(folder)


def test_json_saved_again_is_the_same_meaning(folder: Path, base: nn.Module) -> None:
    def again(value: Any) -> Any:
        """Keys the other way round, and whole numbers as another writer has them."""
        if isinstance(value, dict):
            return {key: again(value[key]) for key in reversed(value)}
        if isinstance(value, list):
            return [again(each) for each in value]
        return int(value) if isinstance(value, float) and value.is_integer() else value

    before = load(folder)
    for name in ("loradar.json", "adapter_config.json"):
        content = json.loads((folder / name).read_text())
        (folder / name).write_text(json.dumps(again(content), separators=(",", ":")))
    # the base's place is the user's to fill in
    edit(folder / "adapter_config.json", base_model_name_or_path="somebody/model")
    assert verify(folder, base) == []
    assert load(folder).card == before.card


def test_the_weights_of_equal_runs_are_equal_whenever_they_were_saved(adapter: Adapter, tmp_path: Path) -> None:
    first, second = (save(adapter.with_card(created=when), tmp_path / when) for when in ("2026", "2027"))
    assert (first / WEIGHTS).read_bytes() == (second / WEIGHTS).read_bytes()
    assert read_adapter(first)[1] != read_adapter(second)[1]


def test_a_folder_of_before_digests_is_read(folder: Path, base: nn.Module, adapter: Adapter) -> None:
    expected = plug(base, adapter)(images())
    as_schema_2(folder)
    found, digest = read_adapter(folder)
    assert digest == ""
    assert found.card == adapter.card
    assert torch.equal(plug(base, found)(images()), expected)
    assert verify(folder, base) == []


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_values_that_are_not_finite(folder: Path, base: nn.Module, tmp_path: Path, bad: float) -> None:
    broken = init_adapter(base, target_modules="block-conv1")
    broken.parameters()[0].data[0, 0] = bad
    with pytest.raises(BadFileError, match=r"NaN or infinite values in .*layer1\.0\.conv1"):
        save(broken, tmp_path / "broken")
    assert not (tmp_path / "broken").exists()
    as_peft_writes(folder)
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


@pytest.mark.parametrize("card", [{"name": "caf\udce9"}, {"data": {"note": "\udce9"}}, {"data": {"what": object()}}])
def test_a_card_that_json_cannot_hold_is_refused_in_a_line(card: dict[str, Any], tmp_path: Path) -> None:
    adapter = init_adapter(nn.Sequential(nn.Linear(4, 3)), target_modules=["0"], rank=1, head=False)
    with pytest.raises(BadConfigError, match="holds what JSON cannot say"):
        save(adapter.with_card(**card), tmp_path / "adapter")
    assert not (tmp_path / "adapter").exists()
