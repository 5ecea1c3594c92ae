"""The ten lines of the README run as they stand there, and its commands exist."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import loradar
from loradar.models import new_base, save_base

README = Path(__file__).parents[1] / "README.md"


def test_the_ten_lines_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("onnxruntime")
    pytest.importorskip("pyautoattack")
    (code,) = re.findall(r"```python\n(.*?)```", README.read_text(), flags=re.DOTALL)
    classes = [str(i) for i in range(10)]
    base = new_base("timm:test_resnet", num_classes=10, input_size=(3, 32, 32), classes=classes, seed=1)
    save_base(tmp_path / "runs/demo/base", base)
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {}
    exec(compile(code, str(README), "exec"), names)  # the README is what is tested
    assert "base" in capsys.readouterr().out
    assert set(names["result"]) == {"pgd", "roa"}  # type: ignore[call-overload]
    assert [row.threat for row in names["rows"]] == ["clean", "adaptive"]  # type: ignore[attr-defined]
    assert loradar.load("runs/mine/pgd").card.name == "pgd"
    assert names["task"].predict(names["x"][:3]).shape == (3,)  # type: ignore[attr-defined,index]
    assert Path("runs/mine/model.onnx").stat().st_size > 1000
    # the base that everything was made from is as it was
    again = loradar.load_base("runs/demo/base").model.state_dict()
    assert all(torch.equal(tensor, again[name]) for name, tensor in base.model.state_dict().items())


def test_the_readme_is_short_and_its_commands_exist() -> None:
    text = README.read_text()
    assert len(text.splitlines()) <= 150
    named = set(re.findall(r"^    loradar ([a-z-]+)", text, flags=re.MULTILINE))
    known = subprocess.run(
        [sys.executable, "-m", "loradar", "--help"], capture_output=True, text=True, check=True
    ).stdout
    assert named
    assert all(re.search(rf"\b{name}\b", known) for name in named)


def test_links_lead_somewhere() -> None:
    for target in re.findall(r"\]\(([^)#]+)\)", README.read_text()):
        assert target.startswith("http") or (README.parent / target).exists(), target
