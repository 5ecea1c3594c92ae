"""Rows of few-shot tasks, their averages, and the tables and curves made of them."""

import dataclasses

import pytest

from loradar.core.errors import BadConfigError
from loradar.report.few_shot import FewShotRow, FewShotSection, averaged
from loradar.report.measured import attack_names
from loradar.report.page import render
from loradar.report.views import ablation_tables, compared, domain_tables, eps_curves, method_tables
from tests.report.conftest import ATTACKS, few_shot
from tests.report.conftest import few_shot_row as row


def section() -> FewShotSection:
    found = few_shot().few_shot
    assert found is not None
    return found


def test_a_row_is_the_mean_with_its_interval() -> None:
    found = FewShotRow.of([0.2, 0.4, 0.6, 0.8], method="m", domain="d", setting="5w1s", attack="none", seed=1)
    assert found.mean == pytest.approx(0.5)
    # three degrees of freedom: 3.182 standard errors, not 1.96
    assert found.half_width == pytest.approx(3.1824 * (0.2 / 3) ** 0.5 / 2, rel=1e-4)
    assert found.episodes == 4
    with pytest.raises(BadConfigError, match="1 tasks for m on d"):
        FewShotRow.of([0.2], method="m", domain="d", setting="5w1s", attack="none", seed=1)


def test_domains_weigh_alike_and_a_hole_is_no_average() -> None:
    rows = [row(0.4), row(0.8, domain="digits"), row(0.9, method="other")]
    (mean,) = averaged(rows, ["leaves", "digits"], "out of domain")
    assert (mean.domain, mean.episodes) == ("average out of domain", 20)
    assert mean.mean == pytest.approx(0.6)
    assert mean.half_width == pytest.approx((2 * 0.03**2) ** 0.5 / 2)


def test_views() -> None:
    one = section()
    assert compared(one) == ["AMT", "no tuning"]
    lines = eps_curves(one, "5w1s", "linf")
    assert list(lines) == ["AMT", "no tuning"]
    assert [round(eps * 255, 6) for eps, _ in lines["AMT"]] == [0, 2, 4, 6]
    assert eps_curves(one, "5w1s", "l2") == {}
    (table,) = method_tables(one)
    assert [domain for domain, _ in table.columns] == ["average out of domain"] * len(ATTACKS)
    assert [name for name, _ in table.lines] == ["AMT", "no tuning"]
    assert [name for name, _ in table.others] == ["<plain>"]
    assert table.best[0] is not None
    assert table.best[0].method == "AMT"
    (chain,) = ablation_tables(one)
    assert [line for line, _ in chain.lines] == ["adversarial query (no tuning)", "+ trimming (AMT)"]


def test_the_untuned_base_stands_beside_the_full_method_however_many_others_there_are() -> None:
    names = ["AMT", *(f"AMT, robust {at}" for at in range(5)), "no tuning", "no tuning, ridge head"]
    rows = tuple(row(0.5, method=name, attack=attack) for name in names for attack in ("none", ATTACKS[1]))
    one = dataclasses.replace(section(), rows=rows, untuned="no tuning, ridge head")
    assert compared(one) == ["AMT", "no tuning, ridge head", "no tuning", "AMT, robust 0", "AMT, robust 1"]


def test_differences_have_signs_and_a_place_to_jump_to() -> None:
    report = few_shot()
    less = (row(-0.05, domain="average out of domain"), row(0.12, domain="average out of domain", attack=ATTACKS[1]))
    shown = dataclasses.replace(section(), untuned="no tuning", differences=less)
    markdown, page = render(dataclasses.replace(report, few_shot=shown))
    for text in (markdown, page):
        assert "Differences from no tuning" in text
        assert "-5.0 ±" in text
        assert "+12.0 ±" in text
    assert 'href="#differences"' in page
    assert "#differences" not in render(report)[1]


def test_every_figure_stands_in_one_cell() -> None:
    one = section()
    cells = [cell for table in domain_tables(one) for _, line in table.lines + table.others for cell in line if cell]
    assert sorted(cells, key=repr) == sorted(one.rows, key=repr)


@pytest.mark.parametrize(
    ("attack", "norm", "eps"),
    [
        ("pgd:eps=4/255", "linf", 4 / 255),
        ("pgd:eps=0.5,norm=l2", "l2", 0.5),
        ("pgd:eps=0.5,norm=l2", "linf", None),
        ("roa:height=5", "linf", None),
        ("pgd", "linf", 8 / 255),
        ("pgd:norm=l2", "l2", 0.5),
    ],
)
def test_eps_is_read_from_the_attack(attack: str, norm: str, eps: float | None) -> None:
    average = "average out of domain"
    rows = [row(0.5, attack=a, domain=average) for a in ("none", "pgd:eps=7/255", "pgd:eps=7,norm=l2", attack)]
    lines = eps_curves(dataclasses.replace(section(), rows=tuple(rows)), "5w1s", norm)
    measured = 7 / 255 if norm == "linf" else 7.0
    assert [value for value, _ in lines.get("AMT", ())] == ([] if eps is None else sorted([0, measured, eps]))


def test_attacks_have_names_that_a_column_can_hold() -> None:
    assert list(attack_names(["pgd", "pgd:step_size=1/255"]).values()) == ["PGD", "PGD step_size=1/255"]
    attacks = ["pgd:eps=1/255", "pgd:eps=4.5/255,step_size=0.45/255", "none", "corruptions", "union:attacks=3"]
    names = ["PGD eps=1/255", "PGD eps=4.5/255", "clean", "corruptions", "all attacks together"]
    assert list(attack_names(attacks).values()) == names


def test_the_pages_show_bars_curves_weights_and_tasks() -> None:
    markdown, page = render(few_shot())
    assert page.count("<svg") == len(ATTACKS) + 1, "bars for each attack, and the curve over eps"
    for words in ("PGD over eps", "is oak", "0.70", "45.0 ★"):
        assert words in page
    assert "| AMT | 50.0 ± 2.1 (20) |" in markdown
