"""The notes of a report fit what was measured."""

from pathlib import Path
from typing import Any

import pytest

from loradar.fewshot.blending import Blending
from loradar.fewshot.config import FewShotEvalConfig
from loradar.fewshot.reporting import notes_of

CASES: dict[str, tuple[dict[str, Any], bool, list[str]]] = {
    "as in the paper": ({"transductive": False}, True, []),
    "a head of its own": ({"transductive": False, "head": "ridge"}, True, ["have a ridge head"]),
    "transductive": ({"query": 7, "attacked_query": 3}, True, ["Queries are at most 7 of each class (3 under attack)"]),
    "without peers": ({"transductive": False}, False, ["easyfsl is not installed"]),
}


@pytest.mark.parametrize("case", CASES)
def test_notes_say_what_was_measured(case: str) -> None:
    changes, has_peers, says = CASES[case]
    config = FewShotEvalConfig(pool=Path("pool"), domain=["a=digits"], **changes)
    notes = notes_of(config, Blending.of(config), has_peers=has_peers)
    assert len(notes) == 3 + len(says)
    for part in says:
        assert any(part in note for note in notes)
    assert not any("{" in note for note in notes)
