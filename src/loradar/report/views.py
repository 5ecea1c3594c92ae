"""What a page shows, computed from a report: cards, tables of models by attacks, tables of few-shot methods."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from loradar.core.attack_specs import number
from loradar.core.types import Threat
from loradar.evaluation.leak import LabelLeakResult
from loradar.evaluation.masking_checks import Check
from loradar.evaluation.measure import NO_ATTACK, AccuracyResult
from loradar.evaluation.names import attack_fields, kind, labels
from loradar.report.few_shot import AVERAGE, FewShotRow, FewShotSection
from loradar.report.measured import attack_key, settings_of
from loradar.report.schema import Report, Size

_THREATS: tuple[Threat, ...] = ("adaptive", "transfer")


@dataclass(frozen=True, kw_only=True)
class Lowest:
    """The lowest figure of a model in one threat model, and all attacks that were measured there."""

    row: AccuracyResult
    attacks: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Card:
    """One model at a glance, adaptive before transfer.

    `own` has figures under the kind of attack that the model was trained against; empty where that is not known or was not
    measured. `lowest` has those under any attack.
    """

    label: str
    is_baseline: bool
    clean: AccuracyResult | None
    own: tuple[Lowest, ...]
    lowest: tuple[Lowest, ...]
    leak: LabelLeakResult | None
    checks: tuple[Check, ...]
    size: Size | None

    @property
    def passed(self) -> int:
        return sum(check.passed for check in self.checks)

    @property
    def others(self) -> tuple[Lowest, ...]:
        """Those of `lowest` that say more than `own`."""
        return tuple(one for one in self.lowest if self.own and one.attacks not in [own.attacks for own in self.own])


@dataclass(frozen=True, kw_only=True)
class Heat:
    """Models by attacks for one threat; None where nothing was measured. The first column is the clean one."""

    threat: Threat
    efforts: tuple[str, ...]
    attacks: tuple[str, ...]
    lines: tuple[tuple[str, tuple[AccuracyResult | None, ...]], ...]
    baselines: tuple[tuple[str, tuple[AccuracyResult | None, ...]], ...]


@dataclass(frozen=True, kw_only=True)
class MethodTable:
    """Few-shot methods by columns, each (domain, attack); None where nothing was measured. `best` is each column's largest.

    `lines` compare the main methods, `others` hold the rest.
    """

    setting: str
    columns: tuple[tuple[str, str], ...]
    lines: tuple[tuple[str, tuple[FewShotRow | None, ...]], ...]
    others: tuple[tuple[str, tuple[FewShotRow | None, ...]], ...]
    best: tuple[FewShotRow | None, ...]


def cards(report: Report) -> list[Card]:
    """One for each model, in the order of the rows."""
    found = []
    for (model, against), label in labels(report.rows).items():
        mine = [row for row in report.rows if row.candidate == (model, against)]
        attacked = [row for row in mine if row.threat != "clean"]
        found.append(
            Card(
                label=label,
                is_baseline=model in report.baselines,
                clean=_lowest([row for row in mine if row.threat == "clean"]),
                own=_by_threat([row for row in attacked if against and kind(row.attack) == kind(against)]),
                lowest=_by_threat(attacked),
                leak=next((leak for leak in report.leaks if leak.model == label), None),
                checks=tuple(check for check in report.checks if check.model == label),
                size=next((size for size in report.sizes if size.model == label), None),
            )
        )
    return found


def heats(report: Report) -> list[Heat]:
    """A table for each threat that was measured; of figures that differ by seed alone, the lowest is shown."""
    return [_heat(report, threat) for threat in _THREATS if any(row.threat == threat for row in report.rows)]


def warnings_of(report: Report) -> list[str]:
    """What a reader must know beside the verdicts: figures that are too good, adapters that changed on disk."""
    names = labels(report.rows)
    clean = {row.candidate: row for row in report.rows if row.threat == "clean"}
    found = [
        f"{names[row.candidate]}: {row.correct} of {row.total} right under attack, clearly above its clean accuracy."
        for row in report.rows
        if row.threat != "clean" and row.candidate in clean and row.low > clean[row.candidate].high
    ]
    found += [
        f"{names[one.candidate]}: {one.effort} effort flatters. Under {kind(one.attack)}, {one.probe.effort} effort breaks "
        f"{one.probe.broke} more of {one.probe.total} images ({100 * one.probe.broke / one.probe.total:.0f} points): measure "
        f"it with --effort {one.probe.effort}."
        if one.probe.effort != one.effort
        else f"{names[one.candidate]}: under {kind(one.attack)}, other draws of the same attacks break {one.probe.broke} more "
        f"of {one.probe.total} images: the figure is too high."
        for one in report.batteries
        if one.probe and one.probe.is_beaten
    ]
    return found + [
        f"{check.model}: {check.differing} of {check.total} answers changed after saving and plugging in again."
        for check in (report.training.reload_checks if report.training else ())
        if check.differing
    ]


def method_tables(section: FewShotSection) -> list[MethodTable]:
    """For each setting, the methods on the averages over domains; on the domains where there are no averages."""
    found = []
    for setting in settings_of(section):
        rows = [row for row in section.rows if row.setting == setting]
        averages = [row for row in rows if row.domain.startswith(AVERAGE)]
        found.append(_methods(section, averages or rows, setting))
    return found


def difference_tables(section: FewShotSection) -> list[MethodTable]:
    """For each setting, by how much the methods differ from the untuned one, on the averages over domains."""
    by_setting = {
        setting: [row for row in section.differences if row.setting == setting] for setting in settings_of(section)
    }
    return [_methods(section, rows, setting) for setting, rows in by_setting.items() if rows]


def domain_tables(section: FewShotSection) -> list[MethodTable]:
    """For each setting and attack, every method on every domain: all figures, each once."""
    keys = dict.fromkeys((row.setting, row.attack) for row in section.rows)
    return [
        _methods(section, [row for row in section.rows if (row.setting, row.attack) == key], key[0]) for key in keys
    ]


def ablation_tables(section: FewShotSection) -> list[MethodTable]:
    """For each setting, the components, each added to those before it."""
    found = []
    for table in method_tables(section) if section.ablation_chain else ():
        cells = dict((*table.lines, *table.others))
        steps = [(f"{step} ({method})", method) for step, method in section.ablation_chain.items() if method in cells]
        lines = tuple((name, cells[method]) for name, method in steps)
        found.append(MethodTable(setting=table.setting, columns=table.columns, lines=lines, others=(), best=table.best))
    return found


def compared(section: FewShotSection) -> list[str]:
    """The methods to look at first, five at most: the full one, the untuned, then those with a figure under every attack."""
    attacks = {row.attack for row in section.rows}
    by_method: dict[str, set[str]] = {}
    for row in section.rows:
        by_method.setdefault(row.method, set()).add(row.attack)
    complete = [m for m, seen in by_method.items() if seen == attacks and not m.startswith("easyfsl")]
    first = [method for method in (section.untuned, section.reference) if method in complete]
    return list(dict.fromkeys([section.full, *first, *complete]))[:5]


def eps_curves(section: FewShotSection, setting: str, norm: str) -> Mapping[str, Sequence[tuple[float, FewShotRow]]]:
    """Each compared method's (eps, row) under PGD in `norm`, clean at 0, on the first average of domains.

    Methods with fewer than two such attacks are left out.
    """
    domain = next((row.domain for row in section.rows if row.domain.startswith(AVERAGE)), "")
    found = {}
    for method in compared(section):
        rows = [row for row in section.rows if (row.method, row.setting, row.domain) == (method, setting, domain)]
        points = [(eps, row) for row in rows if (eps := _eps(row.attack, norm)) is not None]
        if len(points) > 2:
            found[method] = sorted(points, key=lambda point: point[0])
    return found


def _eps(attack: str, norm: str) -> float | None:
    if attack == NO_ATTACK:
        return 0.0
    fields = attack_fields(attack)
    return number(fields["eps"]) if kind(attack) == "PGD" and fields.get("norm") == norm else None


def _heat(report: Report, threat: Threat) -> Heat:
    mine = [row for row in report.rows if row.threat == threat]
    attacks = {attack_key(row.attack): row.attack for row in reversed(mine)}
    keys = tuple(dict.fromkeys(attack_key(row.attack) for row in mine))
    lines: dict[bool, list[tuple[str, tuple[AccuracyResult | None, ...]]]] = {False: [], True: []}
    for candidate, label in labels(report.rows).items():
        own = [row for row in mine if row.candidate == candidate]
        if not own:
            continue
        clean = _lowest([row for row in report.rows if row.candidate == candidate and row.threat == "clean"])
        cells = [_lowest([row for row in own if attack_key(row.attack) == key]) for key in keys]
        lines[candidate[0] in report.baselines].append((label, (clean, *cells)))
    return Heat(
        threat=threat,
        efforts=tuple(dict.fromkeys(row.effort for row in mine if row.effort)),
        attacks=(NO_ATTACK, *(attacks[key] for key in keys)),
        lines=tuple(lines[False]),
        baselines=tuple(lines[True]),
    )


def _methods(section: FewShotSection, rows: Sequence[FewShotRow], setting: str) -> MethodTable:
    attacks, domains = dict.fromkeys(row.attack for row in rows), dict.fromkeys(row.domain for row in rows)
    columns = tuple((domain, attack) for attack in attacks for domain in domains)
    cells = {(row.method, row.domain, row.attack): row for row in rows}
    lines = {
        method: tuple(cells.get((method, *column)) for column in columns)
        for method in dict.fromkeys(row.method for row in rows)
    }
    main = [method for method in compared(section) if method in lines]
    best = (max((line[i] for line in lines.values() if line[i]), key=_mean, default=None) for i in range(len(columns)))
    return MethodTable(
        setting=setting,
        columns=columns,
        lines=tuple((method, lines[method]) for method in main),
        others=tuple((method, line) for method, line in lines.items() if method not in main),
        best=tuple(best),
    )


def _mean(row: FewShotRow | None) -> float:
    return row.mean if row else 0.0


def _lowest(rows: Sequence[AccuracyResult]) -> AccuracyResult | None:
    return min(rows, key=lambda row: row.share, default=None)


def _by_threat(rows: Sequence[AccuracyResult]) -> tuple[Lowest, ...]:
    found = []
    for threat in _THREATS:
        mine = [row for row in rows if row.threat == threat]
        if row := _lowest(mine):
            found.append(Lowest(row=row, attacks=tuple(dict.fromkeys(one.attack for one in mine))))
    return tuple(found)
