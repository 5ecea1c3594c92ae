"""A report for people: one HTML file that fetches nothing, and the same in Markdown."""

import re
from collections.abc import Mapping
from pathlib import Path, PurePath
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from loradar.core.markdown import code, printable, text
from loradar.evaluation.battery import RULE as BATTERY_RULE
from loradar.evaluation.leak import RULE as LEAK_RULE
from loradar.evaluation.measure import AccuracyResult
from loradar.evaluation.names import flat, labels, readable
from loradar.report import plots, views
from loradar.report.few_shot import AVERAGE, FewShotSection
from loradar.report.guards import CONFIDENT
from loradar.report.measured import attack_names, settings_of
from loradar.report.schema import BASE, Report
from loradar.report.sweeps import in_words
from loradar.report.verdict import RULE, next_steps, verdicts

_SHORT = 12


def render(report: Report) -> tuple[str, str]:
    """Returns the report as (Markdown, HTML). The page holds its styles, pictures and drawings; light and dark."""
    content = _content(report)
    markdown = _environment(escape=False).get_template("page.md.jinja").render(content)
    page = _environment(escape=True).get_template("page.html.jinja").render(content, drawings=_drawings(report))
    return printable(re.sub(r"\n{3,}", "\n\n", markdown)), printable(page)


def percent(share: float) -> str:
    """Writes a share with one decimal.

    >>> percent(0.482)
    '48.2'
    """
    return f"{100 * share:.1f}"


def _environment(*, escape: bool) -> Environment:
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=escape,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters |= {
        "percent": percent,
        "points": points,
        "readable": readable,
        "flat": flat,
        "text": text,
        "code": code,
        "setting": in_words,
        "count": "{:,}".format,
        "times": lambda ratio: f"{ratio:,.0f}" if ratio >= 10 else f"{ratio:.1f}",
    }
    return environment


def points(difference: float) -> str:
    """Writes a difference of shares with its sign and one decimal.

    >>> points(-0.0123)
    '-1.2'
    """
    return f"{100 * difference:+.1f}"


def _content(report: Report) -> Mapping[str, Any]:
    section, last = report.few_shot, report.training.last_epoch if report.training else ()
    attacks = [row.attack for row in (*report.rows, *last)] + [row.attack for row in (section.rows if section else ())]
    shown = [*attacks, *(picture.attack for picture in report.pictures)]
    judged = verdicts(report)
    aside = {label for (model, _), label in labels(report.rows).items() if model in report.baselines}
    return {
        "report": report,
        "facts": _facts(report),
        "verdicts": [one for one in judged if one.candidate not in aside],
        "baseline_verdicts": [one for one in judged if one.candidate in aside],
        "steps": next_steps(report),
        "rule": RULE,
        "cards": views.cards(report),
        "heats": views.heats(report),
        "labels": labels([*report.rows, *last]),
        "selected": {_key(row): row for row in report.rows},
        "key": _key,
        "warnings": views.warnings_of(report),
        "names": attack_names(shown) | attack_names(attacks),
        "base_size": next((size for size in report.sizes if size.model == BASE), None),
        "battery_rule": BATTERY_RULE,
        "leak_rule": LEAK_RULE,
        "confident": CONFIDENT,
        "average": AVERAGE,
        "methods": views.method_tables(section) if section else [],
        "differences": views.difference_tables(section) if section else [],
        "components": views.ablation_tables(section) if section else [],
        "domains": views.domain_tables(section) if section else [],
        "blends": _blends(section) if section else [],
    }


def _facts(report: Report) -> dict[str, str]:
    """What the header says: base, data, date, versions; what is not known is left out."""
    base, data, versions = report.base, report.data, report.versions
    size = base.get("input_size")
    parts = [
        _base_name(base),
        f"{base['num_classes']} classes" if base.get("num_classes") else None,
        "×".join(str(side) for side in size) if isinstance(size, list | tuple) else None,
        f"fingerprint {str(base['fingerprint'])[:_SHORT]}" if base.get("fingerprint") else None,
    ]
    if report.few_shot:
        about = ", ".join(data)
    else:
        splits = data.get("splits") or {}
        reported = splits.get("reported") or {} if isinstance(splits, Mapping) else {}
        counted = (
            f"{reported['count']} images reported" if isinstance(reported, Mapping) and "count" in reported else None
        )
        origin = reported.get("from") if isinstance(reported, Mapping) else None
        about = ", ".join(str(part) for part in (origin or data.get("source"), counted) if part)
    packages = (f"{name} {versions[name]}" for name in ("loradar", "torch", "timm", "python") if name in versions)
    facts = {
        "Base": ", ".join(str(part) for part in parts if part),
        "Data": about,
        "Made": report.created.replace("T", " ").replace("+00:00", " UTC"),
        "Versions": ", ".join(packages),
    }
    return {name: value for name, value in facts.items() if value}


def _base_name(base: Mapping[str, Any]) -> str | None:
    """Names a base by its architecture, and by its folder, file or place on the hub where it comes from one.

    >>> _base_name({"architecture": "torchvision:resnet18", "spec": "runs/cars"})
    'cars (torchvision:resnet18)'
    >>> _base_name({"architecture": "timm:vit_tiny", "spec": "timm:vit_tiny:pretrained=false"})
    'timm:vit_tiny'
    """
    architecture, place = base.get("architecture"), re.sub(r":\w+=.*", "", str(base.get("spec") or ""))
    # of a path the last part: all of it stands in the table of the base
    name = place if place.startswith("hub:") else PurePath(place).name
    if not name or name == architecture:
        return architecture
    return f"{name} ({architecture})" if architecture else name


def _drawings(report: Report) -> dict[str, Any]:
    """Everything drawn, each as one `<svg>`."""
    drawings: dict[str, Any] = {
        "curves": [
            plots.curve_svg(curve, key=f"curve{i}")
            for i, curve in enumerate(report.training.curves if report.training else ())
        ],
        "domains": [],
    }
    if report.sweep:
        drawings["trials"] = plots.trials_svg(report.sweep, key="trials")
        drawings["searched"] = plots.searched_svg(report.sweep, key="searched")
    if report.guard:
        drawings["cost"] = plots.cost_svg(report.guard.cost, key="cost")
        drawings["reliability"] = plots.reliability_svg(report.guard.reliabilities, key="reliability")
    if report.few_shot:
        drawings["domains"] = _domain_drawings(report.few_shot)
    return drawings


def _domain_drawings(section: FewShotSection) -> list[tuple[str, Markup]]:
    found: list[tuple[str, Markup]] = []
    names = attack_names(row.attack for row in section.rows)
    for setting in settings_of(section):
        mine = [row for row in section.rows if row.setting == setting and not row.domain.startswith(AVERAGE)]
        for attack, name in names.items():
            if rows := [row for row in mine if row.attack == attack]:
                svg = plots.bars_svg(rows, views.compared(section), key=f"bars{len(found)}")
                found.append((f"{setting}, {name}", svg))
        for norm in ("linf", "l2"):
            if lines := views.eps_curves(section, setting, norm):
                svg = plots.eps_svg(lines, norm=norm, key=f"eps{len(found)}")
                found.append((f"{setting}, PGD over eps, {norm}", svg))
    return found


def _blends(section: FewShotSection) -> list[tuple[str, list[str], list[Any]]]:
    """(setting, members, one line for each domain) of every setting."""
    found = []
    for setting in dict.fromkeys(blend.setting for blend in section.blends):
        lines = [blend for blend in section.blends if blend.setting == setting]
        found.append((setting, list(dict.fromkeys(name for line in lines for name in line.members)), lines))
    return found


def _key(row: AccuracyResult) -> tuple[tuple[str, str], str, str]:
    return row.candidate, row.attack, row.threat
