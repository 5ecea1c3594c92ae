"""`loradar report FOLDER`: pages again out of report.json, the verdicts printed as they stand there."""

import json
import sys
from pathlib import Path

import pytest

from loradar.cli import main
from loradar.report.files import to_json, write_report
from loradar.report.verdict import verdicts
from tests.report.conftest import hardening


def loradar(monkeypatch: pytest.MonkeyPatch, *args: str | Path) -> int:
    monkeypatch.setattr(sys, "argv", ["loradar", *map(str, args)])
    monkeypatch.setenv("COLUMNS", "80")
    with pytest.raises(SystemExit) as left:
        main()
    return int(left.value.code or 0)


@pytest.mark.parametrize("name", ["roa", "[red]:smile:", "$^$"])
def test_pages_are_rendered_again(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path, name: str
) -> None:
    report = hardening(name)
    page = write_report(report, tmp_path)
    before = page.read_text()
    page.unlink()
    assert loradar(monkeypatch, "report", tmp_path) == 0
    assert page.read_text() == before
    said = capsys.readouterr().out
    assert str(page) in said
    assert all(verdict.text in said for verdict in verdicts(report))


def test_a_file_may_be_named_and_json_be_asked_for(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    (tmp_path / "report.json").write_text(to_json(hardening()))
    assert loradar(monkeypatch, "report", tmp_path / "report.json", "--json") == 0
    found = json.loads(capsys.readouterr().out)
    assert found["report"] == str(tmp_path / "report.html")
    assert [one["level"] for one in found["verdicts"]] == ["not", "not", "unknown"]
    assert (tmp_path / "report.html").exists()


@pytest.mark.parametrize("text", [None, "{", '{"schema": 7}'])
def test_what_is_no_report_is_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path, text: str | None
) -> None:
    if text is not None:
        (tmp_path / "report.json").write_text(text)
    assert loradar(monkeypatch, "report", tmp_path) == 2
    said = capsys.readouterr().err
    assert "report.json" in said
    assert said.count("\n") == 1
