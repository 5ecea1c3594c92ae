"""A guard on disk: what is read is what was written, damage is said, and folders written so far open."""

import dataclasses
import importlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch

from loradar.adapters import init_adapter, load, save
from loradar.cli.guard import _open as open_watched
from loradar.core.errors import BadConfigError, BadFileError, WrongBaseError
from loradar.core.files import sha256
from loradar.guard.build import resolve, run
from loradar.guard.files import read_guard, read_parts, save_guard
from loradar.guard.guard import Guard
from loradar.jobs.signing import sign_folder, verify_folder
from loradar.models import Base, load_base
from tests.guard import built as guards
from tests.guard import toys


@pytest.fixture(scope="module")
def work(base_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The adapters of a guard, and the guard."""
    folder = tmp_path_factory.mktemp("guard-files")
    for name in ("roa", "fast"):
        guards.adapter(base_folder, folder / "adapters", name)
    guards.build(base_folder, folder)
    return folder


@pytest.fixture
def folder(work: Path, tmp_path: Path) -> Path:
    """A copy of the guard's folder, to damage."""
    return Path(shutil.copytree(work / "guard", tmp_path / "guard"))


def test_what_is_read_is_what_was_written(work: Path, tmp_path: Path) -> None:
    guard = Guard.open(work / "guard", precision="fp32").replace(abstain=0.25, fusion="logpool")
    again = read_guard(guard.save(tmp_path / "again"))
    assert again.record == guard.state.record
    assert again.record.settings.abstain == 0.25
    assert list(again.adapters) == ["roa", "fast"]
    for ours, theirs in ((guard.identifier, again.identifier), (guard.gate, again.gate)):
        assert all(torch.equal(a, b) for a, b in zip(ours.buffers(), theirs.buffers(), strict=True))
    x = torch.rand(4, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    reopened = Guard.open(tmp_path / "again", precision="fp32")
    assert torch.equal(reopened.predict_proba(x), guard.predict_proba(x))
    assert reopened.classes_ == tuple("0123456789")


def test_a_folder_of_schema_2_opens(work: Path, folder: Path) -> None:
    """Schema 2 did not say what images the base takes, nor its classes."""
    before_digests(schema=2)(folder)
    content = json.loads((folder / "guard.json").read_text())
    for key in ("input_size", "classes"):
        del content[key]
    (folder / "guard.json").write_text(json.dumps(content))
    x = torch.rand(4, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    old, new = Guard.open(folder, precision="fp32"), Guard.open(work / "guard", precision="fp32")
    assert torch.equal(old.predict_proba(x), new.predict_proba(x))
    assert (old.input_size, old.classes_) == ((3, 32, 32), tuple("0123456789"))
    base = load_base(old.state.record.base)
    for given in (base, base.model):
        assert torch.equal(Guard.open(folder, base=given, precision="fp32").predict(x), new.predict(x))


def test_the_base_is_given_as_a_name_an_object_or_a_module(work: Path, base_folder: Path) -> None:
    x = torch.rand(4, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    expected = Guard.open(work / "guard", precision="fp32").predict_proba(x)
    base = load_base(str(base_folder))
    state = {name: tensor.clone() for name, tensor in base.model.state_dict().items()}
    base.model.train()
    for given in (str(base_folder), base, base.model):
        for device in ("auto", "cpu"):
            guard = Guard.open(work / "guard", base=given, device=device, precision="fp32")
            torch.testing.assert_close(guard.predict_proba(x), expected)
            assert guard.input_size == (3, 32, 32)
    assert base.model.training, "what was lent is left as it was"
    assert all(torch.equal(tensor, state[name]) for name, tensor in base.model.state_dict().items())
    with torch.no_grad():
        next(base.model.parameters()).add_(1)
    with pytest.raises(WrongBaseError, match="give the base that it was built with"):
        Guard.open(work / "guard", base=base.model)


def test_a_guard_is_built_on_any_module_and_opened_with_it(tmp_path: Path) -> None:
    """A model that nobody wrapped, which takes images in [0, 1]."""
    net = torch.nn.Sequential(
        torch.nn.Conv2d(3, 4, 8, stride=8), torch.nn.ReLU(), torch.nn.Flatten(), torch.nn.Linear(64, 10)
    )
    base = Base.of(net, input_size=(3, 32, 32))
    adapter = init_adapter(base.model, target_modules=["0"], rank=2, name="fast", head=False)
    adapter.deltas["0"].b.data.normal_(0, 0.3, generator=torch.Generator().manual_seed(0))
    config = guards.settings(Path("memory:net"), tmp_path, attacks=["fast=pgd:steps=1"], respond=[], adapter=[])
    guard = run(resolve(config, base=base, adapters={"fast": adapter})).guard
    x = torch.rand(4, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    assert torch.equal(
        Guard.open(tmp_path / "guard", base=net, precision="fp32").predict_proba(x), guard.predict_proba(x)
    )


def test_a_guard_on_a_model_in_memory_asks_for_it(work: Path, tmp_path: Path) -> None:
    guard = Guard.open(work / "guard", precision="fp32")
    record = dataclasses.replace(guard.state.record, base="memory:0123456789ab")
    folder = save_guard(dataclasses.replace(guard.state, record=record), tmp_path / "guard")
    with pytest.raises(BadConfigError, match=r"give it: Guard.open\(folder, base=model\)"):
        Guard.open(folder)
    assert Guard.open(folder, base=guard.state.base).classes_ == guard.classes_


def test_a_guard_is_written_over_a_guard_alone(work: Path, tmp_path: Path) -> None:
    guard = Guard.open(work / "guard")
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "one.png").write_bytes(b"")
    with pytest.raises(BadFileError, match="exists and is not a guard"):
        guard.save(tmp_path / "photos")
    state = dataclasses.replace(guard.state, adapters={"../out": guard.state.adapters["roa"]})
    with pytest.raises(BadConfigError, match="expected a name that a folder can have"):
        save_guard(state, tmp_path / "guard")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["photos"]


def changed(**values: object) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        content = json.loads((folder / "guard.json").read_text())
        (folder / "guard.json").write_text(json.dumps(content | values))

    return change


def before_digests(**values: object) -> Callable[[Path], None]:
    """The same in a folder of before digests."""

    def change(folder: Path) -> None:
        file = folder / "guard.safetensors"
        safetensors.torch.save_file(safetensors.torch.load_file(file), file)
        content = json.loads((folder / "guard.json").read_text()) | {"schema": 4, "sha256": sha256(file.read_bytes())}
        weights = {name: folder / "adapters" / name / "adapter_model.safetensors" for name in content["adapters"]}
        content |= {"adapters": {name: sha256(path.read_bytes()) for name, path in weights.items()}}
        del content["digest"]
        (folder / "guard.json").write_text(json.dumps(content | values))

    return change


def card_changed(folder: Path) -> None:
    path = folder / "adapters" / "roa" / "loradar.json"
    record = json.loads(path.read_text())
    path.write_text(json.dumps(record | {"card": record["card"] | {"base_fingerprint": ""}}))


def card_taken(folder: Path) -> None:
    (folder / "adapters" / "roa" / "loradar.json").unlink()


def card_of_another_run(folder: Path) -> None:
    """The same weights under another card, which is whole in itself."""
    place = folder / "adapters" / "roa"
    save(load(place).with_card(seed=99), place)


def test_a_folder_of_before_digests_opens(work: Path, folder: Path) -> None:
    before_digests()(folder)
    x = torch.rand(4, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    new = Guard.open(work / "guard", precision="fp32").predict_proba(x)
    assert torch.equal(Guard.open(folder, precision="fp32").predict_proba(x), new)
    assert read_parts(folder).digest == ""
    assert len(read_parts(work / "guard").digest) == 64


def short(folder: Path) -> None:
    file = folder / "guard.safetensors"
    file.write_bytes(file.read_bytes()[:-4])


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        (lambda folder: (folder / "guard.json").unlink(), "cannot read"),
        (lambda folder: (folder / "guard.json").write_text("{"), "is not JSON"),
        (lambda folder: (folder / "guard.json").write_text("[]"), "holds a list"),
        (changed(schema=1), "another schema"),
        (changed(schema=6), "reads 2, 3, 4, 5"),
        (before_digests(costs="much"), "is damaged: costs"),
        (before_digests(adapters={"../adapters/roa": ""}), "expected a name that a folder can have"),
        (before_digests(adapters={"none": ""}), "none"),
        (changed(schema=4), "was changed since it was saved"),
        (changed(digest=""), "was changed since it was saved"),
        (changed(max_fpr=0.5), "was changed since it was saved"),
        (changed(base_fingerprint=""), "was changed since it was saved"),
        (changed(classes=list("9876543210")), "was changed since it was saved"),
        (changed(digests=[]), "was changed since it was saved"),
        (card_changed, "loradar.json, or a file that it speaks for, was changed since it was saved"),
        (card_taken, "loradar.json is missing"),
        (card_of_another_run, "'roa' in .* is not the one it was calibrated with"),
        (short, "truncated or changed"),
    ],
)
def test_damage_is_said(folder: Path, damage: Callable[[Path], None], says: str) -> None:
    damage(folder)
    with pytest.raises(BadFileError, match=says) as error:
        Guard.open(folder)
    assert "\n" not in str(error.value)


def test_a_guard_is_signed_with_its_adapters(folder: Path, tmp_path: Path) -> None:
    signing = pytest.importorskip("cryptography") and importlib.import_module("loradar.core.signing")
    private, public = signing.make_keys(tmp_path / "mine")
    with pytest.raises(BadFileError, match="is not signed"):
        Guard.open(folder, key=public)
    sign_folder(folder, private)
    assert Guard.open(folder, key=public).classes_ == tuple("0123456789")
    with pytest.raises(BadFileError, match="is not signed by the owner"):
        Guard.open(folder, key=signing.make_keys(tmp_path / "theirs")[1])
    with pytest.raises(BadFileError, match="is not signed"):
        open_watched(folder, None, None, key=signing.make_keys(tmp_path / "others")[1])
    # a guard of the same settings around another adapter, made by one who knows the format but has no key
    signature = (folder / "signature.json").read_bytes()
    state = read_guard(folder)
    adapters = {**state.adapters, "roa": state.adapters["roa"].with_card(seed=99)}
    save_guard(dataclasses.replace(state, adapters=adapters), folder)
    (folder / "signature.json").write_bytes(signature)
    assert Guard.open(folder).classes_ == tuple("0123456789")
    with pytest.raises(BadFileError, match="has another digest"):
        Guard.open(folder, key=public)


def test_a_folder_of_before_digests_is_not_signed(folder: Path, tmp_path: Path) -> None:
    signing = pytest.importorskip("cryptography") and importlib.import_module("loradar.core.signing")
    before_digests()(folder)
    assert verify_folder(folder).bound == "saved before digests: only its weights are bound"
    with pytest.raises(BadFileError, match="has no digest"):
        sign_folder(folder, signing.make_keys(tmp_path / "mine")[0])


@pytest.mark.parametrize("changes", [{"window": (5, 0)}, {"masks": 1}, {"window": (33, 5)}])
def test_a_window_that_fits_no_image_is_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(BadConfigError, match=r"masks against|does not fit"):
        toys.guard(**changes)
