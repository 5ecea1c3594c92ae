"""Every command on another device than the processor: one that is pretended, and a GPU where there is one."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from loradar.adapters import verify
from loradar.core.names import ADAPTER_CONFIG
from loradar.models import load_base
from tests.faults.works import COMMANDS, WORKS

FEW = ("harden", "meta-tune")
OTHERS = tuple(name for name in COMMANDS if name not in FEW)
ON_THE_PROCESSOR = {"guard build": 20}
"""What computes there by design: a guard learns its policy from answers that it has gathered."""


@pytest.mark.parametrize("names", [FEW, pytest.param(OTHERS, marks=pytest.mark.slow)], ids=["few", "others"])
def test_computes_on_the_device_alone_and_the_same(names: tuple[str, ...], tmp_path: Path) -> None:
    run = [sys.executable, "-m", "tests.pretend", str(tmp_path), *names]
    printed = subprocess.run(run, capture_output=True, text=True, check=False)
    assert printed.returncode == 0, printed.stderr[-3000:]
    found = {one["command"]: one for one in map(json.loads, printed.stdout.splitlines())}
    assert found.keys() == set(names)
    for name, one in found.items():
        assert one["there"] > 50, name
        assert one.get("here", 0) <= ON_THE_PROCESSOR.get(name, 0), name
        assert one["files"] or name == "few-shot eval", name  # which writes a report alone
        assert one["same"], name


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU here")
def test_runs_on_a_gpu(tmp_path: Path) -> None:
    WORKS["inputs"](tmp_path / "inputs")
    base = load_base(str(tmp_path / "inputs" / "base")).model
    for name, run in COMMANDS.items():
        run(tmp_path / "inputs", tmp_path / "there" / name)
    made = [one.parent for one in (tmp_path / "there").rglob(ADAPTER_CONFIG) if "few-shot fit" not in one.parts]
    assert made
    assert not [said for folder in made for said in verify(folder, base)]
