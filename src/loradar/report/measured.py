"""One model's figures, beside those of the base, collected from a report."""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Protocol

from loradar.evaluation.leak import LabelLeakResult
from loradar.evaluation.measure import NO_ATTACK
from loradar.evaluation.names import kind, labels, short_names
from loradar.report.few_shot import AVERAGE, CORRUPTIONS, FewShotSection
from loradar.report.schema import BASE, Report

UNION = "union"
"""The kind of an attack that stands for all attacks that were measured: an image counts if it survives each of them."""
_THREATS = ("transfer", "adaptive")


class Figure(Protocol):
    """A share with its 95 % interval, of `total` images or tasks; `effort` is that of its battery, or ""."""

    @property
    def share(self) -> float: ...
    @property
    def low(self) -> float: ...
    @property
    def high(self) -> float: ...
    @property
    def total(self) -> int: ...
    @property
    def effort(self) -> str: ...


@dataclass(frozen=True, kw_only=True)
class Measured:
    """One model's figures by attack, lowest first, beside those of the base; `base` is None where there is no base.

    `names` has a short name for each attack of this model, `own` the attacks of the kind that it was trained against.
    `without` and `unit` are words for the sentence.
    """

    label: str
    clean: Figure | None = None
    adaptive: Mapping[str, Figure]
    transfer: Mapping[str, Figure]
    base_clean: Figure | None = None
    base: Mapping[str, Figure] | None = None
    chance: float
    names: Mapping[str, str]
    own: frozenset[str] = frozenset()
    leak: LabelLeakResult | None = None
    checks: int = 0
    failed: int = 0
    without: str = "without the adapter"
    unit: str = "images"

    @property
    def is_trusted(self) -> bool:
        return not self.failed and (self.leak is None or self.leak.verdict == "passes")

    def holds(self, attack: str) -> bool:
        base = (self.base or {}).get(attack)
        return base is not None and self.adaptive[attack].low > max(base.high, self.chance)

    def breaks(self, attack: str) -> bool:
        base = (self.base or {}).get(attack)
        return self.adaptive[attack].share <= max(base.share if base else 0.0, self.chance)

    def first(self, attacks: Iterable[str]) -> str:
        """The attack that speaks for the model: one that it was trained against, or else the most harmful."""
        known = list(attacks)
        return next((attack for attack in known if attack in self.own), known[0])


def measured(report: Report) -> list[Measured]:
    """Collects the figures of each model, the base first and the baselines last; of several seeds the lowest counts."""
    if report.few_shot:
        return [_of_tasks(report.few_shot, setting) for setting in settings_of(report.few_shot)]
    known = labels(report.rows)
    return [
        _of_model(report, candidate, known[candidate])
        for candidate in sorted(known, key=lambda candidate: _rank(candidate, report))
    ]


def attack_names(attacks: Iterable[str]) -> dict[str, str]:
    """Short names of attacks, as a page shows them."""
    words = {NO_ATTACK: "clean", UNION: "all attacks together"}
    names = {attack: re.sub(" norm=linf| step_size=none", "", name) for attack, name in short_names(attacks).items()}
    shorter = {attack: re.sub(r" step_size=\S+", "", name) for attack, name in names.items()}
    if len({*shorter.values()}) == len({*names.values()}):
        names = shorter
    return {attack: words.get(kind(attack), name) for attack, name in names.items()}


def settings_of(section: FewShotSection) -> list[str]:
    """The settings of its rows, in order."""
    return list(dict.fromkeys(row.setting for row in section.rows))


def _of_model(report: Report, candidate: tuple[str, str], label: str) -> Measured:
    _, against = candidate
    mine = [row for row in report.rows if row.candidate == candidate]
    is_base = candidate == (BASE, "")
    base = [row for row in report.rows if row.candidate == (BASE, "") and not is_base]
    adaptive, transfer = (
        _lowest((attack_key(r.attack), r) for r in mine if r.threat == t) for t in ("adaptive", "transfer")
    )
    if is_base:  # computed on the base is computed on the model itself
        adaptive = _lowest({**transfer, **adaptive}.items())
    checks = [check for check in report.checks if check.model == label]
    classes = report.base.get("num_classes")
    return Measured(
        label=label,
        clean=next((row for row in mine if row.threat == "clean"), None),
        adaptive=adaptive,
        transfer=transfer,
        base_clean=next((row for row in base if row.threat == "clean"), None),
        base={attack_key(row.attack): row for threat in _THREATS for row in base if row.threat == threat}
        if base
        else None,
        chance=1 / classes if isinstance(classes, int) and classes > 1 else 0.5,
        names=attack_names(adaptive or transfer),
        own=frozenset(attack for attack in {**adaptive, **transfer} if against and kind(attack) == kind(against)),
        leak=next((leak for leak in report.leaks if leak.model == label), None),
        checks=len(checks),
        failed=sum(not check.passed for check in checks),
        without="for the base alone" if report.guard else "without the adapter",
    )


def _of_tasks(section: FewShotSection, setting: str) -> Measured:
    domains = [row.domain for row in section.rows if row.setting == setting]
    domain = next((name for name in domains if name.startswith(AVERAGE)), domains[0])
    rows = [row for row in section.rows if (row.setting, row.domain) == (setting, domain)]
    attacked = [row for row in rows if row.attack not in (NO_ATTACK, CORRUPTIONS)]
    clean = {row.method: row for row in rows if row.attack == NO_ATTACK}
    way = re.match(r"([0-9]{1,9})w", setting)
    adaptive = _lowest((row.attack, row) for row in attacked if row.method == section.full)
    return Measured(
        label=f"{section.full}, {setting}",
        clean=clean.get(section.full),
        adaptive=adaptive,
        transfer={},
        base_clean=clean.get(section.reference),
        base={row.attack: row for row in attacked if row.method == section.reference},
        chance=1 / max(2, int(way[1])) if way else 0.5,
        names=attack_names(adaptive),
        without=f"with {section.reference}",
        unit="queries",
    )


def attack_key(attack: str) -> str:
    """Unions are compared with each other, over however many attacks."""
    return UNION if kind(attack) == UNION else attack


def _lowest(figures: Iterable[tuple[str, Figure]]) -> dict[str, Figure]:
    lowest: dict[str, Figure] = {}
    for name, figure in sorted(figures, key=lambda pair: pair[1].share):
        lowest.setdefault(name, figure)
    return lowest


def _rank(candidate: tuple[str, str], report: Report) -> int:
    return 0 if candidate == (BASE, "") else 2 if candidate[0] in report.baselines else 1
