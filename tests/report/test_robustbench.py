"""RobustBench's JSON out of reports: the published one through the command, and what is refused."""

import dataclasses
import json
import sys
from pathlib import Path

import pytest

from loradar.adapters import save
from loradar.cli import main
from loradar.core.errors import BadConfigError, BadFileError
from loradar.evaluation import MemberResult
from loradar.report.files import read_report, write_report
from loradar.report.robustbench import Paper, robustbench_entry
from loradar.report.schema import Report
from tests.adapters.tiny import resnet, trained
from tests.report.conftest import hardening

PUBLISHED = Path("experiments/hardening/stock-strong-seed0")
FIELDS = [
    *("link", "name", "authors", "additional_data", "number_forward_passes", "dataset", "venue", "architecture", "eps"),
    *("clean_acc", "reported", "autoattack_acc", "footnote", "unreliable"),
]


@pytest.fixture(scope="module")
def published() -> Report:
    return read_report(PUBLISHED)


def card(monkeypatch: pytest.MonkeyPatch, *arguments: str | Path) -> int:
    monkeypatch.setattr(sys, "argv", ["loradar", "card", *map(str, arguments)])
    monkeypatch.setenv("COLUMNS", "40")
    with pytest.raises(SystemExit) as left:
        main()
    return int(left.value.code or 0)


def with_battery(report: Report, **changes: object) -> Report:
    """The report with `changes` in the adapter's battery, the base's left out."""
    (one,) = [each for each in report.batteries if each.model != "base"]
    return dataclasses.replace(report, batteries=(dataclasses.replace(one, **changes),))  # type: ignore[arg-type]


def test_the_published_report_as_an_entry(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    assert card(monkeypatch, PUBLISHED, "--robustbench", "--title", "A title", "--no-additional-data") == 0
    said = capsys.readouterr().out
    entry = json.loads(said)
    assert list(entry) == FIELDS
    filled = {"name": "A title", "dataset": "cifar10", "eps": "8/255", "architecture": "resnet18 with adapter"}
    assert entry.items() >= filled.items()
    assert (entry["clean_acc"], entry["reported"], entry["autoattack_acc"]) == ("63.40", "32.60", "32.60")
    assert (entry["link"], entry["authors"], entry["venue"]) == ("", "", "")
    assert (entry["additional_data"], entry["unreliable"], entry["number_forward_passes"]) == (False, False, 1)
    assert "500 images of cifar10/test, not on RobustBench's 10,000" in entry["footnote"]
    assert "robust accuracy is 28.6-36.8 %, of the clean accuracy 59.1-67.5 %" in entry["footnote"]
    assert "AutoAttack alone was not measured" in entry["footnote"]
    options = ("--title", "A title", "--no-additional-data", "--out", tmp_path / "entry.json")
    assert card(monkeypatch, PUBLISHED / "report.json", "--robustbench", "--model", "pgd", *options) == 0
    assert (tmp_path / "entry.json").read_text() == said
    assert capsys.readouterr().out == ""


def test_autoattack_that_met_every_image_has_a_figure_of_its_own(published: Report) -> None:
    found = MemberResult(name="AutoAttack", attack="autoattack", crafted_on="", tried=317, broke=150)
    more = MemberResult(name="Smooth", attack="smooth", crafted_on="", tried=167, broke=4)
    report = with_battery(published, attack="autoattack", members=(found, more))
    rows = tuple(
        dataclasses.replace(row, attack="autoattack") if row.threat == "adaptive" and row.model == "pgd" else row
        for row in report.rows
    )
    entry = robustbench_entry(dataclasses.replace(report, rows=rows), Paper())
    assert (entry["autoattack_acc"], entry["external"], entry["reported"]) == ("33.40", "32.60", "32.60")
    assert (
        "autoattack_acc is AutoAttack alone. The worst, image by image, over AutoAttack, Smooth, each"
        in entry["footnote"]
    )


def test_the_base_by_name_and_what_was_not_passed(published: Report) -> None:
    entry = robustbench_entry(published, Paper(), model="base")
    assert (entry["architecture"], entry["clean_acc"], entry["reported"]) == ("resnet18", "85.60", "0.00")
    failed = tuple(dataclasses.replace(check, passed=False) for check in published.checks)
    entry = robustbench_entry(dataclasses.replace(published, checks=failed), Paper())
    assert entry["unreliable"]
    assert "Check not passed: more steps do not help the defender" in entry["footnote"]


def test_transfer_is_never_taken(published: Report) -> None:
    rows = tuple(row for row in published.rows if row.threat != "adaptive")
    with pytest.raises(BadFileError, match="leaves 163 of 500 images, but no row says so"):
        robustbench_entry(dataclasses.replace(published, rows=rows), Paper())
    adaptive_alone = tuple(row for row in published.rows if row.threat != "transfer")
    entry = robustbench_entry(dataclasses.replace(published, rows=adaptive_alone), Paper())
    assert entry == robustbench_entry(published, Paper())


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        (
            {"effort": "standard"},
            r"no adaptive figure with AutoAttack in a battery of full effort \(its efforts: standard\)",
        ),
        ({"members": ()}, "no adaptive figure with AutoAttack"),
        ({"attack": "pgd:eps=4/255"}, "no adaptive figure with AutoAttack"),
        ({"attack": "pgd+roa"}, "no adaptive figure with AutoAttack"),
    ],
)
def test_a_battery_without_autoattack_is_refused(published: Report, changes: dict[str, object], says: str) -> None:
    with pytest.raises(BadConfigError, match=says):
        robustbench_entry(with_battery(published, **changes), Paper())


def test_what_has_no_leaderboard_is_refused(published: Report) -> None:
    with pytest.raises(BadConfigError, match="no leaderboard for leaves linf; it has cifar10 linf, cifar10 l2"):
        robustbench_entry(dataclasses.replace(published, data={"source": "path/to/leaves"}), Paper())
    with pytest.raises(BadConfigError, match="RobustBench's imagenet linf is at eps 4/255, this figure at 8/255"):
        robustbench_entry(dataclasses.replace(published, data={"source": "imagenet"}), Paper())


def test_names_that_are_not_there(published: Report) -> None:
    with pytest.raises(BadConfigError, match="no such figure of 'roa'; give --model, one of: base, pgd"):
        robustbench_entry(published, Paper(), model="roa")
    with pytest.raises(BadConfigError, match="under no attack 'roa'; give --attack, one of: pgd:steps=50"):
        robustbench_entry(published, Paper(), attack="roa")
    assert robustbench_entry(published, Paper(), attack="pgd") == robustbench_entry(published, Paper())


def test_the_command_refuses_in_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    def line(*arguments: str | Path) -> str:
        assert card(monkeypatch, *arguments) == 2
        found = capsys.readouterr()
        assert (found.out, found.err.count("\n")) == ("", 1)
        return found.err

    write_report(hardening(), tmp_path)
    assert "--attacks autoattack --effort full" in line(tmp_path, "--robustbench")
    adapter = save(trained(resnet(), "conv1"), tmp_path / "adapter")
    assert "its card does not say which attacks its figures met" in line(adapter, "--robustbench")
    assert "'pgd' is for RobustBench alone" in line(adapter, "--attack", "pgd")
    assert "nothing that loradar wrote" in line(tmp_path)


def test_without_the_flag_it_is_the_card_that_push_would_write(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    adapter = save(trained(resnet(), "conv1"), tmp_path / "mine")
    before = (adapter / "README.md").read_text()
    assert card(monkeypatch, adapter) == 0
    said = capsys.readouterr().out
    assert said.startswith("---\n")
    assert 'loradar.plug("YOUR/BASE", "hub:OWNER/mine")' in said
    assert (adapter / "README.md").read_text() == before
