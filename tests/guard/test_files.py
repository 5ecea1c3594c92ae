"""A guard on disk: what is read is what was written, and damage is said."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from loradar.core.errors import BadFileError
from loradar.guard.files import GuardRecord, read_guard, save_guard
from loradar.guard.guard import Guard
from loradar.guard.policy import Policy
from tests.guard import toys


@pytest.fixture(scope="module")
def guard() -> Guard:
    return toys.guard(policy=Policy(responses={"patch": ("mask", "smooth")}), abstain=0.3)


def record(guard: Guard) -> GuardRecord:
    return GuardRecord(
        settings=guard.settings,
        base="runs/base",
        base_fingerprint="ab" * 32,
        attacks={"patch": "roa", "noise": "pgd:steps=3"},
        adapters={"patch": "1", "noise": "2"},
        costs={"trunk": 0.4, "base": 0.6, "patch": 0.6, "noise": 0.6},
        data={"count": 24},
        digests=("00", "ff"),
    )


def test_what_is_read_is_what_was_written(guard: Guard, tmp_path: Path) -> None:
    save_guard(tmp_path, record(guard), guard.identifier, guard.gate)
    found, identifier, gate = read_guard(tmp_path)
    assert found == record(guard)
    for ours, theirs in ((guard.identifier, identifier), (guard.gate, gate)):
        assert all(torch.equal(a, b) for a, b in zip(ours.buffers(), theirs.buffers(), strict=True))


def changed(key: str, value: object) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        content = json.loads((folder / "guard.json").read_text())
        content[key] = value
        (folder / "guard.json").write_text(json.dumps(content))

    return change


def short(folder: Path) -> None:
    file = folder / "guard.safetensors"
    file.write_bytes(file.read_bytes()[:-4])


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        (lambda folder: (folder / "guard.json").unlink(), "cannot read"),
        (lambda folder: (folder / "guard.json").write_text("{"), "is not JSON"),
        (changed("schema", 1), "another schema"),
        (changed("costs", "much"), "is damaged: costs"),
        (short, "truncated or changed"),
    ],
)
def test_damage_is_said(guard: Guard, tmp_path: Path, damage: Callable[[Path], None], says: str) -> None:
    save_guard(tmp_path, record(guard), guard.identifier, guard.gate)
    damage(tmp_path)
    with pytest.raises(BadFileError, match=says):
        read_guard(tmp_path)
