import dataclasses
import errno
import json
from pathlib import Path
from typing import Any

import pytest
import torch

from loradar.core.errors import BadConfigError, BadFileError
from loradar.report.files import from_json, read_report, to_json, write_pages, write_report
from loradar.report.schema import Point, Report
from tests.evaluation.toys import row


def bare() -> Report:
    return Report(rows=(row("base", "none", "clean", 455),), base={}, data={}, versions={}, created="2025-01-31")


def test_the_fixed_form() -> None:
    values = json.loads(to_json(bare()))
    low, high = values["rows"][0].pop("low"), values["rows"][0].pop("high")
    assert 0.88 < low < 0.91 < high < 0.94
    figures = {"model": "base", "attack": "none", "threat": "clean", "correct": 455, "total": 500, "seed": 0}
    figures["trained_against"] = figures["effort"] = ""
    first = {"schema": 2, "title": "Robustness report", "created": "2025-01-31"}
    assert values == first | {"rows": [figures], "base": {}, "data": {}, "versions": {}}
    assert list(values) == ["schema", "title", "created", "rows", "base", "data", "versions"]


def test_a_report_comes_back_as_it_was(every_report: Report, tmp_path: Path) -> None:
    page = write_report(every_report, tmp_path / "run")
    assert page == tmp_path / "run" / "report.html"
    assert {path.name for path in page.parent.iterdir()} == {"report.json", "report.md", "report.html"}
    assert read_report(tmp_path / "run") == read_report(tmp_path / "run" / "report.json") == every_report


def test_a_report_has_the_date_of_its_figures(report: Report, tmp_path: Path) -> None:
    assert Report(rows=(), base={}, data={}, versions={}).created.endswith("+00:00")
    write_report(report, tmp_path)
    write_report(dataclasses.replace(report, created="2030-01-01"), tmp_path)
    assert read_report(tmp_path).created == report.created
    write_report(dataclasses.replace(report, created="2030-01-01", notes=("other",)), tmp_path)
    assert read_report(tmp_path).created == "2030-01-01"


def test_pages_are_written_again(report: Report, tmp_path: Path) -> None:
    page = write_report(report, tmp_path)
    before = {name: (tmp_path / name).read_bytes() for name in ("report.json", "report.md", "report.html")}
    page.unlink()
    (tmp_path / "report.md").write_text("old")
    assert write_pages(read_report(tmp_path), tmp_path) == page
    assert {name: (tmp_path / name).read_bytes() for name in before} == before


def test_writing_again_keeps_the_other_files(report: Report, tmp_path: Path) -> None:
    (tmp_path / "adapter_model.safetensors").write_bytes(b"kept")
    write_report(report, tmp_path)
    write_report(bare(), tmp_path)
    assert (tmp_path / "adapter_model.safetensors").read_bytes() == b"kept"
    assert read_report(tmp_path) == bare()


def test_a_full_disk_leaves_the_old_report(report: Report, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_report(report, tmp_path)

    def full(_descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(BadFileError, match="No space left"):
        write_report(bare(), tmp_path)
    assert read_report(tmp_path) == report
    assert len(list(tmp_path.iterdir())) == 3


def change(values: Any, path: str, value: object) -> str:
    *keys, last = (int(key) if key.isdigit() else key for key in path.split("."))
    place = values
    for key in keys:
        place = place[key]
    place[last] = value
    return json.dumps(values)


@pytest.mark.parametrize(
    ("path", "value", "said"),
    [
        ("schema", 3, "schema 3; this version reads 1 and 2"),
        ("rows.0.correct", 501, "rows.0"),
        ("rows.0.threat", "white-box", "rows.0.threat"),
        ("rows.0.total", "many", "rows.0.total"),
        ("rows.0.low", 0.99, "rows.0"),
        ("rows", {}, "rows"),
        ("leaks.0.verdict", "passes", "leaks.0"),
        ("checks.0.passed", "perhaps", "checks.0.passed"),
        ("training.curves.0.points.0.clean", 101, "training.curves.0.points.0"),
    ],
)
def test_a_damaged_report_is_refused_with_the_place(report: Report, path: str, value: object, said: str) -> None:
    with pytest.raises(BadFileError, match=said):
        from_json(change(json.loads(to_json(report)), path, value))


@pytest.mark.parametrize(
    "text", ["", "{", "[]", "null", "{}", "[" * 100_000, '{"schema": 1, "rows": [{}]}', '{"schema": 2}']
)
def test_what_is_no_report_is_refused(text: str) -> None:
    with pytest.raises(BadFileError):
        from_json(text)


def test_a_report_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BadFileError, match=r"could not read .*report\.json"):
        read_report(tmp_path)
    (tmp_path / "report.json").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(BadFileError, match="is no report"):
        read_report(tmp_path)


def test_what_json_cannot_hold_is_refused() -> None:
    with pytest.raises(BadConfigError, match="JSON cannot"):
        to_json(dataclasses.replace(bare(), settings={"weights": torch.ones(2)}))


def test_a_point_counts_no_more_than_there_are() -> None:
    with pytest.raises(BadConfigError, match="epoch 3"):
        Point(epoch=3, clean=5)
    with pytest.raises(BadConfigError, match="epoch 3"):
        Point(epoch=3, clean=5, adversarial=9, total=8)


def test_a_report_of_before_batteries_opens(report: Report) -> None:
    values = json.loads(to_json(report))
    del values["batteries"]
    for old in (*values["rows"], *values["training"]["last_epoch"]):
        del old["effort"]
    again = from_json(json.dumps(values))
    assert {one.effort for one in again.rows} == {""}
    assert again.batteries == ()
    assert again.rows[0].knowledge == "clean"
