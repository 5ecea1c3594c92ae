"""A report's figure as an entry of RobustBench (Croce et al., 2021): the JSON of its folder `model_info`.

Its figures are percentages in text, of 10,000 images (of ImageNet 5,000) under AutoAttack at the eps of each leaderboard.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import PurePath
from typing import Any

from loradar.core.errors import BadConfigError, BadFileError
from loradar.evaluation.measure import NO_ATTACK, AccuracyResult
from loradar.evaluation.names import attack_fields, kind, labels
from loradar.evaluation.worst_case import BatteryResult
from loradar.report.schema import BASE, Report

_BOARDS = {
    ("cifar10", "linf"): ("8/255", 10_000),
    ("cifar10", "l2"): ("0.5", 10_000),
    ("cifar100", "linf"): ("8/255", 10_000),
    ("imagenet", "linf"): ("4/255", 5_000),
}
"""The eps of each leaderboard, and its images."""
_HOW = "`loradar audit BASE --adapter ADAPTER --attacks autoattack --effort full --max-test-images 10000`"


@dataclass(frozen=True, kw_only=True)
class Paper:
    """What no report knows; what is left empty is to be filled in by hand."""

    link: str = ""
    title: str = ""
    authors: str = ""
    venue: str = ""
    additional_data: bool | None = None


def robustbench_entry(
    report: Report, paper: Paper, *, model: str | None = None, attack: str | None = None
) -> dict[str, Any]:
    """Returns RobustBench's fields for one model, from an adaptive figure whose battery ran AutoAttack with full effort.

    `model` is a name of the report; by default the only one that is neither the base nor a baseline, or the base.
    `attack` is the spec or the name of the configured attack, where there are several figures. Figures by transfer are
    never used. Raises BadConfigError where there is no such figure, or RobustBench has no leaderboard for it, and
    BadFileError for a report that contradicts itself.
    """
    battery = _battery(report, model, attack)
    row = _row(report, battery)
    dataset, eps, whole = _board(report, battery)
    clean = _count(battery, battery.clean, NO_ATTACK)
    first = battery.members[0]
    # the first member meets every image that was right; later ones what is left
    alone = _count(battery, battery.clean - first.broke, first.attack) if _is_standard(first.attack) else row
    troubles = _troubles(report, battery)
    architecture = str(report.base.get("architecture") or report.base.get("spec") or "")
    entry: dict[str, Any] = {
        "link": paper.link,
        "name": paper.title,
        "authors": paper.authors,
        "additional_data": paper.additional_data,
        "number_forward_passes": 1,
        "dataset": dataset,
        "venue": paper.venue,
        "architecture": architecture.rpartition(":")[2] + ("" if battery.model == BASE else " with adapter"),
        "eps": eps,
        "clean_acc": _percent(clean),
        "reported": _percent(row),
        "autoattack_acc": _percent(alone),
    }
    if row.correct < alone.correct:
        entry["external"] = _percent(row)
    footnote = [*_sample(report, clean, row, whole), _attacks(battery, is_first=alone is not row), *troubles]
    return entry | {"footnote": " ".join(footnote), "unreliable": bool(troubles)}


def _battery(report: Report, model: str | None, attack: str | None) -> BatteryResult:
    names = labels(report.rows)
    full = [
        b for b in report.batteries if b.effort == "full" and any(_is_own(b, m.attack, m.crafted_on) for m in b.members)
    ]
    if not full:
        efforts = ", ".join(sorted({b.effort for b in report.batteries})) or "none"
        raise BadConfigError(
            f"the report has no adaptive figure with AutoAttack in a battery of full effort (its efforts: {efforts}); measure "
            f"one with {_HOW} (it needs loradar[autoattack])"
        )
    if model is None:
        own = [b for b in full if b.model != BASE and b.model not in report.baselines] or full
    else:
        own = [b for b in full if model in (b.model, names.get(b.candidate))]
    found = sorted({names.get(b.candidate, b.model) for b in own})
    if len(found) != 1:
        known = ", ".join(sorted({names.get(b.candidate, b.model) for b in full}))
        asked = "several models have such figures" if model is None or found else f"no such figure of {model!r:.80}"
        raise BadConfigError(f"{asked}; give --model, one of: {known}")
    chosen = [b for b in own if attack is None or attack.lower() in (b.attack, kind(b.attack).lower())]
    if len(chosen) != 1:
        known = ", ".join(b.attack for b in own)
        asked = "several attacks" if chosen else f"no attack {attack!r:.80}"
        raise BadConfigError(f"{found[0]} has such figures under {asked}; give --attack, one of: {known}")
    return chosen[0]


def _is_own(battery: BatteryResult, attack: str, crafted_on: str) -> bool:
    """Whether a member is AutoAttack's standard version on the model itself, in the one ball that the figure is of."""
    ours, theirs = attack_fields(battery.attack), attack_fields(attack)
    return not crafted_on and _is_standard(attack) and all(ours.get(key, "") == theirs[key] for key in ("norm", "eps"))


def _is_standard(attack: str) -> bool:
    return kind(attack) == "AutoAttack" and attack_fields(attack).get("attacks") == "none"


def _row(report: Report, battery: BatteryResult) -> AccuracyResult:
    left = battery.clean - sum(member.broke for member in battery.members)
    for row in report.rows:
        same = (row.candidate, row.attack, row.total) == (battery.candidate, battery.attack, battery.total)
        if same and row.threat == "adaptive" and row.effort == "full" and row.correct == left:
            return row
    raise BadFileError(
        f"the report's battery of {battery.model} leaves {left} of {battery.total} images, but no row says so; audit it anew"
    )


def _board(report: Report, battery: BatteryResult) -> tuple[str, str, int]:
    fields = attack_fields(battery.attack)
    norm, eps = fields["norm"], fields["eps"]
    dataset = PurePath(str(report.data.get("source", ""))).name.lower().replace("-", "")
    if (dataset, norm) not in _BOARDS:
        boards = ", ".join(f"{data} {norm}" for data, norm in _BOARDS)
        raise BadConfigError(f"RobustBench has no leaderboard for {dataset or 'unnamed data'} {norm}; it has {boards}")
    expected, whole = _BOARDS[dataset, norm]
    if eps != expected:
        raise BadConfigError(
            f"RobustBench's {dataset} {norm} is at eps {expected}, this figure at {eps}; audit it at that"
        )
    return dataset, eps, whole


def _count(battery: BatteryResult, correct: int, attack: str) -> AccuracyResult:
    return AccuracyResult.count(
        model=battery.model,
        attack=attack,
        threat="clean" if attack == NO_ATTACK else "adaptive",
        correct=correct,
        total=battery.total,
        seed=0,
    )


def _sample(report: Report, clean: AccuracyResult, row: AccuracyResult, whole: int) -> list[str]:
    """What fewer images than RobustBench's come to."""
    if row.total >= whole:
        return []
    source = report.data.get("splits", {}).get("reported", {}).get("from", "the test split")
    return [
        f"Measured on {row.total:,} images of {source}, not on RobustBench's "
        f"{whole:,}: the 95 % interval of the robust accuracy is {_interval(row)}, of the clean accuracy {_interval(clean)}. "
        "Figures of other entries within it are not told apart from this one."
    ]


def _attacks(battery: BatteryResult, *, is_first: bool) -> str:
    names = ", ".join(dict.fromkeys(one.name for one in battery.members if one.tried or _is_standard(one.attack)))
    worst = f"The worst, image by image, over {names}, each on the images that the ones before left"
    if is_first:
        return f"autoattack_acc is AutoAttack alone. {worst}, is the reported accuracy."
    return f"{worst}: AutoAttack alone was not measured, and its figure is no lower."


def _troubles(report: Report, battery: BatteryResult) -> list[str]:
    """Why the figure may be too high."""
    label = labels(report.rows)[battery.candidate]
    found = [f"Check not passed: {c.name} ({c.detail})." for c in report.checks if c.model == label and not c.passed]
    if battery.probe and battery.probe.is_beaten:
        probe = battery.probe
        found.append(f"Of {probe.right} images that held, other draws of the battery broke {probe.broke}.")
    found += [
        f"Label leak test: {one.verdict}." for one in report.leaks if one.model == label and one.verdict != "passes"
    ]
    return found


def _percent(row: AccuracyResult) -> str:
    return f"{100 * row.share:.2f}"


def _interval(row: AccuracyResult) -> str:
    return f"{100 * row.low:.1f}-{100 * row.high:.1f} %"
