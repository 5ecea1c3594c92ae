import dataclasses
import json
import re

import pytest

from loradar.core.errors import BadFileError
from loradar.report.files import from_json, to_json
from loradar.report.page import render
from loradar.report.sweeps import SweepSection
from tests.report.conftest import sweeping


@pytest.fixture
def section() -> SweepSection:
    found = sweeping().sweep
    assert found is not None
    return found


def test_a_score_weighs_clean_against_attacked_at_the_epoch_that_is_kept(section: SweepSection) -> None:
    assert section.scores(section.trials[0]) == pytest.approx((0.5, 0.675, 0.7375))
    assert section.score(section.trials[0]) == pytest.approx(0.7375)
    assert section.score(section.trials[2]) == 0.0


def test_the_best_comes_first_and_failed_trials_last(section: SweepSection) -> None:
    first, second, third = section.trials
    turned = dataclasses.replace(section, trials=(third, second, first))
    assert [trial.number for trial in turned.ranked] == [1, 2, 3]


def test_pages_have_every_trial_and_say_what_the_best_is_worth(section: SweepSection) -> None:
    report = sweeping()
    assert from_json(to_json(report)) == report
    markdown, page = render(report)
    for text in (markdown, page):
        assert "1 finished, 1 stopped, 1 failed, 13 s" in text
        assert "The best score of many is partly luck" in text
        assert "the loss is nan at step 3" in text
        assert re.search(r"3 of 3\D+finished\D+85 of 100\D+70 of 100\D+73.8", text)
        assert re.search(r"1 of 3\D+stopped\D+10 of 100\D+9 of 100\D+9.2", text)
    assert page.count("<svg") == 2
    assert "$x$" in page.partition("<svg")[2], "no formula"
    assert section.searched[0].words == "0.001 to 0.1, drawn evenly in the logarithm"


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"best": 2}, "expected the number of a finished one"),
        ({"searched": []}, "settings other than those searched"),
        ({"trials": [{"clean": [1]}]}, "one clean and one attacked count"),
        ({"trials": [{"total": 3}]}, "counts 90 right of 3"),
        ({"trials": [{"selected": 0}]}, "has selected epoch 0"),
    ],
)
def test_a_damaged_section_is_refused(change: dict[str, object], says: str) -> None:
    values = json.loads(to_json(sweeping()))
    for key, value in change.items():
        if isinstance(value, list) and value:
            values["sweep"][key][0] |= value[0]
        else:
            values["sweep"][key] = value
    with pytest.raises(BadFileError, match=says):
        from_json(json.dumps(values))
