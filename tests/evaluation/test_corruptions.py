"""Which corruption a task meets."""

from loradar.data import CORRUPTIONS, SEVERITIES
from loradar.evaluation.corruptions import corruption_of


def test_as_many_tasks_as_pairs_meet_each_once() -> None:
    count = len(CORRUPTIONS) * SEVERITIES
    met = {corruption_of(index) for index in range(count)}
    assert met == {(kind, severity) for kind in CORRUPTIONS for severity in range(1, SEVERITIES + 1)}
    assert corruption_of(count) == corruption_of(0)
