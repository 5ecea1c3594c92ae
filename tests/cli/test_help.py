"""Help: whole at every width, with bounds and choices, and examples that the parser takes."""

import ast
import shlex
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

import pytest
import typer
from pydantic import BaseModel

import loradar.cli
from loradar.attacks import available_attacks
from loradar.cli import main
from loradar.cli.app import app
from loradar.cli.flags import ATTACKS as LISTED
from loradar.cli.panels import panel_of
from loradar.fewshot.config import FewShotEvalConfig, FewShotFitConfig, MetaTuneConfig
from loradar.guard.config import GuardAuditConfig, GuardBuildConfig
from loradar.jobs.config import AuditConfig, CheckConfig, ExportConfig, HardenConfig, PredictConfig, PretrainConfig
from loradar.serve.config import ServeConfig

SCHEMAS: dict[str, type[BaseModel]] = {
    "pretrain": PretrainConfig,
    "harden": HardenConfig,
    "audit": AuditConfig,
    "check": CheckConfig,
    "predict": PredictConfig,
    "export": ExportConfig,
    "meta-tune": MetaTuneConfig,
    "few-shot eval": FewShotEvalConfig,
    "few-shot fit": FewShotFitConfig,
    "guard build": GuardBuildConfig,
    "guard audit": GuardAuditConfig,
    "serve": ServeConfig,
}


def commands(group: Any = None, path: tuple[str, ...] = ()) -> Iterator[tuple[str, Any]]:
    """Every command and group below `group`, with the words that call it."""
    group = group or typer.main.get_command(app)
    yield " ".join(path), group
    for name, command in getattr(group, "commands", {}).items():
        yield from commands(command, (*path, name))


ALL = dict(commands())


def help_of(command: str, width: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> str:
    monkeypatch.setenv("COLUMNS", str(width))
    monkeypatch.setattr(sys, "argv", ["loradar", *command.split(), "--help"])
    with pytest.raises(SystemExit) as stopped:
        main()
    assert stopped.value.code == 0
    return capsys.readouterr().out


@pytest.mark.parametrize("width", [60, 80])
@pytest.mark.parametrize("command", ALL)
def test_help_fits_and_is_whole(
    command: str, width: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    shown = help_of(command, width, monkeypatch, capsys)
    assert max(len(line) for line in shown.splitlines()) <= width
    assert "…" not in shown
    words = shown.replace("\\\n", " ").split()
    for parameter in ALL[command].params:
        if parameter.param_type_name == "option":
            assert all(flag in words for flag in parameter.opts)
        # no word of the description is lost
        assert "".join((parameter.help or "").split()) in "".join(words)
    assert "".join(ALL[command].epilog.split()) in "".join(words)


@pytest.mark.parametrize("command", [name for name, found in ALL.items() if not hasattr(found, "commands")])
def test_the_example_is_a_command_that_the_parser_and_the_schema_take(command: str) -> None:
    name, *words = shlex.split(ALL[command].epilog)
    assert name == "loradar"
    assert words[: len(command.split())] == command.split()
    context = ALL[command].make_context(command, words[len(command.split()) :])
    if command in SCHEMAS:
        given = {key: value for key, value in context.params.items() if value and key in SCHEMAS[command].model_fields}
        SCHEMAS[command](**given)


@pytest.mark.parametrize("command", SCHEMAS)
def test_every_field_is_a_flag_with_its_bounds_and_choices(command: str) -> None:
    schema = SCHEMAS[command]
    parameters = {parameter.name: parameter for parameter in ALL[command].params}
    for key, field in schema.model_fields.items():
        text = parameters[key].help
        assert field.description in text
        if field.is_required():
            assert "required" in text
        if "list" in str(field.annotation):
            assert "may be repeated" in text
        if "Literal" in str(field.annotation):
            first, *_ = get_args(field.annotation) if "list" not in str(field.annotation) else ("",)
            # of a setting that may be left out, the first of its choices
            assert str(next(iter(get_args(first)), first)) in text
        for part in field.metadata:
            bound = next((getattr(part, name) for name in ("ge", "gt", "le", "lt") if hasattr(part, name)), None)
            if bound is not None:
                assert f"{bound:g}" in text
        if parameters[key].param_type_name == "option":
            assert panel_of(key) or key == "top", f"{key} stands in no section of the help"


def test_bounds_read_as_words() -> None:
    texts = {parameter.name: parameter.help for parameter in ALL["harden"].params}
    assert texts["rank"].endswith("[default: <=16]")
    assert texts["epochs"].endswith("[1 or more; default: 8]")
    assert texts["momentum"].endswith("[0 to below 1; default: 0.9]")
    assert texts["learning_rate"].endswith("[above 0; default: 0.004]")
    assert texts["init"].endswith("[random, zeros or svd; default: random]")
    assert texts["lora_alpha"].endswith("[above 0]")
    assert texts["size"].endswith("[N or HEIGHTxWIDTH]")
    assert texts["max_bytes"].endswith("[bytes, kB, MB, KiB or MiB]")
    guard = {parameter.name: parameter.help for parameter in ALL["guard build"].params}
    assert guard["max_fpr"].endswith("[above 0, below 0.5; default: 0.01]")
    assert guard["abstain"].endswith("[0 to 1; default: 0.0]")


def test_the_help_lists_the_attacks_that_there_are() -> None:
    assert set(LISTED) <= set(available_attacks())
    attacks = next(p for p in ALL["harden"].params if p.name == "attacks")
    assert all(name in attacks.help for name in LISTED)


def test_everything_is_printed_through_one_module() -> None:
    """So that no command reads markup in what users named: see `printing`."""
    for path in sorted(Path(loradar.cli.__file__).parent.glob("*.py")):
        if path.name == "printing.py":
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call):
                called = ast.unparse(node.func)
                assert called not in ("print", "Console", "Table", "rich.print", "sys.stdout.write"), path
                assert not called.endswith(("from_markup", ".rule", ".log")), path
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("rich"):
                assert not {alias.name for alias in node.names} & {"Table", "print", "Panel"}, path
