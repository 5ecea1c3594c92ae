"""The few-shot report for people: one HTML file that fetches nothing, and the same in Markdown."""

from collections.abc import Mapping
from typing import Any

from markupsafe import Markup

from loradar.report.few_shot import AVERAGE, FewShotReport
from loradar.report.few_shot_plots import bars_svg, radii_svg
from loradar.report.few_shot_views import ablation_chains, attack_names, compared, curves, settings_of, tables
from loradar.report.page import environment


def to_html(report: FewShotReport) -> str:
    """The whole page: styles, pictures and drawings within it."""
    return (
        environment(escape=True)
        .get_template("few_shot.html.jinja")
        .render(_content(report), drawings=_drawings(report))
    )


def to_markdown(report: FewShotReport) -> str:
    """The figures and settings as Markdown tables."""
    return environment(escape=False).get_template("few_shot.md.jinja").render(_content(report))


def _content(report: FewShotReport) -> Mapping[str, Any]:
    return {
        "report": report,
        "tables": tables(report),
        "ablation_chains": ablation_chains(report),
        "names": attack_names(report),
        "blends": _blends(report),
    }


def _blends(report: FewShotReport) -> list[tuple[str, list[str], list[Any]]]:
    """(setting, members, a line for each domain) of every setting."""
    found = []
    for setting in dict.fromkeys(blend.setting for blend in report.blends):
        lines = [blend for blend in report.blends if blend.setting == setting]
        found.append((setting, list(lines[0].members), lines))
    return found


def _drawings(report: FewShotReport) -> list[tuple[str, Markup]]:
    # matplotlib escapes the text in its SVG itself
    names = attack_names(report)
    found: list[tuple[str, Markup]] = []
    for setting in settings_of(report):
        for attack, name in names.items():
            rows = [
                row
                for row in report.rows
                if (row.setting, row.attack) == (setting, attack) and not row.domain.startswith(AVERAGE)
            ]
            if rows:
                svg = bars_svg(rows, compared(report), key=f"bars{len(found)}")
                found.append((f"{setting}, {name}", Markup(svg)))
        for norm in ("Linf", "L2"):
            lines = curves(report, setting, norm)
            if lines:
                svg = radii_svg(lines, norm=norm, key=f"radii{len(found)}")
                found.append((f"{setting}, PGD over the radius, {norm}", Markup(svg)))
    return found
