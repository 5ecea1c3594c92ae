import dataclasses
from typing import get_args

from loradar.core.config import Effort
from loradar.evaluation import AccuracyResult
from loradar.evaluation.names import labels
from loradar.report.schema import ReloadCheck, Report, Training
from loradar.report.views import cards, heats, warnings_of
from tests.evaluation.toys import row
from tests.report.conftest import hardening


def plain(*rows: AccuracyResult) -> Report:
    return Report(rows=rows, base={}, data={}, versions={})


def test_a_card_shows_the_kind_it_was_trained_against_and_the_lowest_of_several() -> None:
    own = "ROA(restarts=1, steps=30)"
    report = plain(
        row("m", "none", "clean", 450, own),
        row("m", "ROA(restarts=1)", "adaptive", 230, own),
        row("m", "ROA(restarts=10)", "adaptive", 190, own),
        row("m", "FIA()", "adaptive", 3, own),
        row("m", "FIA()", "transfer", 16, own),
    )
    (card,) = cards(report)
    assert card.clean is not None
    assert (card.label, card.clean.correct) == ("m", 450)
    assert [(one.row.threat, one.row.correct) for one in card.own] == [("adaptive", 190)]
    lowest = [(one.row.threat, one.row.correct, len(one.attacks)) for one in card.lowest]
    assert lowest == [("adaptive", 3, 3), ("transfer", 16, 1)]
    assert card.others == card.lowest


def test_a_card_does_not_say_again_what_was_the_only_attack() -> None:
    own = "roa:steps=30"
    (card,) = cards(
        plain(
            row("m", "roa", "adaptive", 300, own),
            row("m", "roa", "transfer", 310, own),
            row("m", "fia", "transfer", 9, own),
        )
    )
    assert [one.row.threat for one in card.others] == ["transfer"]
    assert card.others[0].attacks == ("roa", "fia")


def test_baselines_that_share_a_name_stay_apart() -> None:
    report = plain(
        row("roa", "ROA()", "transfer", 316, "ROA(steps=30)"),
        row("fc-only", "ROA()", "transfer", 144, "ROA(steps=30)"),
        row("fc-only", "ROA()", "transfer", 8, "FIA(steps=10)"),
    )
    shown = ["roa", "fc-only (ROA)", "fc-only (FIA)"]
    assert list(labels(report.rows).values()) == [card.label for card in cards(report)] == shown
    (heat,) = heats(report)
    assert [(label, cells[1].correct) for label, cells in heat.lines if cells[1]] == list(
        zip(shown, (316, 144, 8), strict=True)
    )


def test_a_heat_map_has_a_cell_for_every_model_and_attack() -> None:
    report = plain(
        row("a", "none", "clean", 450),
        row("a", "ROA()", "transfer", 300),
        row("a", "ROA()", "transfer", 280),
        row("b", "FIA()", "transfer", 100),
    )
    (heat,) = heats(report)
    assert heat.attacks == ("none", "ROA()", "FIA()")
    counts = [(model, [cell.correct if cell else None for cell in cells]) for model, cells in heat.lines]
    # of two seeds the lower figure stands
    assert counts == [("a", [450, 280, None]), ("b", [None, None, 100])]


def test_baselines_stand_apart() -> None:
    rows = (row("a", "roa", "transfer", 300), row("fc-only", "roa", "transfer", 200))
    report = dataclasses.replace(plain(*rows), baselines=("fc-only",))
    (heat,) = heats(report)
    assert ([name for name, _ in heat.lines], [name for name, _ in heat.baselines]) == (["a"], ["fc-only"])
    assert [card.is_baseline for card in cards(report)] == [False, True]


def test_unions_over_more_or_fewer_attacks_share_a_column() -> None:
    rows = (row("guard:mean", "union:attacks=12", "adaptive", 3), row("base", "union:attacks=8", "adaptive", 0))
    (heat,) = heats(plain(*rows))
    assert [[cell.correct for cell in cells if cell] for _, cells in heat.lines] == [[3], [0]]


def test_better_under_attack_than_without_is_pointed_at() -> None:
    clean, attacked = row("m", "none", "clean", 431), row("m", "FIA()", "adaptive", 486)
    assert ["above its clean accuracy" in line for line in warnings_of(plain(clean, attacked))] == [True]
    # within the interval it may be chance
    assert warnings_of(plain(clean, row("m", "FIA()", "adaptive", 436))) == []


def test_what_was_lost_in_saving_is_pointed_at() -> None:
    lost = ReloadCheck(model="m", differing=93, largest=4.0, total=500)
    report = dataclasses.replace(plain(row("m", "none", "clean", 450)), training=Training(reload_checks=(lost,)))
    assert warnings_of(report) == ["m: 93 of 500 answers changed after saving and plugging in again."]


def test_a_figure_that_a_costlier_effort_beats_is_pointed_at() -> None:
    report = hardening(name="roa")
    assert report.batteries[0].probe is not None
    assert not [line for line in warnings_of(report) if "effort" in line]
    said: dict[Effort, str] = {
        "standard": "measure it with --effort full",
        "full": "other draws of the same attacks",
    }
    for effort, says in said.items():
        battery = dataclasses.replace(
            report.batteries[0],
            effort=effort,
            probe=dataclasses.replace(report.batteries[0].probe, broke=4),
        )
        (line,) = [one for one in warnings_of(dataclasses.replace(report, batteries=(battery,))) if "PGD" in one]
        assert line.startswith("roa: ")
        assert says in line
        assert "4 more of 100" in line


def test_the_efforts_of_a_table_are_named() -> None:
    rows = [dataclasses.replace(row("m", "pgd", "adaptive", 3), effort=effort) for effort in get_args(Effort)]
    (heat,) = heats(plain(*rows))
    assert heat.efforts == ("quick", "standard", "full")
