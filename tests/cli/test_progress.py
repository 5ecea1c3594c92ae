"""Progress in a log: percent, time spent, time left; and on a terminal, names as they are."""

import io

import pytest
from rich.console import Console

from loradar.cli import progress as module
from loradar.cli.progress import watching


class Clock:
    now = 100.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(module, "time", clock)
    return clock


def test_a_log_says_percent_elapsed_and_left(clock: Clock) -> None:
    log = io.StringIO()
    with watching(Console(file=log, width=200)) as progress:
        task = progress.task("train [x]", 100)
        for _ in range(10):
            clock.now += 30
            task.advance(10, note="loss 0.5")
    lines = log.getvalue().splitlines()
    assert len(lines) == 10
    assert lines[0] == "train [x]: 10/100 images, 10 %, 30 s elapsed; loss 0.5"
    assert lines[4] == "train [x]: 50/100 images, 50 %, 2 min 30 s elapsed, 2 min 30 s left; loss 0.5"
    assert lines[9] == "train [x]: 100/100 images, 100 %, 5 min elapsed; loss 0.5"


def test_a_resumed_run_is_not_taken_for_a_fast_one(clock: Clock) -> None:
    log = io.StringIO()
    with watching(Console(file=log, width=200)) as progress:
        task = progress.task("train", 100)
        task.advance(50)
        for _ in range(2):
            clock.now += 60
            task.advance(10)
    assert log.getvalue().splitlines()[-1] == "train: 70/100 images, 70 %, 2 min elapsed, 3 min left"


def test_short_work_is_one_line(clock: Clock) -> None:
    log = io.StringIO()
    with watching(Console(file=log, width=200)) as progress:
        task = progress.task("craft", 100)
        for _ in range(10):
            clock.now += 0.5
            task.advance(10)
    assert log.getvalue().splitlines() == ["craft: 100/100 images, 100 %, 5 s elapsed"]


def test_slow_work_is_heard_of_every_minute(clock: Clock) -> None:
    log = io.StringIO()
    with watching(Console(file=log, width=200)) as progress:
        task = progress.task("craft", 1000)
        for _ in range(6):
            clock.now += 30
            task.advance(1)
    assert len(log.getvalue().splitlines()) == 3


@pytest.mark.parametrize("terminal", [True, False])
def test_names_and_messages_are_printed_as_they_are(terminal: bool) -> None:
    screen = io.StringIO()
    target = Console(file=screen, width=200, force_terminal=terminal, color_system=None)
    with watching(target) as progress:
        progress.message("about 5 min [/x] :smile:")
        progress.task("craft [/red]:smile:", 1).advance(1, note="[/y]")
    assert "about 5 min [/x] :smile:" in screen.getvalue()
    assert "craft [/red]:smile:" in screen.getvalue()
    assert "[/y]" in screen.getvalue()
