"""Drawings of the few-shot report: bars by domain, accuracy over radii."""

from collections.abc import Sequence

import matplotlib as mpl
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from loradar.report.few_shot import FewShotRow
from loradar.report.few_shot_views import Curve
from loradar.report.plots import SERIES, STYLE, inline


def bars_svg(rows: Sequence[FewShotRow], methods: Sequence[str], *, key: str) -> str:
    """One `<svg>`: for each domain a group of bars, one for each method, with the 95 % interval. Rows of one attack."""
    domains = list(dict.fromkeys(row.domain for row in rows))
    cells = {(row.domain, row.method): row for row in rows}
    width = 0.8 / max(1, len(methods))
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(10, 3), layout="constrained")
        axes = figure.subplots()
        for number, method in enumerate(methods):
            there = [(i, cells[d, method]) for i, d in enumerate(domains) if (d, method) in cells]
            places = [i + (number - (len(methods) - 1) / 2) * width for i, _ in there]
            half = [row.half_width for _, row in there]
            means = [row.mean for _, row in there]
            colour = SERIES[number % len(SERIES)]
            axes.bar(places, means, width * 0.9, yerr=half, error_kw={"linewidth": 0.8}, color=colour, label=method)
        axes.set_xticks(range(len(domains)), domains)
        axes.set_ylim(0, 1)
        axes.yaxis.set_major_formatter(PercentFormatter(xmax=1))
        axes.grid(axis="y")
        axes.set_axisbelow(True)
        axes.legend(frameon=False, ncols=3, loc="lower center", bbox_to_anchor=(0.5, 1.0), fontsize=9)
        return inline(figure, key)


def radii_svg(curves: Sequence[Curve], *, norm: str, key: str) -> str:
    """One `<svg>`: the mean accuracy of each method over the radius of the attack, with its 95 % band."""
    scale = 255 if norm == "Linf" else 1
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(10, 3), layout="constrained")
        axes = figure.subplots()
        for colour, curve in zip(SERIES, curves, strict=False):
            radii = [radius * scale for radius, _ in curve.points]
            rows = [row for _, row in curve.points]
            axes.plot(radii, [row.mean for row in rows], color=colour, marker="o", ms=3, label=curve.method)
            low, high = [r.mean - r.half_width for r in rows], [r.mean + r.half_width for r in rows]
            axes.fill_between(radii, low, high, color=colour, alpha=0.15, linewidth=0)
        axes.set_ylim(0, 1)
        axes.set_xlabel("radius, 255ths of a pixel (L-inf)" if norm == "Linf" else f"radius ({norm})")
        axes.yaxis.set_major_formatter(PercentFormatter(xmax=1))
        axes.grid(axis="y")
        axes.legend(frameon=False, loc="best", fontsize=9)
        return inline(figure, key)
