"""Reliability diagrams, and accuracy against cost, as inline SVG in the colours of the page."""

from collections.abc import Sequence

import matplotlib as mpl
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from loradar.evaluation.intervals import wilson
from loradar.report.guards import Cost, Reliability
from loradar.report.plots import ATTACK, CLEAN, INK, MUTED, STYLE, inline

_ACROSS = 3


def reliability_svg(diagrams: Sequence[Reliability], *, key: str) -> str:
    """One `<svg>`: share of right answers with its 95 % interval by confidence, a panel for each voter."""
    if not diagrams:
        return ""
    down = -(-len(diagrams) // _ACROSS)
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(10, 3.1 * down), layout="constrained")
        panels = figure.subplots(down, _ACROSS, squeeze=False).flatten()
        for axes, one in zip(panels, diagrams, strict=False):
            shares = [right / count for right, count in zip(one.rights, one.counts, strict=True)]
            bounds = [wilson(right, count) for right, count in zip(one.rights, one.counts, strict=True)]
            # rounding may leave the bound of 0 or of all images a hair on the wrong side
            low = [max(0.0, share - bound[0]) for share, bound in zip(shares, bounds, strict=True)]
            high = [max(0.0, bound[1] - share) for share, bound in zip(shares, bounds, strict=True)]
            axes.plot([0, 1], [0, 1], color=MUTED, linewidth=1, linestyle=(0, (3, 3)))
            axes.errorbar(one.confidences, shares, yerr=[low, high], color=ATTACK, marker="o", ms=3, linewidth=1)
            axes.set_title(f"{one.model}: calibration error {one.error:.1%}", loc="left", fontsize=10)
            axes.set_xlabel("confidence")
            axes.set(xlim=(0, 1), ylim=(0, 1))
            axes.xaxis.set_major_formatter(PercentFormatter(xmax=1))
            axes.yaxis.set_major_formatter(PercentFormatter(xmax=1))
            axes.grid(axis="y")
        for axes in panels[len(diagrams) :]:
            axes.set_axis_off()
        return inline(figure, key)


def cost_svg(cost: Cost, *, key: str) -> str:
    """One `<svg>`: right answers on the mixture of traffic against forward passes of the base per image."""
    if not cost.points:
        return ""
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(10, 3.4), layout="constrained")
        axes = figure.subplots()
        moved = sorted((p for p in cost.points if p.label.startswith("gate at")), key=lambda p: p.passes)
        axes.plot(
            [p.passes for p in moved], [p.correct / p.total for p in moved], color=MUTED, marker=".", label="gate moved"
        )
        for point in (p for p in cost.points if p not in moved):
            colour = CLEAN if point.label.endswith("alone") else ATTACK
            axes.plot([point.passes], [point.correct / point.total], color=colour, marker="o", ms=5, linestyle="none")
            place = (point.passes, point.correct / point.total)
            axes.annotate(point.label, place, xytext=(6, 4), textcoords="offset points", color=INK, fontsize=9)
        axes.set_xlabel("forward passes of the base per image")
        axes.set_title("right answers on clean and transferred images in equal parts", loc="left", fontsize=10)
        axes.yaxis.set_major_formatter(PercentFormatter(xmax=1))
        axes.set_xlim(left=0)
        axes.margins(x=0.15, y=0.15)
        axes.grid(axis="y")
        if moved:
            axes.legend(frameon=False, loc="best")
        return inline(figure, key)
