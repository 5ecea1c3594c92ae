"""What the pages show: commands that the parser and the schemas take, and Python that runs."""

import re
import shlex
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import loradar
from loradar.attacks import BaseAttack, parse_attack, register, registry
from loradar.attacks.settings import count, seed_setting
from loradar.core.types import Traits
from tests.cli.test_help import ALL, SCHEMAS
from tests.guard import built
from tests.serve.conftest import make_guard

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
START = re.compile(r"^    (?:\w+=\S+ )*(loradar .*)$", flags=re.MULTILINE)
SHELL = re.compile(r"^%%sh.*\n([^`]*)```$", flags=re.MULTILINE)


def commands() -> list[tuple[str, str]]:
    """Page and command, with continued lines joined and without comments and what a shell does with the output."""
    found = []
    for page in PAGES:
        text = re.sub(r"\\\n\s*", "", page.read_text())
        ran = [line for cell in SHELL.findall(text) for line in cell.splitlines() if line.startswith("loradar ")]
        found += [(page.name, re.sub(r"\s[#>].*", "", command).strip()) for command in START.findall(text) + ran]
    return found


def blocks(page: str) -> list[str]:
    return re.findall(r"```python\n(.*?)```", (ROOT / "docs" / page).read_text(), flags=re.DOTALL)


@pytest.mark.parametrize(("page", "command"), commands())
def test_a_command_is_one_that_the_parser_and_the_schema_take(page: str, command: str) -> None:
    words = shlex.split(command)[1:]
    name = max((one for one in ALL if words[: len(one.split())] == one.split()), key=len, default=None)
    assert name is not None, (page, command)
    context = ALL[name].make_context(name, words[len(name.split()) :])
    if name in SCHEMAS:
        given = {key: value for key, value in context.params.items() if value and key in SCHEMAS[name].model_fields}
        SCHEMAS[name](**given)


def test_there_are_commands() -> None:
    assert len(commands()) > 40
    assert len([page for page, _ in commands() if page == "folder-to-server.md"]) == 7


def test_no_block_of_python_comes_without_a_test() -> None:
    shown = {str(page.relative_to(ROOT)): page.read_text().count("```python") for page in PAGES}
    ran = {"README.md": 1, "docs/attacks.md": 1, "docs/guard.md": 1, "docs/integrity.md": 1}
    # tests/integrations/test_attacks.py runs the first; of the others, which need a hub and a server, the calls are made in
    # tests/test_hub.py, tests/serve/test_client.py and test_process.py, not as they stand
    elsewhere = {"docs/how-to/other-libraries.md": 4, "docs/hub.md": 1, "docs/serving.md": 2}
    assert {name: number for name, number in shown.items() if number} == ran | elsewhere


def run(code: str, **names: Any) -> dict[str, Any]:
    exec(compile(code, "<page>", "exec"), names)  # the page is what is tested
    return names


def test_an_attack_of_ones_own() -> None:
    known: dict[str, Any] = {"BaseAttack": BaseAttack, "register": register, "Traits": Traits, "dataclass": dataclass}
    try:
        run(*blocks("attacks.md"), count=count, seed_setting=seed_setting, **known)
        x = torch.rand(2, 3, 8, 8)
        attack = parse_attack("blink:times=1")
        assert torch.equal(attack(torch.nn.Identity(), x, torch.zeros(2)), x)
    finally:
        registry._ATTACKS.pop("blink", None)


@pytest.fixture
def place(base_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with runs/guard and runs/adapter, as the one that is worked in."""
    roa, fast = (built.adapter(base_folder, tmp_path / "adapters", name) for name in ("roa", "fast"))
    adapters = {"patch": loradar.load(roa), "noise": loradar.load(fast)}
    (tmp_path / "runs").mkdir()
    make_guard(base_folder, adapters, tmp_path / "runs" / "guard")
    roa.rename(tmp_path / "runs" / "adapter")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("kind", [torch.Tensor, np.asarray], ids=["tensor", "array"])
def test_a_guard_in_python(place: Path, kind: Callable[[Any], Any]) -> None:
    x = torch.rand(3, 3, 32, 32)
    (code,) = blocks("guard.md")
    if kind is not torch.Tensor:
        code = code.replace("guard(x)", "guard(torch.from_numpy(x))")
    found = run(code, x=x if kind is torch.Tensor else x.numpy(), torch=torch)
    assert found["logits"].shape == (3, 10)
    assert loradar.Guard.open(place / "runs" / "cautious").predict(x).shape == (3,)


def test_a_signed_guard_and_adapter(place: Path) -> None:
    pytest.importorskip("cryptography", reason="cryptography, of the extra 'sign', is not installed")
    from loradar.core.signing import make_keys
    from loradar.jobs.signing import sign_folder

    make_keys(place / "loradar-key")
    sign_folder(place / "runs" / "adapter", place / "loradar-key")
    found = run(*blocks("integrity.md"), loradar=loradar)
    assert found["guard"].predict(torch.rand(1, 3, 32, 32)).shape == (1,)
    assert found["adapter"].card.name == "roa"
