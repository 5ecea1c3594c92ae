"""A report for people: one HTML file that fetches nothing, and the same in Markdown."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from loradar.evaluation.leak import RULE
from loradar.evaluation.measure import AccuracyResult
from loradar.evaluation.names import flat, labels, readable, short_names
from loradar.report.guard_plots import cost_svg, reliability_svg
from loradar.report.guards import CONFIDENT
from loradar.report.plots import curve_svg
from loradar.report.schema import Report
from loradar.report.views import cards, heats, warnings_of


def to_html(report: Report) -> str:
    """The whole page: styles, pictures and drawings within it; light and dark, phone and desk."""
    # matplotlib escapes the text in its SVG itself
    drawings = [Markup(curve_svg(curve, key=f"curve{i}")) for i, curve in enumerate(report.curves)]
    reliability = Markup(reliability_svg(report.reliabilities, key="reliability"))
    cost = Markup(cost_svg(report.cost, key="cost") if report.cost else "")
    return (
        environment(escape=True)
        .get_template("page.html.jinja")
        .render(_content(report), drawings=drawings, reliability=reliability, cost=cost)
    )


def to_markdown(report: Report) -> str:
    """The figures, verdicts and settings as Markdown tables."""
    return environment(escape=False).get_template("page.md.jinja").render(_content(report))


def percent(share: float) -> str:
    """A share as people read it, with one decimal.

    >>> percent(0.482)
    '48.2'
    """
    return f"{100 * share:.1f}"


def environment(*, escape: bool) -> Environment:
    """Where templates are found, with the filters that they use."""
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
        "readable": readable,
        "flat": flat,
        "cell": _cell,
        "count": _count,
        "times": _times,
    }
    return environment


def _content(report: Report) -> Mapping[str, Any]:
    attacks = [row.attack for row in (*report.rows, *report.last_epoch)] + [
        picture.attack for picture in report.pictures
    ]
    base_size = next((size for size in report.sizes if size.model == "base"), None)
    return {
        "report": report,
        "cards": cards(report),
        "heats": heats(report),
        "labels": labels([*report.rows, *report.last_epoch]),
        "selected": {_key(row): row for row in report.rows},
        "key": _key,
        "warnings": warnings_of(report),
        "names": short_names(attacks),
        "base_size": base_size,
        "rule": RULE,
        "confident": CONFIDENT,
    }


def _key(row: AccuracyResult) -> tuple[tuple[str, str], str, str]:
    return row.candidate, row.attack, row.threat


def _cell(text: object) -> str:
    """Text that stays in its cell of a Markdown table and is no markup there."""
    return str(text).replace("\\", "\\\\").replace("|", "\\|").replace("<", "&lt;").replace("\n", " ")


def _count(number: int) -> str:
    return f"{number:,}"


def _times(ratio: float) -> str:
    return f"{ratio:,.0f}" if ratio >= 10 else f"{ratio:.1f}"
