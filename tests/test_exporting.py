"""Every format, of everything that has one: read by its own runtime, without loradar, in batches of any size."""

import dataclasses
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

import loradar
from loradar.adapters import Adapter, Card, fingerprint, init_adapter, save
from loradar.cli.app import app
from loradar.core.config import validate
from loradar.core.errors import BadConfigError
from loradar.data import fetch_all, load_source, split
from loradar.exporting import METADATA, compare
from loradar.fewshot.classifier import FewShotClassifier
from loradar.guard.files import save_guard
from loradar.guard.guard import Guard
from loradar.guard.policy import Policy
from loradar.jobs.config import ExportConfig
from loradar.jobs.export import images_for_int8, resolve, run
from loradar.models import Base, new_base, open_base, save_base
from tests.guard import toys

RESNET, VIT = "timm:test_resnet", "timm:test_vit"
CLASSES = ("ant", "bee", "cat", "dög")


def base(architecture: str) -> Base:
    options = {"img_size": 32} if architecture == VIT else {"input_size": (3, 32, 32)}
    made = new_base(architecture, num_classes=4, classes=CLASSES, **options)
    for name, buffer in made.model.named_buffers():
        if name.endswith("running_mean"):
            buffer.normal_(std=0.1, generator=torch.Generator().manual_seed(0))
    return made


@pytest.fixture(scope="module")
def places(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[str, str]]:
    """The folder of each, and its base's."""
    root = tmp_path_factory.mktemp("places")
    found: dict[str, tuple[str, str]] = {}
    for kind, architecture in (("resnet", RESNET), ("vit", VIT)):
        folder = str(save_base(root / f"{kind}-base", base(architecture)))
        opened = open_base(folder, "cpu")
        adapter = init_adapter(opened.model, rank=2)
        with torch.no_grad():
            for index, tensor in enumerate(adapter.parameters()):
                tensor += 0.05 * torch.randn(tensor.shape, generator=torch.Generator().manual_seed(index))
        found[kind] = str(save(adapter, root / kind, opened.model)), folder
    x = torch.rand(8, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    task = FewShotClassifier(found["resnet"][1]).fit(x, ["left", "right"] * 4)
    found["task"] = str(task.save(root / "task")), found["resnet"][1]
    adapters = {name: loradar.load(found["resnet"][0]) for name in toys.THREATS}
    opened = open_base(found["resnet"][1], "cpu")
    state = toys.state(masks=2)
    record = dataclasses.replace(state.record, base=found["resnet"][1], base_fingerprint=fingerprint(opened.model))
    state = dataclasses.replace(state, record=record, base=opened, adapters=adapters)
    found["guard"] = str(save_guard(state, root / "guard")), found["resnet"][1]
    return found


def by_loradar(kind: str, place: str, own: str) -> nn.Module:
    if kind == "guard":
        return Guard.open(place, device="cpu", precision="fp32")
    if kind == "task":
        return FewShotClassifier.load(place).classifier_
    return loradar.plug(own, place)


Reader = Callable[[Path, str], tuple[Callable[[Tensor], Tensor], dict[str, Any]]]


def onnx(path: Path, _own: str) -> tuple[Callable[[Tensor], Tensor], dict[str, Any]]:
    session = pytest.importorskip("onnxruntime").InferenceSession(str(path), providers=["CPUExecutionProvider"])
    facts = session.get_modelmeta().custom_metadata_map
    kept = {name: json.loads(facts[name]) for name in ("classes", "input_size")}
    return lambda x: torch.from_numpy(np.asarray(session.run(None, {"images": x.numpy()})[0])), kept


def torch_export(path: Path, _own: str) -> tuple[Callable[[Tensor], Tensor], dict[str, Any]]:
    extra = {METADATA: ""}
    return torch.export.load(path, extra_files=extra).module(), json.loads(extra[METADATA])


def normalised(model: nn.Module, facts: dict[str, Any]) -> Callable[[Tensor], Tensor]:
    mean, std = (torch.tensor(facts[name])[:, None, None] for name in ("mean", "std"))
    return lambda x: model.eval()((x - mean) / std)


def by_name(facts: dict[str, Any]) -> nn.Module:
    name = facts["architecture"].removeprefix("timm:")
    model: nn.Module = timm.create_model(name, num_classes=facts["num_classes"], **facts["options"])
    return model


def state_dict(path: Path, _own: str) -> tuple[Callable[[Tensor], Tensor], dict[str, Any]]:
    facts = json.loads(path.with_suffix(".json").read_text(encoding="utf-8"))
    model = by_name(facts)
    model.load_state_dict(load_file(path))
    return normalised(model, facts), facts


def by_timm(path: Path, _own: str) -> tuple[Callable[[Tensor], Tensor], dict[str, Any]]:
    model = timm.create_model(f"local-dir:{path}", pretrained=True)
    cfg, config = model.pretrained_cfg, json.loads((path / "config.json").read_text(encoding="utf-8"))
    return normalised(model, cfg), {"classes": config["label_names"], "input_size": list(cfg["input_size"])}


def by_peft(path: Path, own: str) -> tuple[Callable[[Tensor], Tensor], dict[str, Any]]:
    peft = pytest.importorskip("peft", reason="peft, of the extra 'peers', is not installed")
    facts = json.loads((path / "preprocessing.json").read_text(encoding="utf-8"))
    model = by_name(facts)
    model.load_state_dict(load_file(Path(own) / "model.safetensors"))
    return normalised(peft.PeftModel.from_pretrained(model, str(path)), facts), facts


READERS: dict[str, tuple[str, Reader]] = {
    "onnx": (".onnx", onnx),
    "torch-export": (".pt2", torch_export),
    "state-dict": (".safetensors", state_dict),
    "timm": ("", by_timm),
    "peft": ("", by_peft),
}
ROWS = [
    *(("resnet", to) for to in ("onnx", "torch-export", "state-dict", "timm", "peft")),
    *(("vit", to) for to in ("onnx", "torch-export", "state-dict", "timm", "peft")),
    *(("task", to) for to in ("onnx", "torch-export", "state-dict", "timm")),
    ("guard", "onnx"),
]


@pytest.mark.parametrize(("kind", "to"), ROWS)
def test_a_file_answers_as_its_model(places: dict[str, tuple[str, str]], tmp_path: Path, kind: str, to: str) -> None:
    suffix, reader = READERS[to]
    place, own = places[kind]
    given = {"place": place, "to": to, "out": tmp_path / f"out{suffix}"} | ({} if kind == "guard" else {"base": own})
    done = run(resolve(validate(ExportConfig, given)))
    assert done.comparison.equal == done.comparison.total == 6
    again, facts = reader(done.path, own)
    model = by_loradar(kind, place, own)
    for count in (1, 3):
        x = torch.rand(count, 3, 32, 32, generator=torch.Generator().manual_seed(count))
        with torch.no_grad():
            torch.testing.assert_close(again(x), model(x), atol=1e-4, rtol=1e-4)
    assert tuple(facts["classes"]) == (("left", "right") if kind == "task" else CLASSES)
    assert facts["input_size"] == [3, 32, 32]


@pytest.mark.parametrize("kind", ["resnet", "guard"])
def test_int8_is_smaller_and_answers_nearly_so(places: dict[str, tuple[str, str]], tmp_path: Path, kind: str) -> None:
    place, own = places[kind]
    sizes = {}
    for to in ("onnx", "onnx-int8"):
        given = {"place": place, "data": "digits", "to": to, "out": tmp_path / f"{to}.onnx"}
        done = run(resolve(validate(ExportConfig, given | ({} if kind == "guard" else {"base": own}))))
        sizes[to] = done.path.stat().st_size
    assert sizes["onnx-int8"] < 0.4 * sizes["onnx"]
    assert 0.9 * 256 <= done.comparison.equal <= done.comparison.total == 256
    assert done.comparison.right is None
    assert "digits has 10 classes" in done.uncounted
    again, facts = onnx(done.path, own)
    assert tuple(facts["classes"]) == CLASSES
    model = by_loradar(kind, place, own)
    for count in (1, 3):
        x = load_source("digits", size=(32, 32)).train.fetch(torch.arange(count))[0]
        with torch.no_grad():
            assert 0 < float((again(x) - model(x)).abs().max()) < 1


@pytest.fixture(scope="module")
def digits_task(tmp_path_factory: pytest.TempPathFactory, places: dict[str, tuple[str, str]]) -> str:
    x, y = load_source("digits", size=(32, 32)).train.fetch(torch.arange(200))
    task = FewShotClassifier(places["resnet"][1]).fit(x, [str(one) for one in y.tolist()])
    return str(task.save(tmp_path_factory.mktemp("task") / "digits"))


def test_int8_counts_right_answers_on_images_that_it_was_not_calibrated_on(
    places: dict[str, tuple[str, str]], digits_task: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, own = tmp_path / "task.onnx", places["resnet"][1]
    with pytest.raises(SystemExit) as done:
        app(["export", digits_task, "--base", own, "--to", "onnx-int8", "--data", "digits", "--out", str(out)])
    assert not done.value.code
    said = capsys.readouterr().out
    shown, counted = images_for_int8(load_source("digits", size=(32, 32)), None)
    assert (len(shown), len(counted)) == (128, 256)
    assert not set(shown.origin.tolist()) & set(counted.origin.tolist())
    assert len(set(shown.labels.tolist())) == 10
    x, y = fetch_all(counted)
    model = by_loradar("task", digits_task, own)
    with torch.no_grad():
        counts = [int((call(x).argmax(1) == y).sum()) for call in (model, onnx(out, own)[0])]
    shares = [f"{count} in {kind}" for kind, count in zip(("float32", "int8"), counts, strict=True)]
    assert f"right answers of 256 (95 % interval): {shares[0]} (" in said
    assert f", {shares[1]} (" in said
    assert counts[0] > 100, "the model has learned something to lose"
    assert "robustness of the int8 file was not measured" in said


def test_int8_takes_images_that_an_adapter_did_not_see() -> None:
    source = load_source("digits")
    drawn = split(source, reported=200, seed=3)
    held = set(drawn.reported.origin.tolist())
    shown, counted = images_for_int8(source, Adapter(card=Card(data=drawn.record)))
    assert set(counted.origin.tolist()) == held
    assert not set(shown.origin.tolist()) & set(counted.origin.tolist())


def test_int8_in_memory_needs_a_folder(tmp_path: Path) -> None:
    with pytest.raises(BadConfigError, match="calibrated on images"):
        loradar.export(Small(), tmp_path / "m.onnx", to="onnx-int8", input_size=(3, 8, 8))


class Small(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(3, 4)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.fc(x.mean((2, 3)))
        return logits


@pytest.mark.skipif(not shutil.which("g++"), reason="aoti compiles C++, and there is no g++")
@pytest.mark.slow
def test_a_compiled_package_answers_as_its_model(tmp_path: Path) -> None:
    made = Base.of(Small(), classes=CLASSES, input_size=(3, 8, 8))
    path = loradar.export(made, tmp_path / "small.pt2", to="aoti")
    again = torch._inductor.aoti_load_package(str(path))
    for count in (1, 3):
        x = torch.rand(count, 3, 8, 8)
        torch.testing.assert_close(again(x), made.model(x), atol=1e-4, rtol=1e-4)
    assert json.loads(again.get_metadata()[METADATA]) == {"input_size": [3, 8, 8], "classes": list(CLASSES)}


@pytest.mark.slow
def test_a_guard_with_every_response_is_exported(tmp_path: Path) -> None:
    runtime = pytest.importorskip("onnxruntime")
    policy = Policy(responses={"patch": ("inpaint", "mask"), "noise": ("smooth", "jpeg"), "unknown": ("bit-depth",)})
    guard = toys.guard(level="raised", masks=2, policy=policy)
    session = runtime.InferenceSession(str(loradar.export(guard, tmp_path / "guard.onnx")))
    x = toys.traffic(seed=8)[1:]
    (logits,) = session.run(None, {"images": x.numpy()})
    with torch.no_grad():
        assert bool(guard.verdict(x).defended.any())
        torch.testing.assert_close(torch.from_numpy(logits), guard(x), atol=1e-3, rtol=1e-3)


def test_a_guard_in_half_precision_is_written_in_whole(places: dict[str, tuple[str, str]], tmp_path: Path) -> None:
    place = places["guard"][0]
    guard = Guard.open(place, device="cpu", precision="bf16")
    assert guard.dtype == torch.bfloat16
    path = loradar.export(guard, tmp_path / "guard.pt2")
    assert torch.bfloat16 not in {tensor.dtype for tensor in torch.export.load(path).state_dict.values()}
    again, facts = torch_export(path, "")
    model = Guard.open(place, device="cpu", precision="fp32")
    for count in (1, 3):
        x = torch.rand(count, 3, 32, 32, generator=torch.Generator().manual_seed(count))
        with torch.no_grad():
            torch.testing.assert_close(again(x), model(x), atol=1e-4, rtol=1e-4)
    assert facts == {"input_size": [3, 32, 32], "classes": list(CLASSES)}


def test_answers_that_differ_are_refused(tmp_path: Path) -> None:
    x = torch.rand(6, 3, 8, 8)
    with pytest.raises(BadConfigError, match=r"answers \d of 6 images as the model does.*not written"):
        compare(Small(), Small(), x, tmp_path / "m.onnx")


WRONG: dict[str, tuple[str, dict[str, Any], str]] = {
    "weights of a guard": ("guard", {"to": "timm"}, "several models that vote"),
    "a head that PEFT does not know": ("task", {"to": "peft"}, "PEFT would misread"),
    "int8 without images": ("resnet", {"to": "onnx-int8"}, "give --data"),
    "a suffix of another format": ("resnet", {"to": "onnx", "out": "m.pt2"}, r"expected \.onnx"),
    "a base with a base": ("base", {"to": "onnx", "base": "timm:test_resnet"}, "is taken for a base"),
    "a base as an adapter": ("base", {"to": "peft"}, "no adapter for peft"),
    "a folder that holds something": ("resnet", {"to": "timm", "out": "."}, "not an earlier export"),
}


@pytest.mark.parametrize("case", WRONG)
def test_what_cannot_be_is_one_line(
    places: dict[str, tuple[str, str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, case: str
) -> None:
    kind, changes, says = WRONG[case]
    place, own = places["resnet" if kind == "base" else kind]
    monkeypatch.chdir(tmp_path)
    Path("kept").write_text("a note")
    given = {"place": own} if kind == "base" else {"place": place, "base": own}
    with pytest.raises(loradar.LoradarError, match=says) as error:
        run(resolve(validate(ExportConfig, given | changes)))
    assert "\n" not in str(error.value)
    assert [path.name for path in tmp_path.iterdir()] == ["kept"]


def test_a_task_in_memory_is_exported(places: dict[str, tuple[str, str]], tmp_path: Path) -> None:
    model = FewShotClassifier.load(places["task"][0]).classifier_
    again = torch.export.load(loradar.export(model, tmp_path / "task.pt2", input_size=(3, 32, 32))).module()
    x = torch.rand(5, 3, 32, 32)
    with torch.no_grad():
        torch.testing.assert_close(again(x), model(x), atol=1e-4, rtol=1e-4)
