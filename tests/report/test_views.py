import dataclasses

from loradar.evaluation import AccuracyResult
from loradar.evaluation.names import labels
from loradar.report.schema import ReloadCheck, Report
from loradar.report.views import cards, heats, warnings_of
from tests.evaluation.toys import row


def plain(*rows: AccuracyResult) -> Report:
    return Report(rows=rows, base={}, data={}, versions={})


def test_a_card_shows_the_kind_it_was_trained_against_and_the_lowest_of_all() -> None:
    own = "roa:steps=20"
    report = plain(
        row("m", "none", "clean", 450, own),
        row("m", "roa", "adaptive", 230, own),
        row("m", "roa:restarts=10", "adaptive", 190, own),
        row("m", "fia", "adaptive", 3, own),
        row("m", "fia", "transfer", 16, own),
    )
    (card,) = cards(report)
    assert card.clean is not None
    assert (card.label, card.clean.correct, card.tried) == ("m", 450, 3)
    assert [(r.threat, r.correct) for r in card.own] == [("adaptive", 190)]
    assert [(r.threat, r.correct) for r in card.lowest] == [("transfer", 16), ("adaptive", 3)]


def test_baselines_that_share_a_name_stay_apart() -> None:
    report = plain(
        row("roa", "roa", "transfer", 316, "roa"),
        row("fc-only", "roa", "transfer", 144, "roa"),
        row("fc-only", "roa", "transfer", 8, "fia"),
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
        row("a", "roa", "transfer", 300),
        row("a", "roa", "transfer", 280),
        row("b", "fia", "transfer", 100),
    )
    (heat,) = heats(report)
    assert heat.attacks == ("none", "roa", "fia")
    counts = [(model, [cell.correct if cell else None for cell in cells]) for model, cells in heat.lines]
    # of two seeds the lower figure stands
    assert counts == [("a", [450, 280, None]), ("b", [None, None, 100])]


def test_transfer_alone_is_no_claim() -> None:
    alone = plain(row("m", "roa", "transfer", 300))
    both = plain(row("m", "roa", "transfer", 300), row("m", "roa", "adaptive", 200))
    assert ["transfer only" in line for line in warnings_of(alone)] == [True]
    assert warnings_of(both) == []


def test_better_under_attack_than_without_is_pointed_at() -> None:
    clean, attacked = row("m", "none", "clean", 431), row("m", "fia", "adaptive", 486)
    assert ["above its clean figure" in line for line in warnings_of(plain(clean, attacked))] == [True]
    # within the interval it may be chance
    assert warnings_of(plain(clean, row("m", "fia", "adaptive", 436))) == []


def test_leaks_and_failed_checks_are_pointed_at(report: Report) -> None:
    lines = "\n".join(warnings_of(report))
    assert "leaks labels" in lines
    assert "1 of 1 sanity checks failed" in lines
    healthy = dataclasses.replace(report, leaks=(), checks=())
    assert "leaks" not in "\n".join(warnings_of(healthy))


def test_what_was_lost_in_saving_is_pointed_at() -> None:
    lost = ReloadCheck(model="m", differing=93, largest=4.0, total=500)
    report = dataclasses.replace(plain(row("m", "none", "clean", 450)), replugged=(lost,))
    assert warnings_of(report) == ["m: 93 of 500 answers changed after saving and plugging in again."]
