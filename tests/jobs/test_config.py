from pathlib import Path

import pytest

from loradar.core.config import read_file, validate
from loradar.core.errors import BadConfigError
from loradar.jobs.config import HardenConfig


def test_yaml_and_toml_say_the_same(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text("base: b\nlearning-rate: 0.01\nattacks: [roa, 'pgd:steps=3']\n")
    (tmp_path / "a.toml").write_text('base = "b"\nlearning_rate = 0.01\nattacks = ["roa", "pgd:steps=3"]\n')
    one, other = (validate(HardenConfig, read_file(tmp_path / name)) for name in ("a.yaml", "a.toml"))
    assert one == other
    assert one.learning_rate == 0.01


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"base": "b", "epoch": 3}, "unknown config key 'epoch'; did you mean 'epochs'"),
        ({}, "base is missing"),
        ({"base": "b", "epochs": "many"}, "epochs is 'many'"),
        ({"base": "b", "rank": 0}, "rank is 0"),
        ({"base": "b", "init": "ones"}, "init is 'ones'"),
        ({"base": "b", "learning_rate": float("inf")}, "learning_rate is inf; input should be a finite number"),
        ({"base": "b", "epochs": True}, "epochs is True; expected a number or text"),
        ({"base": "b", "flip": 3}, "flip is 3"),
        ({"base": "b", "attacks": "roa"}, "attacks is 'roa'; input should be a valid list"),
    ],
)
def test_what_does_not_fit_is_said_in_one_line(settings: dict[str, object], says: str) -> None:
    with pytest.raises(BadConfigError) as caught:
        validate(HardenConfig, settings)
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "text", "says"),
    [
        ("a.yaml", "a: [1", "cannot be read"),
        ("a.toml", "a = ", "cannot be read"),
        ("a.yaml", "just words", "holds str"),
        ("gone.yaml", None, "cannot be read"),
    ],
)
def test_a_file_that_is_no_config(tmp_path: Path, name: str, text: str | None, says: str) -> None:
    if text is not None:
        (tmp_path / name).write_text(text)
    with pytest.raises(BadConfigError, match=says) as caught:
        read_file(tmp_path / name)
    assert "\n" not in str(caught.value)
