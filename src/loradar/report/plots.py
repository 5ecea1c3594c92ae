"""Training curves as inline SVG, in the colours of the page (CSS variables), so that light and dark both fit."""

import io
import re

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from loradar.evaluation.intervals import wilson
from loradar.report.schema import Curve

# matplotlib wants colours, the page wants variables: each stands for one and is replaced in the text of the SVG
_VARIABLES = {
    "#010203": "--ink",
    "#010204": "--muted",
    "#010205": "--line",
    "#010206": "--clean",
    "#010207": "--attack",
    "#010208": "--transfer",
    "#010209": "--heat",
}
INK, MUTED, LINE, CLEAN, ATTACK, TRANSFER, HEAT = _VARIABLES
SERIES = (ATTACK, MUTED, TRANSFER, CLEAN, HEAT, INK)
"""Colours that are told apart, the first for what a report is about."""
STYLE = {
    "svg.fonttype": "none",
    "svg.hashsalt": "loradar",
    "font.size": 10,
    "text.color": INK,
    "axes.labelcolor": MUTED,
    "axes.edgecolor": LINE,
    "xtick.color": LINE,
    "ytick.color": LINE,
    "xtick.labelcolor": MUTED,
    "ytick.labelcolor": MUTED,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "grid.color": LINE,
    "grid.linewidth": 0.6,
}


def curve_svg(curve: Curve, *, key: str) -> str:
    """One `<svg>`: right answers on the validation split with their 95 % band, and the loss, by epoch.

    `key` keeps the ids of several drawings on one page apart. Empty for a curve of no points.
    """
    if not curve.points:
        return ""
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(10, 3), layout="constrained")
        accuracy, loss = figure.subplots(1, 2)
        _draw_counts(accuracy, curve)
        _draw_loss(loss, curve)
        for axes in (accuracy, loss):
            axes.axvline(curve.selected, color=MUTED, linewidth=1, linestyle=(0, (3, 3)))
            axes.set_xlabel("epoch (dashed: selected)")
            axes.xaxis.get_major_locator().set_params(integer=True)
            axes.grid(axis="y")
        return inline(figure, key)


def _draw_counts(axes: Axes, curve: Curve) -> None:
    clean = [(point.epoch, point.clean, point.total) for point in curve.points]
    attacked = [(point.epoch, point.adversarial, point.total) for point in curve.points]
    for kind, colour, counts in (("clean", CLEAN, clean), ("adversarial", ATTACK, attacked)):
        known = [(epoch, count, total) for epoch, count, total in counts if count is not None and total is not None]
        if not known:
            continue
        epochs = [epoch for epoch, _, _ in known]
        low, high = zip(*(wilson(count, total) for _, count, total in known), strict=True)
        axes.plot(epochs, [count / total for _, count, total in known], color=colour, marker="o", ms=3, label=kind)
        axes.fill_between(epochs, low, high, color=colour, alpha=0.15, linewidth=0)
    axes.set_ylim(0, 1)
    axes.yaxis.set_major_formatter(PercentFormatter(xmax=1))
    axes.set_title("right on the validation split", loc="left", fontsize=10)
    if axes.lines:
        axes.legend(frameon=False, loc="best")


def _draw_loss(axes: Axes, curve: Curve) -> None:
    known = [(point.epoch, point.loss) for point in curve.points if point.loss is not None]
    axes.plot([epoch for epoch, _ in known], [value for _, value in known], color=INK, marker="o", ms=3)
    axes.set_ylim(bottom=0)
    axes.set_title("training: mean loss, nats", loc="left", fontsize=10)


def inline(figure: Figure, key: str) -> str:
    """The figure as one `<svg>` in the page's colours; `key` keeps its ids apart from those of other drawings."""
    file = io.StringIO()
    figure.savefig(file, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    svg = file.getvalue()
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    svg = re.sub(r'(\bid="|url\(#|href="#)', rf"\g<1>{key}-", svg)
    for colour, variable in _VARIABLES.items():
        svg = svg.replace(colour, f"var({variable})")
    return svg
