"""What the few-shot commands print."""

from collections.abc import Sequence
from pathlib import Path

from rich.console import Group, RenderableType
from rich.table import Table

from loradar.fewshot.classify import Answer
from loradar.fewshot.fit import Fitted
from loradar.report.few_shot import AVERAGE
from loradar.report.files import read_report
from loradar.report.measured import attack_names


def summary(folder: Path) -> RenderableType:
    """The averages of a report, a line each."""
    section = read_report(folder).few_shot
    rows = section.rows if section else ()
    names = attack_names(row.attack for row in rows)
    table = Table(
        "method", "domains", "setting", "attack", "right (95 % interval)", "tasks", box=None, header_style="bold"
    )
    for row in rows:
        if row.domain.startswith(AVERAGE):
            figure = f"{100 * row.mean:.1f} ± {100 * row.half_width:.1f} %"
            domain = row.domain.removeprefix(AVERAGE).strip()
            table.add_row(row.method, domain, row.setting, names[row.attack], figure, str(row.episodes))
    return table


def fitted(result: Fitted) -> RenderableType:
    """Who was blended, how large the adapter is, and how long each step took."""
    weights = ", ".join(f"{name} {weight:.2f}" for name, weight in result.weights.items() if weight)
    seconds = ", ".join(f"{name} {value:.2f} s" for name, value in result.seconds.items())
    lines = [f"classes: {', '.join(result.adapter.card.classes)}", f"blend:   {weights}", f"time:    {seconds}"]
    if result.rate is not None:
        told = (
            f"every weight, at rate {result.rate:g}"
            if result.rate
            else "no rate did better than the blend, which stays"
        )
        lines.append(f"tuned:   {told}")
    if result.error is not None:
        lines.append(f"truncated: relative error {result.error:.4f}")
    return Group(*lines)


def answered(answers: Sequence[Answer]) -> RenderableType:
    """An image a line, with the answer and its share."""
    table = Table("image", "answer", "confidence", box=None, header_style="bold")
    for one in answers:
        table.add_row(one.image, one.answer, f"{100 * one.confidence:.0f} %")
    return table
