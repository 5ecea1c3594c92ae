"""Progress on standard error: bars on a terminal, lines in a log, both with the time left."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, ProgressColumn, SpinnerColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bars
from rich.progress import Task as Bar
from rich.text import Text

from loradar.cli.printing import escape
from loradar.core.timing import duration
from loradar.core.torchrun import launched
from loradar.core.types import NullProgress, Progress, ProgressBar

_SILENCE = 60.0
"""Seconds after which a log gets a line although no tenth of the work is done."""
_PAUSE = 5.0
"""Seconds between two lines on the same work, but for its last one: most work of a run is short."""


class _Throughput(ProgressColumn):
    def render(self, task: Bar) -> Text:
        speed = task.finished_speed or task.speed
        return Text(f"{speed:,.0f} {task.fields['unit']}/s" if speed else "", style="cyan")


class _RichTask:
    def __init__(self, bars: Bars, name: str, total: int, unit: str) -> None:
        self.bars = bars
        self.bar = bars.add_task(escape(name), total=total, unit=unit, note="")

    def advance(self, amount: int = 1, note: str = "") -> None:
        if note:
            self.bars.update(self.bar, note=escape(note))
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

    def message(self, text: str) -> None:
        self.bars.console.print(Text(escape(text)), soft_wrap=True)


class _LineTask:
    """Writes a line at every tenth of the work, where some seconds lie between them, and once a minute."""

    def __init__(self, write: Callable[[str], None], name: str, total: int, unit: str) -> None:
        self.write, self.name, self.total, self.unit = write, name, total, unit
        self.done, self.began = 0, time.monotonic()
        self.written = self.began
        self.first: tuple[int, float] | None = None

    def advance(self, amount: int = 1, note: str = "") -> None:
        before, self.done, now = self.done, self.done + amount, time.monotonic()
        tenth, silent = max(1, self.total // 10), now - self.written
        if (
            before < self.total <= self.done
            or silent >= _SILENCE
            or (silent >= _PAUSE and before // tenth != self.done // tenth)
        ):
            self.written = now
            self.write(self._line(now, note))
        # a resumed run begins with one large step that took no time, so the speed is that of the later ones
        self.first = self.first or (self.done, now)

    def _line(self, now: float, note: str) -> str:
        parts = [f"{100 * self.done // max(1, self.total)} %", f"{duration(now - self.began)} elapsed"]
        if self.first is not None and self.first[0] < self.done < self.total:
            speed = (self.done - self.first[0]) / max(now - self.first[1], 1e-9)
            parts.append(f"{duration((self.total - self.done) / speed)} left")
        line = f"{self.name}: {self.done}/{self.total} {self.unit}, {', '.join(parts)}"
        return f"{line}; {note}" if note else line


class _LineProgress:
    def __init__(self, console: Console) -> None:
        self.console = console

    def task(self, name: str, total: int, unit: str = "images") -> ProgressBar:
        return _LineTask(self.message, name, total, unit)

    def message(self, text: str) -> None:
        self.console.print(Text(escape(text)), soft_wrap=True)


@contextmanager
def watching(console: Console) -> Iterator[Progress]:
    """Bars with throughput and time left on a terminal, lines in a log; of several processes, from the first one alone."""
    if launched().rank:
        yield NullProgress()
        return
    if not console.is_terminal:
        yield _LineProgress(console)
        return
    columns = (
        SpinnerColumn(),
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        _Throughput(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}", style="dim", markup=False),
    )
    with Bars(*columns, console=console) as bars:
        yield _RichProgress(bars)
