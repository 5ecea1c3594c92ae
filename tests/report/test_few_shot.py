"""Rows of few-shot tasks, their averages, and the report."""

import json
from html.parser import HTMLParser
from pathlib import Path

import pytest

from loradar.core.errors import BadConfigError, BadFileError
from loradar.report.few_shot import (
    BlendWeights,
    FewShotReport,
    FewShotRow,
    Shown,
    TaskPicture,
    averaged,
    read_few_shot_report,
)
from loradar.report.few_shot_views import ablation_chains, attack_names, compared, curves, tables
from loradar.report.writing import write_few_shot_report

PIXEL = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
ATTACKS = ["none", *(f"pgd:eps={r}" for r in (0.01, 0.02, 0.03)), "corruptions"]
FIELDS = {"method", "domain", "setting", "attack", "episodes", "mean", "half_width", "seed"}


def row(mean: float, **changes: object) -> FewShotRow:
    values = {"method": "AMT", "domain": "leaves", "setting": "5w1s", "attack": "none", "seed": 0} | changes
    return FewShotRow(**values | {"episodes": 10, "mean": mean, "half_width": 0.03})  # type: ignore[arg-type]


def report() -> FewShotReport:
    rows = [
        row(0.4 + 0.1 * (m == "AMT") - 0.05 * i, method=m, domain=d, attack=a)
        for m in ("AMT", "no tuning", "<plain>")
        for d in ("leaves", "digits")
        for i, a in enumerate(ATTACKS)
        if not (m == "<plain>" and a != "none")
    ]
    shown = Shown(picture=PIXEL, label="oak", answer="elm")
    task = TaskPicture(
        domain="leaves", setting="5w1s", method="AMT", support=(shown,), query=(shown,), weights={"a": 1.0, "b": 0.0}
    )
    return FewShotReport(
        rows=(*averaged(rows, ["leaves", "digits"], "out of domain"), *rows),
        base={"architecture": "resnet18"},
        data={"leaves": {"images": 3}},
        versions={"torch": "2"},
        ablation_chain={"adversarial query": "no tuning", "+ trimming": "AMT"},
        blends=(BlendWeights(domain="leaves", setting="5w1s", episodes=10, members={"a": 0.7, "b": 0.3}),),
        tasks=(task,),
        notes=("Read me & weep.",),
    )


def test_a_row_is_the_mean_with_its_interval() -> None:
    found = FewShotRow.of([0.2, 0.4, 0.6, 0.8], method="m", domain="d", setting="5w1s", attack="none", seed=1)
    assert found.mean == pytest.approx(0.5)
    assert found.half_width == pytest.approx(1.96 * (0.2 / 3) ** 0.5 / 2)
    assert found.episodes == 4
    with pytest.raises(BadConfigError, match="1 tasks for m on d"):
        FewShotRow.of([0.2], method="m", domain="d", setting="5w1s", attack="none", seed=1)


def test_domains_weigh_alike_and_a_hole_is_no_average() -> None:
    rows = [row(0.4), row(0.8, domain="digits"), row(0.9, method="other")]
    (mean,) = averaged(rows, ["leaves", "digits"], "out of domain")
    assert (mean.domain, mean.episodes) == ("average out of domain", 20)
    assert mean.mean == pytest.approx(0.6)
    assert mean.half_width == pytest.approx((2 * 0.03**2) ** 0.5 / 2)


def test_the_report_goes_to_disk_and_back(tmp_path: Path) -> None:
    page = write_few_shot_report(report(), tmp_path)
    values = json.loads((tmp_path / "report.json").read_text())
    assert values["schema"] == 1
    assert all(set(one) == FIELDS for one in values["rows"])
    assert read_few_shot_report(tmp_path) == report()
    assert page == tmp_path / "report.html"


def test_the_page_shows_bars_curves_heat_and_tasks(tmp_path: Path) -> None:
    text = write_few_shot_report(report(), tmp_path).read_text()
    HTMLParser().feed(text)
    assert text.count("<svg") == len(ATTACKS) + 1, "bars for each attack, and the curve over the radii"
    assert "PGD over the radius" in text
    assert "&lt;plain&gt;" in text
    assert "<plain>" not in text
    assert "is oak" in text
    assert "0.70" in text
    assert "http" not in text.replace("http://www.w3.org", "")
    markdown = (tmp_path / "report.md").read_text()
    assert "| AMT | 50.0 ± 2.1 (n = 20) |" in markdown
    assert all(line.count("|") > 2 for line in markdown.splitlines() if line.startswith("|"))


def test_views() -> None:
    one = report()
    assert compared(one) == ["AMT", "no tuning"]
    (curve, other) = curves(one, "5w1s", "Linf")
    assert [radius for radius, _ in curve.points] == [0.0, 0.01, 0.02, 0.03]
    assert other.method == "no tuning"
    assert curves(one, "5w1s", "L2") == []
    (table,) = tables(one)
    assert [domain for domain, _ in table.columns] == ["average out of domain"] * len(ATTACKS)
    assert table.best[0] is not None
    assert table.best[0].method == "AMT"
    (ablation_chain,) = ablation_chains(one)
    assert [line for line, _ in ablation_chain.lines] == ["adversarial query (no tuning)", "+ trimming (AMT)"]


@pytest.mark.parametrize("text", ["", "{}", "[]", '{"schema": 1, "rows": [{}]}', '{"schema": 2}'])
def test_a_damaged_report_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "report.json").write_text(text)
    with pytest.raises(BadFileError, match=r"report\.json"):
        read_few_shot_report(tmp_path)


def test_attacks_have_names_that_a_column_can_hold() -> None:
    attacks = [
        "pgd:eps=1/255",
        "pgd:eps=4.5/255,step_size=0.45/255",
        "pgd:norm=l2",
        *("none", "corruptions"),
    ]
    found = FewShotReport(rows=tuple(row(0.5, attack=a) for a in attacks), base={}, data={}, versions={})
    names = [
        "PGD eps=1/255 norm=linf",
        "PGD eps=4.5/255 norm=linf step_size=0.45/255",
        "PGD eps=0.5 norm=l2",
        *("clean", "corruptions"),
    ]
    assert list(attack_names(found).values()) == names
