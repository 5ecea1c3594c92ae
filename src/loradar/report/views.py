"""What the page shows, computed from a report: a card for each model, a heat map for each threat, warnings."""

from collections.abc import Sequence
from dataclasses import dataclass

from loradar.core.types import Threat
from loradar.evaluation.leak import LabelLeakResult
from loradar.evaluation.masking_checks import Check
from loradar.evaluation.measure import NO_ATTACK, AccuracyResult
from loradar.evaluation.names import kind, labels
from loradar.report.schema import Report, Size

_THREATS: tuple[Threat, ...] = ("transfer", "adaptive")


@dataclass(frozen=True, kw_only=True)
class Card:
    """One model at a glance, a row for each threat: `own` under the kind of attack that it was trained against (empty
    where that is not known or was not measured), `lowest` under any of the `tried` attacks; of several, the lowest.
    """

    label: str
    clean: AccuracyResult | None
    own: tuple[AccuracyResult, ...]
    lowest: tuple[AccuracyResult, ...]
    tried: int
    leak: LabelLeakResult | None
    checks: tuple[Check, ...]
    size: Size | None

    @property
    def passed(self) -> int:
        return sum(check.passed for check in self.checks)


@dataclass(frozen=True, kw_only=True)
class Heat:
    """Models by attacks for one threat; None where nothing was measured. The first column is the clean one."""

    threat: Threat
    attacks: tuple[str, ...]
    lines: tuple[tuple[str, tuple[AccuracyResult | None, ...]], ...]


def cards(report: Report) -> list[Card]:
    leaks = {leak.model: leak for leak in report.leaks}
    sizes = {size.model: size for size in report.sizes}
    found = []
    for (model, against), label in labels(report.rows).items():
        mine = [row for row in report.rows if row.candidate == (model, against)]
        attacked = [row for row in mine if row.threat != "clean"]
        found.append(
            Card(
                label=label,
                clean=_lowest([row for row in mine if row.threat == "clean"]),
                own=_by_threat([row for row in attacked if against and kind(row.attack) == kind(against)]),
                lowest=_by_threat(attacked),
                tried=len({row.attack for row in attacked}),
                leak=leaks.get(label),
                checks=tuple(check for check in report.checks if check.model == label),
                size=sizes.get(label),
            )
        )
    return found


def heats(report: Report) -> list[Heat]:
    """A heat map for each threat that was measured; of figures that differ by seed alone, the lowest is shown."""
    return [_heat(report.rows, threat) for threat in _THREATS if any(row.threat == threat for row in report.rows)]


def warnings_of(report: Report) -> list[str]:
    """What a reader must know before the figures: what is not a claim of robustness, and what is too good."""
    every = cards(report)
    found = []
    for card in every:
        if card.leak and card.leak.verdict == "leaks":
            found.append(f"{card.label}: leaks labels. Its transfer figures say more about the attack than about it.")
    for card in every:
        failed = len(card.checks) - card.passed
        if failed:
            found.append(f"{card.label}: {failed} of {len(card.checks)} sanity checks failed.")
    names = labels(report.rows)
    clean = {row.candidate: row for row in report.rows if row.threat == "clean"}
    for row in report.rows:
        if row.threat != "clean" and row.candidate in clean and row.low > clean[row.candidate].high:
            name = names[row.candidate]
            found.append(f"{name}: {row.correct} of {row.total} right under attack, clearly above its clean figure.")
    for plugged in report.replugged:
        if plugged.differing:
            found.append(
                f"{plugged.model}: {plugged.differing} of {plugged.total} answers changed after saving and plugging in "
                "again."
            )
    transfer_only = [card.label for card in every if [row.threat for row in card.lowest] == ["transfer"]]
    if transfer_only:
        found.append(
            f"{', '.join(transfer_only)}: measured by transfer only. An attacker who holds the model itself does "
            "better; these figures are no claim of robustness."
        )
    return found


def _heat(rows: Sequence[AccuracyResult], threat: Threat) -> Heat:
    mine = [row for row in rows if row.threat == threat]
    attacks = tuple(dict.fromkeys(row.attack for row in mine))
    lines = []
    for candidate, label in labels(rows).items():
        own = [row for row in mine if row.candidate == candidate]
        if not own:
            continue
        clean = _lowest([row for row in rows if row.candidate == candidate and row.threat == "clean"])
        cells = [_lowest([row for row in own if row.attack == attack]) for attack in attacks]
        lines.append((label, (clean, *cells)))
    return Heat(threat=threat, attacks=(NO_ATTACK, *attacks), lines=tuple(lines))


def _lowest(rows: Sequence[AccuracyResult]) -> AccuracyResult | None:
    return min(rows, key=lambda row: row.share, default=None)


def _by_threat(rows: Sequence[AccuracyResult]) -> tuple[AccuracyResult, ...]:
    lowest = (_lowest([row for row in rows if row.threat == threat]) for threat in _THREATS)
    return tuple(row for row in lowest if row)
