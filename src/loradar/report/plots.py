"""Drawings as inline SVG in the colours of the page (CSS variables), so that light and dark both fit.

matplotlib is imported when the first drawing is made.
"""

import io
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from markupsafe import Markup, escape

from loradar.evaluation.intervals import wilson
from loradar.report.few_shot import FewShotRow
from loradar.report.guards import Cost, Reliability
from loradar.report.schema import Curve
from loradar.report.sweeps import Searched, SweepSection, SweepTrial, in_words

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
_INK, _MUTED, _LINE, _CLEAN, _ATTACK, _TRANSFER, _HEAT = _VARIABLES
_SERIES = (_ATTACK, _MUTED, _TRANSFER, _CLEAN, _HEAT)
_STYLE = {
    "svg.fonttype": "none",
    "svg.hashsalt": "loradar",
    "font.size": 10,
    "text.color": _INK,
    "axes.labelcolor": _MUTED,
    "axes.edgecolor": _LINE,
    "xtick.color": _LINE,
    "ytick.color": _LINE,
    "xtick.labelcolor": _MUTED,
    "ytick.labelcolor": _MUTED,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "grid.color": _LINE,
    "grid.linewidth": 0.6,
}
_DASHED = (0, (3, 3))
_ACROSS = 3
_LONGEST = 32


@dataclass(frozen=True)
class _Names:
    """Stands plain words in for names that users gave: in matplotlib these may be formulas, or lack a glyph.

    Names of more than _LONGEST letters are shortened; the tables of a page have them in full.
    """

    given: list[str] = field(default_factory=list)

    def __call__(self, name: str) -> str:
        name = name if len(name) <= _LONGEST else f"{name[: _LONGEST - 1]}…"
        self.given.append(name)
        mark = f"@{len(self.given) - 1}@"
        return mark + "n" * (len(name) - len(mark))  # as wide, for the layout

    def restored(self, svg: str) -> str:
        return re.sub(r"@(\d+)@n*", lambda found: str(escape(self.given[int(found[1])])), svg)


def curve_svg(curve: Curve, *, key: str) -> Markup:
    """Draws right answers on the validation split with their 95 % band, and the loss, by epoch.

    `key` keeps the ids of several drawings on one page apart. Empty for a curve of no points.
    """

    def draw(figure: Any, _names: _Names) -> None:
        accuracy, loss = figure.subplots(1, 2)
        _draw_counts(accuracy, curve)
        known = [(point.epoch, point.loss) for point in curve.points if point.loss is not None]
        loss.plot([epoch for epoch, _ in known], [value for _, value in known], color=_INK, marker="o", ms=3)
        loss.set_ylim(bottom=0)
        loss.set_title("training: mean loss, nats", loc="left", fontsize=10)
        for axes in (accuracy, loss):
            axes.axvline(curve.selected, color=_MUTED, linewidth=1, linestyle=_DASHED)
            axes.set_xlabel("epoch (dashed: selected)")
            axes.xaxis.get_major_locator().set_params(integer=True)
            axes.grid(axis="y")

    return _svg(draw, key=key) if curve.points else Markup()


def _draw_counts(axes: Any, curve: Curve) -> None:
    clean = [(point.epoch, point.clean, point.total) for point in curve.points]
    attacked = [(point.epoch, point.adversarial, point.total) for point in curve.points]
    for kind, colour, counts in (("clean", _CLEAN, clean), ("adversarial", _ATTACK, attacked)):
        known = [(epoch, count, total) for epoch, count, total in counts if count is not None and total is not None]
        if not known:
            continue
        epochs = [epoch for epoch, _, _ in known]
        low, high = zip(*(wilson(count, total) for _, count, total in known), strict=True)
        axes.plot(epochs, [count / total for _, count, total in known], color=colour, marker="o", ms=3, label=kind)
        axes.fill_between(epochs, low, high, color=colour, alpha=0.15, linewidth=0)
    axes.set_ylim(0, 1)
    _in_percent(axes.yaxis)
    axes.set_title("right on the validation split", loc="left", fontsize=10)
    if axes.lines:
        axes.legend(frameon=False, loc="best")


def reliability_svg(diagrams: Sequence[Reliability], *, key: str) -> Markup:
    """Draws the share of right answers with its 95 % interval by confidence, a panel for each voter."""

    def draw(figure: Any, names: _Names) -> None:
        panels = figure.subplots(-(-len(diagrams) // _ACROSS), _ACROSS, squeeze=False).flatten()
        for axes, one in zip(panels, diagrams, strict=False):
            shares = [right / count for right, count in zip(one.rights, one.counts, strict=True)]
            bounds = [wilson(right, count) for right, count in zip(one.rights, one.counts, strict=True)]
            # rounding may leave the bound of 0 or of all images a hair on the wrong side
            low = [max(0.0, share - bound[0]) for share, bound in zip(shares, bounds, strict=True)]
            high = [max(0.0, bound[1] - share) for share, bound in zip(shares, bounds, strict=True)]
            axes.plot([0, 1], [0, 1], color=_MUTED, linewidth=1, linestyle=_DASHED)
            axes.errorbar(one.confidences, shares, yerr=[low, high], color=_ATTACK, marker="o", ms=3, linewidth=1)
            axes.set_title(f"{names(one.model)}: calibration error {one.error:.1%}", loc="left", fontsize=10)
            axes.set_xlabel("confidence")
            axes.set(xlim=(0, 1), ylim=(0, 1))
            _in_percent(axes.xaxis)
            _in_percent(axes.yaxis)
            axes.grid(axis="y")
        for axes in panels[len(diagrams) :]:
            axes.set_axis_off()

    return _svg(draw, key=key, height=3.1 * -(-len(diagrams) // _ACROSS)) if diagrams else Markup()


def cost_svg(cost: Cost, *, key: str) -> Markup:
    """Draws right answers on the mixture of traffic against forward passes of the base per image."""

    def draw(figure: Any, names: _Names) -> None:
        axes = figure.subplots()
        moved = sorted((p for p in cost.points if p.label.startswith("gate at")), key=lambda p: p.passes)
        shares = [p.correct / p.total for p in moved]
        axes.plot([p.passes for p in moved], shares, color=_MUTED, marker=".", label="gate moved")
        for point in (p for p in cost.points if p not in moved):
            colour = _CLEAN if point.label.endswith("alone") else _ATTACK
            place = (point.passes, point.correct / point.total)
            axes.plot(*place, color=colour, marker="o", ms=5, linestyle="none")
            axes.annotate(names(point.label), place, xytext=(6, 4), textcoords="offset points", color=_INK, fontsize=9)
        axes.set_xlabel("forward passes of the base per image")
        axes.set_title("right answers on clean and transferred images in equal parts", loc="left", fontsize=10)
        _in_percent(axes.yaxis)
        axes.set_xlim(left=0)
        axes.margins(x=0.15, y=0.15)
        axes.grid(axis="y")
        if moved:
            axes.legend(frameon=False, loc="best")

    return _svg(draw, key=key, height=3.4) if cost.points else Markup()


def bars_svg(rows: Sequence[FewShotRow], methods: Sequence[str], *, key: str) -> Markup:
    """Draws for each domain a group of bars, one for each method, with the 95 % interval. Rows of one attack."""

    def draw(figure: Any, names: _Names) -> None:
        axes = figure.subplots()
        domains = list(dict.fromkeys(row.domain for row in rows))
        cells = {(row.domain, row.method): row for row in rows}
        width = 0.8 / max(1, len(methods))
        for number, method in enumerate(methods):
            there = [(i, cells[d, method]) for i, d in enumerate(domains) if (d, method) in cells]
            places = [i + (number - (len(methods) - 1) / 2) * width for i, _ in there]
            half, means = [row.half_width for _, row in there], [row.mean for _, row in there]
            colour = _SERIES[number % len(_SERIES)]
            bars = {"yerr": half, "error_kw": {"linewidth": 0.8}, "color": colour, "label": names(method)}
            axes.bar(places, means, width * 0.9, **bars)
        turned = {"rotation": 20, "ha": "right"} if any(len(domain) > 14 for domain in domains) else {}
        axes.set_xticks(range(len(domains)), [names(domain) for domain in domains], **turned)
        axes.set_ylim(0, 1)
        _in_percent(axes.yaxis)
        axes.grid(axis="y")
        axes.set_axisbelow(True)
        axes.legend(frameon=False, ncols=3, loc="lower center", bbox_to_anchor=(0.5, 1.0), fontsize=9)

    return _svg(draw, key=key)


def eps_svg(curves: Mapping[str, Sequence[tuple[float, FewShotRow]]], *, norm: str, key: str) -> Markup:
    """Draws the mean accuracy of each method over the eps of the attack, with its 95 % band."""

    def draw(figure: Any, names: _Names) -> None:
        axes = figure.subplots()
        for colour, (method, points) in zip(_SERIES, curves.items(), strict=False):
            eps = [value * (255 if norm == "linf" else 1) for value, _ in points]
            rows = [row for _, row in points]
            axes.plot(eps, [row.mean for row in rows], color=colour, marker="o", ms=3, label=names(method))
            axes.fill_between(eps, [r.low for r in rows], [r.high for r in rows], color=colour, alpha=0.15, linewidth=0)
        axes.set_ylim(0, 1)
        axes.set_xlabel("eps, 255ths of a pixel (L-inf)" if norm == "linf" else "eps (L2)")
        _in_percent(axes.yaxis)
        axes.grid(axis="y")
        axes.legend(frameon=False, loc="best", fontsize=9)

    return _svg(draw, key=key)


def trials_svg(section: SweepSection, *, key: str) -> Markup:
    """Draws every trial's score on the validation split by epoch; the best on top, stopped and failed ones dimmer."""

    def draw(figure: Any, _names: _Names) -> None:
        axes = figure.subplots()
        for trial in reversed(section.ranked):
            scores, look = section.scores(trial), _look(section, trial)
            axes.plot(range(1, len(scores) + 1), scores, linewidth=2.5 if trial.number == section.best else 1.2, **look)
            # a cross where it was stopped
            axes.plot(len(scores), scores[-1:] or [0], **look | {"marker": "x" if trial.state != "finished" else ""})
        _in_percent(axes.yaxis)
        axes.set_title("score on the validation split", loc="left", fontsize=10)
        axes.set_xlabel("epoch (a cross: stopped)")
        axes.xaxis.get_major_locator().set_params(integer=True)
        axes.grid(axis="y")
        _explain(axes, section)

    return _svg(draw, key=key, height=3.6)


def searched_svg(section: SweepSection, *, key: str) -> Markup:
    """Draws the score of every trial against each searched setting, a panel for each; stopped trials hollow and dimmer."""
    across = 2 if len(section.searched) in (2, 4) else min(_ACROSS, len(section.searched))
    down = -(-len(section.searched) // across)

    def draw(figure: Any, names: _Names) -> None:
        panels = figure.subplots(down, across, squeeze=False, sharey=True).flatten()
        for axes, one in zip(panels, section.searched, strict=False):
            for trial in reversed(section.ranked):
                if trial.selected:
                    place = (_place(one, trial.settings[one.name]), section.score(trial))
                    size = 8 if trial.number == section.best else 5
                    full = {} if trial.state == "finished" else {"mfc": "none"}
                    axes.plot(*place, marker="o", ms=size, **full, **_look(section, trial))
            if one.values:
                axes.set_xticks(range(len(one.values)), [names(in_words(value)) for value in one.values])
                axes.set_xlim(-0.5, len(one.values) - 0.5)
            elif one.log:
                axes.set_xscale("log")
            axes.set_title(f"score by {names(one.name)}", loc="left", fontsize=10)
            _in_percent(axes.yaxis)
            axes.grid(axis="y")
        for axes in panels[len(section.searched) :]:
            axes.set_axis_off()

    return _svg(draw, key=key, height=2.8 * down)


def _look(section: SweepSection, trial: SweepTrial) -> dict[str, Any]:
    if trial.number == section.best:
        return {"color": _ATTACK}
    return {"color": _MUTED, "alpha": 0.9 if trial.state == "finished" else 0.35}


def _place(one: Searched, value: object) -> float:
    return one.values.index(value) if one.values else float(value)  # type: ignore[arg-type]


def _explain(axes: Any, section: SweepSection) -> None:
    for trial in {trial.state: trial for trial in section.ranked if trial.number != section.best}.values():
        axes.plot([], [], label=trial.state, **_look(section, trial))
    axes.plot([], [], label=f"the best, trial {section.best}", linewidth=2.5, color=_ATTACK)
    axes.legend(frameon=False, loc="best", fontsize=9)


def _in_percent(axis: Any) -> None:
    from matplotlib.ticker import PercentFormatter

    axis.set_major_formatter(PercentFormatter(xmax=1))


def _svg(draw: Callable[[Any, _Names], None], *, key: str, height: float = 3.0) -> Markup:
    """One `<svg>` in the page's colours; `key` keeps its ids apart from those of other drawings."""
    import matplotlib as mpl
    from matplotlib.figure import Figure

    names, file = _Names(), io.StringIO()
    with mpl.rc_context(_STYLE):
        figure = Figure(figsize=(10, height), layout="constrained")
        draw(figure, names)
        figure.savefig(file, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    svg = file.getvalue()
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    svg = re.sub(r'(\bid="|url\(#|href="#)', rf"\g<1>{key}-", svg)
    for colour, variable in _VARIABLES.items():
        svg = svg.replace(colour, f"var({variable})")
    # last, so that no name is taken for a colour or an id
    return Markup(names.restored(svg))
