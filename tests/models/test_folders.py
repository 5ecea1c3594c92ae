"""A base in a folder: written, read, tampered with."""

import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from loradar.core.errors import BadConfigError, BadFileError
from loradar.models import Base, load_base, new_base, save_base


def _edit(folder: Path, **changes: Any) -> None:
    config = json.loads((folder / "config.json").read_text())
    for key, value in changes.items():
        config.pop(key, None)
        if value is not None:
            config[key] = value
    (folder / "config.json").write_text(json.dumps(config))


def test_a_saved_base_gives_the_same_bits(tiny: Base, tmp_path: Path) -> None:
    x = torch.rand(3, 3, 32, 32)
    tiny.description["recipe"] = "none: fresh"
    opened = load_base(str(save_base(tmp_path / "base", tiny)))
    assert torch.equal(opened.model(x), tiny.model(x))
    assert opened.classes == tiny.classes
    assert (opened.num_classes, opened.input_size) == (4, (3, 32, 32))
    assert opened.description["recipe"] == "none: fresh"
    assert not any(module.training for module in opened.model.modules())
    json.dumps(opened.description)
    again = load_base(str(save_base(tmp_path / "again", opened)))
    changed = {"spec"}
    assert {k: v for k, v in again.description.items() if k not in changed} == {
        k: v for k, v in opened.description.items() if k not in changed
    }


def test_a_folder_of_something_else_is_not_replaced(tiny: Base, tmp_path: Path) -> None:
    (tmp_path / "letter.txt").write_text("mine")
    with pytest.raises(BadFileError, match="exists and is not a base"):
        save_base(tmp_path, tiny)
    assert [path.name for path in tmp_path.iterdir()] == ["letter.txt"]


def test_half_precision_halves_the_file_and_opens_as_float32(tiny: Base, tmp_path: Path) -> None:
    sizes = [
        (save_base(tmp_path / n, tiny, dtype=d) / "model.safetensors").stat().st_size
        for n, d in (("full", torch.float32), ("half", torch.float16))
    ]
    assert sizes[1] < 0.6 * sizes[0]
    opened = load_base(str(tmp_path / "half"))
    assert {parameter.dtype for parameter in opened.model.parameters()} == {torch.float32}


def test_a_cifar_stem_is_written_as_such(tmp_path: Path) -> None:
    base = new_base("resnet18-cifar", num_classes=2)
    folder = save_base(tmp_path / "base", base, dtype=torch.float16)
    config = json.loads((folder / "config.json").read_text())
    assert (config["stem"], config["dtype"]) == ("3x3", "float16")
    assert config["architecture"] == "resnet18"
    assert load_base(str(folder)).model.get_submodule("wrapped.conv1").weight.shape == (64, 3, 3, 3)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"architecture": None}, "'architecture' is missing"),
        ({"num_classes": None}, "'num_classes' is missing"),
        ({"stem": "5x5"}, "'5x5' is missing or unknown"),
        ({"architecture": "timm:no_such"}, "there is no architecture"),
        ({"num_classes": "four"}, "refuses num_classes=four"),
        ({"num_classes": 5}, "does not fit the architecture: of another shape: head.weight"),
        ({"classes": ["a"]}, "1 class names for 4"),
        ({"std": [0, 1, 1]}, "every std above 0"),
        ({"mean": 3}, "config.json"),
        ({"input_size": [32]}, "config.json"),
        ({"sha256": "0" * 64}, "says 000000000000"),
    ],
)
def test_a_config_that_does_not_fit_is_refused_in_one_line(
    tiny: Base, tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    folder = save_base(tmp_path / "base", tiny)
    _edit(folder, **changes)
    with pytest.raises(BadFileError, match=message) as raised:
        load_base(str(folder))
    assert "\n" not in str(raised.value)


def test_a_flipped_byte_is_noticed(tiny: Base, tmp_path: Path) -> None:
    path = save_base(tmp_path / "base", tiny) / "model.safetensors"
    data = bytearray(path.read_bytes())
    data[-5] ^= 1
    path.write_bytes(data)
    with pytest.raises(BadFileError, match="not copied whole"):
        load_base(str(tmp_path / "base"))


def test_what_is_no_base_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BadFileError, match="could not read"):
        load_base(str(tmp_path))
    for content in ("{", "[]"):
        (tmp_path / "config.json").write_text(content)
        with pytest.raises(BadFileError, match=r"config.json"):
            load_base(str(tmp_path))


def test_a_full_disk_leaves_what_was_there(tiny: Base, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = save_base(tmp_path / "base", tiny)
    before = (folder / "model.safetensors").read_bytes()

    def full(_file: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(BadFileError, match="No space left"):
        save_base(folder, new_base("squeezenet1_1", num_classes=2))
    assert (folder / "model.safetensors").read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["base"]


def test_a_base_without_an_architecture_is_not_written(tiny: Base, tmp_path: Path) -> None:
    own = Base(model=tiny.model, num_classes=4, input_size=(3, 32, 32))
    with pytest.raises(BadConfigError, match="no known architecture"):
        save_base(tmp_path / "base", own)


def test_a_config_that_is_no_file_or_endless_is_said(base_folder: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(base_folder, tmp_path / "base"))
    (folder / "config.json").write_text('{"a":' * 10**5)
    with pytest.raises(BadFileError, match="nested more than"):
        load_base(str(folder))
    (folder / "config.json").unlink()
    os.mkfifo(folder / "config.json")
    with pytest.raises(BadFileError, match="no regular file"):
        load_base(str(folder))
