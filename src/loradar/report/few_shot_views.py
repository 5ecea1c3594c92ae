"""What the few-shot page shows, computed from a report: who to compare, tables of methods, curves over radii."""

from collections.abc import Sequence
from dataclasses import dataclass

from loradar.core.attack_specs import number
from loradar.evaluation.measure import NO_ATTACK
from loradar.evaluation.names import attack_fields, kind, short_names
from loradar.report.few_shot import AVERAGE, CORRUPTIONS, FewShotReport, FewShotRow


@dataclass(frozen=True, kw_only=True)
class Table:
    """Methods by columns for one setting; None where nothing was measured. `best` marks the largest of each column."""

    setting: str
    columns: tuple[tuple[str, str], ...]
    lines: tuple[tuple[str, tuple[FewShotRow | None, ...]], ...]
    best: tuple[FewShotRow | None, ...]


@dataclass(frozen=True, kw_only=True)
class Curve:
    """Mean accuracy of a method over the radii of one norm, the clean one at 0: (radius, row) in order."""

    method: str
    points: tuple[tuple[float, FewShotRow], ...]


def attack_names(report: FewShotReport) -> dict[str, str]:
    """A short name for every attack: "PGD eps=1/255", with a step size only where it is not the attack's own."""
    known = [row.attack for row in report.rows]
    told = {attack: name.replace(" step_size=none", "") for attack, name in short_names(known).items()}
    return {**told, NO_ATTACK: "clean", CORRUPTIONS: "corruptions"}


def settings_of(report: FewShotReport) -> list[str]:
    return list(dict.fromkeys(row.setting for row in report.rows))


def tables(report: FewShotReport) -> list[Table]:
    """For each setting, every method on the averages over domains."""
    return [_table(report, setting) for setting in settings_of(report)]


def ablation_chains(report: FewShotReport) -> list[Table]:
    """The same of the components, each added to those before it."""
    steps = list(report.ablation_chain.items())
    found = []
    for table in tables(report):
        cells = dict(table.lines)
        lines = [(f"{step} ({method})", cells[method]) for step, method in steps if method in cells]
        found.append(Table(setting=table.setting, columns=table.columns, lines=tuple(lines), best=table.best))
    return found if steps else []


def compared(report: FewShotReport) -> list[str]:
    """The methods that pictures compare: the full one, and those that have a figure under every attack; at most five."""
    attacks = {row.attack for row in report.rows}
    by_method: dict[str, set[str]] = {}
    for row in report.rows:
        by_method.setdefault(row.method, set()).add(row.attack)
    complete = [m for m, seen in by_method.items() if seen == attacks and not m.startswith("easyfsl")]
    return [report.full, *(m for m in complete if m != report.full)][:5]


def curves(report: FewShotReport, setting: str, norm: str) -> list[Curve]:
    """Of each compared method, on the first average of domains; empty where fewer than two radii were measured."""
    domain = next((row.domain for row in report.rows if row.domain.startswith(AVERAGE)), "")
    found = []
    for method in compared(report):
        rows = [r for r in report.rows if (r.method, r.setting, r.domain) == (method, setting, domain)]
        points = [(radius, row) for row in rows if (radius := _radius(row.attack, norm)) is not None]
        if len(points) > 2:
            found.append(Curve(method=method, points=tuple(sorted(points, key=lambda point: point[0]))))
    return found


def _radius(attack: str, norm: str) -> float | None:
    if attack == NO_ATTACK:
        return 0.0
    fields = attack_fields(attack)
    return number(fields["eps"]) if kind(attack) == "PGD" and fields["norm"] == norm.lower() else None


def _table(report: FewShotReport, setting: str) -> Table:
    rows = [row for row in report.rows if row.setting == setting]
    averages = list(dict.fromkeys(row.domain for row in rows if row.domain.startswith(AVERAGE)))
    domains = averages or list(dict.fromkeys(row.domain for row in rows))
    attacks = list(dict.fromkeys(row.attack for row in rows))
    columns = tuple((domain, attack) for attack in attacks for domain in domains)
    cells = {(row.method, row.domain, row.attack): row for row in rows}
    methods = list(dict.fromkeys(row.method for row in rows))
    lines = tuple((m, tuple(cells.get((m, *column)) for column in columns)) for m in methods)
    best = tuple(_best([line[i] for _, line in lines]) for i in range(len(columns)))
    return Table(setting=setting, columns=columns, lines=lines, best=best)


def _best(rows: Sequence[FewShotRow | None]) -> FewShotRow | None:
    return max((row for row in rows if row), key=lambda row: row.mean, default=None)
