"""How long work is watched: bars with throughput and time left, or lines in a log."""

from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, ProgressColumn, SpinnerColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bars
from rich.progress import Task as Bar
from rich.text import Text

from loradar.core.types import Progress, ProgressBar


class _Throughput(ProgressColumn):
    def render(self, task: Bar) -> Text:
        speed = task.finished_speed or task.speed
        return Text(f"{speed:,.0f} {task.fields['unit']}/s" if speed else "", style="cyan")


class _RichTask:
    def __init__(self, bars: Bars, name: str, total: int, unit: str) -> None:
        self.bars = bars
        self.bar = bars.add_task(name, total=total, unit=unit, note="")

    def advance(self, amount: int = 1, note: str = "") -> None:
        if note:
            self.bars.update(self.bar, note=note)
        self.bars.advance(self.bar, amount)


class _RichProgress:
    def __init__(self, bars: Bars) -> None:
        self.bars = bars

    def task(self, name: str, total: int, unit: str = "images") -> ProgressBar:
        # finished bars scroll away: a long run has a hundred of them
        for bar in self.bars.tasks:
            if bar.finished:
                self.bars.remove_task(bar.id)
        return _RichTask(self.bars, name, total, unit)


class _LineTask:
    """A line when a task ends, for logs: a bar is of no use where nobody watches."""

    def __init__(self, console: Console, name: str, total: int) -> None:
        self.console, self.name, self.total, self.done = console, name, total, 0

    def advance(self, amount: int = 1, note: str = "") -> None:
        before, self.done = self.done, self.done + amount
        tenth = max(1, self.total // 10)
        if before // tenth != self.done // tenth or (before < self.total <= self.done):
            self.console.print(f"{self.name}: {self.done}/{self.total} {note}".rstrip(), highlight=False, markup=False)


class _LineProgress:
    def __init__(self, console: Console) -> None:
        self.console = console

    def task(self, name: str, total: int, unit: str = "images") -> ProgressBar:  # noqa: ARG002
        return _LineTask(self.console, name, total)


@contextmanager
def watching(console: Console) -> Iterator[Progress]:
    """Bars with throughput and time left on a terminal, a line for every tenth in a log."""
    if not console.is_terminal:
        yield _LineProgress(console)
        return
    columns = (
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        _Throughput(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}", style="dim"),
    )
    with Bars(*columns, console=console) as bars:
        yield _RichProgress(bars)
