"""The monitor: levels go up and down at their own bounds, and every decision says why."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from loradar.core.errors import BadConfigError
from loradar.guard.monitor import TrafficMonitor


def monitor(**changes: object) -> TrafficMonitor:
    values: dict[str, object] = {"window": 10, "raise_at": 0.4, "lower_at": 0.1, "minimum": 5}
    return TrafficMonitor(**values | changes)  # type: ignore[arg-type]


def test_the_level_rises_and_falls_with_reasons() -> None:
    watched = monitor()
    events = [event for name in ["clean"] * 6 + ["roa"] * 4 + ["clean"] * 12 for event in watched.observe(name)]
    assert [event.kind for event in events] == ["raised", "lowered"]
    assert "40% of the last 10 images suspected" in events[0].reason
    assert events[0].counts == {"clean": 6, "roa": 4}
    assert events[1].level == "calm"
    assert watched.seen == 22


def test_between_the_bounds_nothing_switches() -> None:
    watched = monitor()
    for name in ["roa"] * 5:
        watched.observe(name)
    assert watched.level == "raised"
    # two or three of ten: below the upper bound, above the lower one
    assert [e for _ in range(10) for name in ("clean", "clean", "clean", "roa") for e in watched.observe(name)] == []
    assert watched.level == "raised"


@given(st.lists(st.sampled_from(["clean", "roa", "unknown"]), max_size=80))
def test_levels_alternate_and_are_where_the_bounds_say(names: list[str]) -> None:
    watched = monitor()
    events = [event for name in names for event in watched.observe(name)]
    kinds = [event.kind for event in events]
    assert all(kind == ("raised", "lowered")[i % 2] for i, kind in enumerate(kinds))
    if len(names) >= 5:
        assert not (watched.level == "calm" and watched.share >= 0.4)
        assert not (watched.level == "raised" and watched.share <= 0.1)


def test_too_few_images_decide_nothing_and_a_fixed_level_stays() -> None:
    watched = monitor()
    assert [e for _ in range(4) for e in watched.observe("roa")] == []
    fixed = monitor(fixed="raised")
    assert [e for _ in range(30) for e in fixed.observe("clean")] == []
    assert fixed.level == "raised"


def test_defenses_are_logged() -> None:
    (event,) = monitor().observe("roa", defenses=("mask",), confidence=0.97)
    assert (event.kind, event.defenses, event.image) == ("defended", ("mask",), 0)
    assert event.reason == "identified as roa with probability 0.97 at level calm"


@pytest.mark.parametrize("changes", [{"lower_at": 0.5}, {"minimum": 11}, {"minimum": 0}, {"raise_at": 1.5}])
def test_bounds_that_make_no_sense_are_refused(changes: dict[str, object]) -> None:
    with pytest.raises(BadConfigError, match="expected"):
        monitor(**changes)
