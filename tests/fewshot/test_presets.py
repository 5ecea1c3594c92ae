"""Presets of meta-tuning: whole tables of settings, from which single ones depart."""

import pytest

from loradar.core.config import validate
from loradar.core.errors import BadConfigError
from loradar.fewshot.config import MetaTuneConfig
from loradar.fewshot.presets import PRESETS

GIVEN = {"base": "b", "data": "digits"}


def test_all_presets_say_the_same_settings_and_the_default_is_that_of_the_schema() -> None:
    assert len({frozenset(settings) for settings in PRESETS.tables.values()}) == 1
    assert {key: MetaTuneConfig.model_fields[key].default for key in PRESETS.tables["standard"]} == PRESETS.tables[
        "standard"
    ]
    assert validate(MetaTuneConfig, GIVEN) == validate(MetaTuneConfig, {**GIVEN, "preset": "standard"})


@pytest.mark.parametrize("name", PRESETS.tables)
def test_a_preset_sets_all_of_its_settings_but_those_given(name: str) -> None:
    config = validate(MetaTuneConfig, {**GIVEN, "preset": name, "rank": 3})
    expected = {**PRESETS.tables[name], "rank": 3}
    assert {key: getattr(config, key) for key in expected} == expected


@pytest.mark.parametrize("wrong", ["best", ["quick"], {"quick": 1}, None])
def test_an_unknown_preset_is_one_line(wrong: object) -> None:
    with pytest.raises(BadConfigError, match=r"^preset is .*; .*'quick', 'standard' or 'paper'$"):
        validate(MetaTuneConfig, {**GIVEN, "preset": wrong})


def test_the_help_names_every_setting() -> None:
    words = PRESETS.in_words()
    assert all(f"{key.replace('_', '-')} " in words for key in PRESETS.tables["paper"])
