"""Verdicts in plain words: whether each model is robust, to what, how sure, and what to do next."""

import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from loradar.evaluation.names import kind, labels
from loradar.report.measured import UNION, Figure, Measured, measured
from loradar.report.schema import Report

Level = Literal["robust", "partly", "not", "unknown"]
RULE = (
    "A model holds against an attack if the attack was computed on the model itself (adaptive), and the whole 95 % interval "
    "of its accuracy lies above the interval of the base under the same attack and above chance (1 / number of classes). "
    "It is robust if it holds against every adaptive attack that was measured, partly robust if it holds against some, and "
    "not robust if it holds against none and an attack leaves no more than the base keeps, or no more than chance. Anything "
    "else is no evidence of robustness: transfer alone, a failed leak test, a failed masking check, intervals that overlap. "
    "An adaptive figure with an effort is the worst, image by image, over a battery of attacks. "
    "The base has nothing to be compared with. It is not robust if an attack leaves at most half of its clean accuracy, or "
    "no more than chance; partly robust if an attack clearly lowers its accuracy; otherwise there is no evidence."
)
WIDE = 0.1
"""An interval wider than this asks for more images."""


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """What the figures say of one model: `candidate` is its name in the report, `text` begins with it."""

    candidate: str
    level: Level
    text: str


def verdicts(report: Report) -> list[Verdict]:
    """Judges every model by `RULE`: the base first, then the adapters, the baselines last.

    >>> from loradar.evaluation import AccuracyResult
    >>> row = AccuracyResult.count(model="base", attack="pgd", threat="adaptive", correct=1, total=100, seed=0)
    >>> print(verdicts(Report(rows=(row,), base={"num_classes": 10}, data={}, versions={}))[0].text)
    base: NOT robust: 1 % (0.2-5, n = 100) of images survive PGD.
    """
    return [judge(one) for one in measured(report)]


def judge(one: Measured) -> Verdict:
    """Applies `RULE` to one model."""
    level, sentence = _alone(one) if one.base is None else _beside_base(one)
    if one.clean:
        beside = f" against {100 * one.base_clean.share:.1f} %" if one.base_clean else ""
        sentence += f"; clean accuracy {100 * one.clean.share:.1f} %{beside}"
    ends = []
    if one.leak:
        ends.append(one.leak.sentence)
    if one.failed:
        ends.append(f"Fails {one.failed} of {one.checks} checks for masked gradients.")
    return Verdict(candidate=one.label, level=level, text=" ".join([f"{one.label}: {sentence}.", *ends]))


def next_steps(report: Report) -> list[str]:
    """Lists what would make the verdicts surer or the models stronger: at most five, the most important first."""
    aside = {label for (model, _), label in labels(report.rows).items() if model in report.baselines}
    models = [one for one in measured(report) if one.label not in aside]
    adapted = [one for one in models if one.base is not None]
    levels = {one.label: judge(one).level for one in models}
    leaking = [one.label for one in adapted if one.leak and one.leak.verdict == "leaks"]
    weak = [one.label for one in adapted if levels[one.label] == "not" and one.label not in leaking]
    masked = [one.label for one in models if one.failed]
    moved = [one.label for one in models if one.transfer and not one.adaptive]
    narrow = [one.label for one in adapted if levels[one.label] == "robust" and set(one.adaptive) <= one.own]
    figures = [figure for one in adapted or models for figure in one.adaptive.values()]
    widest = max((figure.high - figure.low for figure in figures), default=0.0)
    efforts = {figure.effort for figure in figures} - {""}
    attacks = " ".join(attack for one in adapted or models for attack in one.adaptive)
    known = {attack for one in models for attack in one.adaptive}
    unit = "tasks" if report.few_shot else "images"
    trains = not report.guard and not report.few_shot
    base, data = _names(report)
    steps = [
        (trains and not adapted and "not" in levels.values(), f"Train adapters: loradar harden {base} --data {data}."),
        (
            moved,
            f"Measure {_and(moved)} adaptively: loradar audit {base} --adapter FOLDER --data {data} --threat adaptive.",
        ),
        (trains and leaking, f"Retrain {_and(leaking)} with attacks on the adapted model (--recipe balanced)."),
        (masked, f"Attack {_and(masked)} without gradients, for example with autoattack: the gradients look masked."),
        (trains and weak, f"Retrain {_and(weak)} with --recipe strong, a lower --clean-weight, or more --epochs."),
        (
            narrow,
            f"Measure {_and(narrow)} adaptively under attacks other than the one trained against "
            f"({'--adaptive all' if len(known) > 1 else '--adaptive-attacks; loradar attacks list has them'}).",
        ),
        (widest > WIDE, f"Measure more {unit}: intervals are up to {100 * widest:.0f} points wide."),
        (efforts and "full" not in efforts, "Confirm with more effort (--effort full)."),
        (
            attacks and not efforts and "autoattack" not in attacks.lower(),
            "Confirm with a stronger attack, such as autoattack.",
        ),
    ]
    return [text for applies, text in steps if applies][:5]


def _names(report: Report) -> tuple[str, str]:
    """Of the base and of its images, as a command takes them; placeholders where they were in memory, or are a task's."""
    base, data = (str(one.get(key) or "") for one, key in ((report.base, "spec"), (report.settings, "data")))
    if not base or not data or "task" in report.base or base.startswith("memory:"):
        return "BASE", "DATA"
    return shlex.quote(base), shlex.quote(data)


def _alone(one: Measured) -> tuple[Level, str]:
    """The base, or a model that no base was measured beside."""
    if not one.adaptive:
        return "unknown", _not_adaptive(one)
    # of each kind of attack the most harmful
    by_kind: dict[str, Figure] = {}
    for attack, figure in one.adaptive.items():
        by_kind.setdefault(one.names[attack] if attack == UNION else kind(attack), figure)
    (name, worst), *others = by_kind.items()
    rest = "".join(f", {_percent(figure.share)} {other}" for other, figure in others[:2])
    figures = f"{_figure(worst, one.unit)} of {one.unit} survive {name}{rest}"
    if worst.share <= max(one.chance, one.clean.share / 2 if one.clean else 0.0):
        return "not", f"NOT robust: {figures}"
    if one.clean and worst.high < one.clean.low:
        return "partly", f"partly robust: {figures}"
    return "unknown", f"no evidence of robustness, only that the attacks tried do not clearly hurt it: {figures}"


def _beside_base(one: Measured) -> tuple[Level, str]:
    if not one.adaptive:
        return "unknown", _not_adaptive(one)
    held = [attack for attack in one.adaptive if one.holds(attack)]
    lost = [attack for attack in one.adaptive if attack not in held]
    if held and one.is_trusted:
        names = _and([one.names[attack] for attack in held])
        if not lost:
            start = f"{names}: at the least, " if len(held) > 1 else f"{names}, the only attack measured adaptively: "
            return "robust", f"robust to {start}{_survive(one, held[0])}"
        worst = f"{one.names[lost[0]]}, {_figure(one.adaptive[lost[0]], one.unit)}"
        rest = f", and {len(lost) - 1} more" if len(lost) > 1 else ""
        shown = _survive(one, one.first(held))
        return "partly", f"partly robust: holds against {names}: {shown}; not against {worst}{rest}"
    if broken := [attack for attack in lost if one.breaks(attack)]:
        return "not", f"NOT robust: {_survive(one, one.first(broken), moved=True)}"
    attack = one.first(one.adaptive)
    return "unknown", f"no evidence of robustness: {_survive(one, attack, moved=True)}{_why(one, attack)}"


def _why(one: Measured, attack: str) -> str:
    """Why a figure that is not low is no evidence."""
    base, own = (one.base or {}).get(attack), one.adaptive[attack]
    if base is None:
        return "; the base was not measured under this attack"
    if own.low <= base.high:
        return "; the intervals overlap"
    return f"; not clearly above chance ({_percent(one.chance)})" if own.low <= one.chance else ""


def _survive(one: Measured, attack: str, *, moved: bool = False) -> str:
    """The adaptive figure, beside the base's; with `moved`, beside the transferred one where that looks clearly better."""
    own, transferred, base = one.adaptive[attack], one.transfer.get(attack), (one.base or {}).get(attack)
    figure, survive = _figure(own, one.unit), f"of {one.unit} survive {one.names[attack]}"
    if moved and transferred and transferred.low > own.high:
        return f"{_percent(transferred.share)} {survive} computed on the base, {figure} computed on the model itself"
    itself = "" if attack == UNION else " computed on the model itself"
    return f"{figure} {survive}{itself}" + (f", {_percent(base.share)} {one.without}" if base else "")


def _not_adaptive(one: Measured) -> str:
    if not one.transfer:
        return "no evidence of robustness, no attack was measured"
    attack = one.first(one.transfer)
    base = (one.base or {}).get(attack)
    beside = f", {_percent(base.share)} {one.without}" if base else ""
    figure = f"{_figure(one.transfer[attack], one.unit)} of {one.unit} survive {one.names[attack]} computed on the base{beside}"
    return f"no evidence of robustness, measured by transfer only: {figure}"


def _figure(figure: Figure, unit: str) -> str:
    n = f"n = {figure.total}" if unit == "images" else f"{figure.total} tasks"
    effort = f", {figure.effort} effort" if figure.effort else ""
    return f"{_percent(figure.share)} ({_number(figure.low)}-{_number(figure.high)}, {n}{effort})"


def _percent(share: float) -> str:
    return f"{_number(share)} %"


def _number(share: float) -> str:
    """Whole percent, with a decimal where it would read as none or all."""
    value = 100 * share
    if 0 < value < 1:
        return f"{max(value, 0.1):.1f}"
    return f"{min(value, 99.9):.1f}" if 99 < value < 100 else f"{value:.0f}"


def _and(names: Sequence[str]) -> str:
    *most, last = names or ("",)
    if len(most) > 3:
        return f"{', '.join(most[:3])} and {len(most) - 2} more"
    return f"{', '.join(most)} and {last}" if most else last
