"""Reports of schema 1 open: of a hardening job, of a guard, of few-shot tasks."""

import json
from pathlib import Path
from typing import Any

import pytest

from loradar.core.errors import BadFileError
from loradar.report.files import from_json, read_report, to_json
from loradar.report.page import render
from loradar.report.schema import Report
from loradar.report.verdict import verdicts
from tests.report.conftest import few_shot, guarding, hardening

SINCE_SCHEMA_1: dict[str, Any] = {"max_fpr": None, "alarms": [], "detections": [], "choice": None}
"""What a guard's section has got since, and what it holds where an earlier report says nothing of it."""
EXPERIMENTS = sorted(Path("experiments").rglob("report.json"))


def old(report: Report) -> dict[str, Any]:
    """The same report as schema 1 had it."""
    values: dict[str, Any] = json.loads(to_json(report)) | {"schema": 1}
    del values["created"]
    values.pop("baselines", None)
    for picture in values.get("pictures", ()):
        del picture["base_answer"]
    training = values.pop("training", {})
    values |= {{"reload_checks": "replugged"}.get(key, key): value for key, value in training.items()}
    if guard := values.pop("guard", None):
        named = guard["identification"]
        named |= {"false_alarms": named.pop("fpr95"), "error": named.pop("calibration_error")}
        values |= {key: value for key, value in guard.items() if key not in SINCE_SCHEMA_1}
    if section := values.pop("few_shot", None):
        section["ladder"] = section.pop("ablation_chain")
        del section["reference"]
        values |= section
    return values


@pytest.mark.parametrize("report", [hardening(name="roa"), guarding(), few_shot()])
def test_schema_1_is_upgraded(report: Report) -> None:
    expected = json.loads(to_json(report)) | {"created": ""}
    for picture in expected.get("pictures", ()):
        picture["base_answer"] = ""
    if expected.get("guard"):
        expected["guard"] |= SINCE_SCHEMA_1
    assert json.loads(to_json(from_json(json.dumps(old(report))))) == expected


def test_attacks_that_were_named_by_their_repr_get_their_spec() -> None:
    told = "PGD(ball=L2(radius=0.5), step=None, steps=20, restarts=1, random_start=True, loss='cross_entropy', seed=0)"
    values = old(hardening())
    for one in (*values["rows"], *values["pictures"], values["leaks"][0]["true"]):
        one["attack"] = "none" if one["attack"] == "none" else told
    values["rows"][2]["trained_against"] = told
    report = from_json(json.dumps(values))
    assert {row.attack for row in report.rows} == {"none", "pgd:norm=l2,steps=20"}
    assert report.rows[2].trained_against == report.pictures[0].attack == report.leaks[0].true.attack
    assert report.pictures[0].attack == "pgd:norm=l2,steps=20"


def test_a_leak_test_without_power_opens() -> None:
    """Reports made before the likeliest wrong labels were planted: each of their signs counted below 0.25 %."""
    values = json.loads(to_json(hardening()))
    (leak,) = values["leaks"]
    del leak["likely"], leak["power"], leak["signs"][0]["level"]
    leak["signs"][0]["p"] = 0.002
    report = from_json(json.dumps(values))
    assert report.leaks[0].verdict == "leaks"
    assert (report.leaks[0].likely, report.leaks[0].power) == ((), ())
    leak["signs"][0]["p"], leak["verdict"] = 0.003, "passes"
    passing = from_json(json.dumps(values)).leaks[0]
    assert passing.sentence == "Passes the leak test."
    assert all(render(from_json(json.dumps(values))))


@pytest.mark.parametrize("damage", [{"rows": {}}, {"rows": 3}, {"identification": [1]}, {"curves": 3}, {"cost": 1}])
def test_a_damaged_report_of_schema_1_is_refused(damage: dict[str, Any]) -> None:
    with pytest.raises(BadFileError):
        from_json(json.dumps(old(hardening()) | damage))


@pytest.mark.parametrize("file", EXPERIMENTS, ids=[file.parent.name for file in EXPERIMENTS])
def test_the_reports_of_experiments_open(file: Path) -> None:
    report = read_report(file)
    assert report.rows or report.few_shot
    assert verdicts(report)
