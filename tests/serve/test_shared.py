"""One level of alarm for several boards, which never wait for it."""

import threading
import time
from collections.abc import Iterator

import pytest
import torch

from loradar.guard.monitor import Event
from loradar.guard.policy import Level
from loradar.serve.models import Answer
from loradar.serve.shared import EVERY, BoardSettings, FollowedBoard, Sightings, States, Told, TrafficOfAll


def settings(since: float = 1.0, *, level: Level | None = None, window: int = 20) -> BoardSettings:
    return BoardSettings(since=since, level=level, window=window, webhook=None)


def answers(count: int, label: str = "patch") -> list[Answer]:
    shares, suspected = torch.ones(1), (label, 0.9)
    one = Answer(label=0, probabilities=shares, suspected=suspected, model="g", version="v1", fingerprint="f")
    return [one] * count


def wait_for(board: FollowedBoard, level: Level) -> bool:
    ends = time.monotonic() + 10
    while board.level("g") != level and time.monotonic() < ends:
        time.sleep(EVERY / 10)
    return board.level("g") == level


class Link:
    """Boards on one board of all, which may be away, or slow; `told` is what each of them was told."""

    def __init__(self) -> None:
        self.of_all, self.lock = TrafficOfAll(), threading.Lock()
        self.away, self.slow = False, threading.Event()
        self.slow.set()
        self.told: list[list[str]] = []
        self.boards: list[FollowedBoard] = []

    def board(self) -> FollowedBoard:
        kinds = list[str]()

        def tell(name: str, event: Event) -> None:
            kinds.append(f"{name}: {event.kind}")

        self.told.append(kinds)
        self.boards.append(FollowedBoard(self.report, tell))
        return self.boards[-1]

    def report(self, sightings: Sightings) -> tuple[States, Told]:
        self.slow.wait()
        if self.away:
            raise ConnectionError
        with self.lock:
            return self.of_all.report(settings(), sightings)


@pytest.fixture
def link() -> Iterator[Link]:
    link = Link()
    yield link
    link.slow.set()
    for board in link.boards:
        board.close()


def test_what_neither_sees_alone_both_see(link: Link) -> None:
    one, two = link.board(), link.board()
    one.observe("g", answers(12))
    time.sleep(3 * EVERY)
    assert (one.level("g"), two.level("g")) == ("calm", "calm")  # 20 are the fewest that a level is decided on
    two.observe("g", answers(8))
    assert wait_for(one, "raised")
    assert wait_for(two, "raised")
    assert one.states()[0]["seen"] == 20
    time.sleep(2 * EVERY)
    assert link.told == [[], ["g: raised"]]  # the event is told once


def test_nobody_waits_for_the_board(link: Link) -> None:
    board = link.board()
    link.slow.clear()
    time.sleep(2 * EVERY)  # a report is under way
    began = time.monotonic()
    board.observe("g", answers(10_100))
    assert board.level("g") == "calm"
    assert time.monotonic() - began < 1
    link.slow.set()
    assert wait_for(board, "raised")
    assert board.states()[0]["seen"] == 10_000  # what waits is bounded


def test_while_the_board_is_away_the_last_level_holds(link: Link) -> None:
    board = link.board()
    board.observe("g", answers(20))
    assert wait_for(board, "raised")
    link.away = True
    board.observe("g", answers(1000, "clean"))
    time.sleep(3 * EVERY)
    assert board.level("g") == "raised"
    link.of_all, link.away = TrafficOfAll(), False  # it comes back and knows nothing
    board.observe("g", answers(20, "clean"))
    assert wait_for(board, "calm")


def test_what_waits_is_reported_at_the_end(link: Link) -> None:
    board = link.board()
    board.observe("g", answers(5))
    board.close()
    assert link.of_all.report(settings(), {})[0][0]["seen"] == 5


def test_the_latest_settings_hold() -> None:
    of_all, found = TrafficOfAll(), [("patch", 0.9, ())]
    of_all.report(settings(1.0), {"g": found * 10})
    assert of_all.report(settings(2.0), {"g": found * 10})[0][0]["level"] == "raised"  # nothing else was changed
    of_all.report(settings(3.0, level="calm"), {})
    (state,), _ = of_all.report(settings(2.0), {"g": found * 30})  # of a replica that is to be replaced
    assert (state["level"], state["seen"]) == ("calm", 30)
