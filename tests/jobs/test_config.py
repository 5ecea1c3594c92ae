from pathlib import Path

import pytest

from loradar.core.config import check_run_settings, read_file, validate
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
        ({"base": "b", "rank": 0}, "rank is 0; expected 1 or more"),
        ({"base": "b", "rank": "layer1*=0"}, "rank is 'layer1*=0'; expected 1 or more"),
        ({"base": "b", "rank": "many"}, "rank is 'many'; expected N, or PATTERN=N"),
        ({"base": "b", "rank": 4.5}, "rank is 4.5; expected N, or PATTERN=N"),
        ({"base": "b", "rank": None}, "rank is None; expected a rank, or max_bytes"),
        ({"base": "b", "rank": 4, "max_bytes": "9kB"}, "rank and max_bytes are both given; expected one of the two"),
        ({"base": "b", "max_bytes": "9 miles"}, "max_bytes is '9 miles'; expected bytes, kB, MB, KiB or MiB"),
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
    ("given", "kept"),
    [
        (16, 16),
        ("16", 16),
        ("<=16", "<=16"),
        ("layer2*=32,4", "layer2*=32,4"),
        ({"layer2*": 32, "*": 4}, "layer2*=32,*=4"),
    ],
    ids=str,
)
def test_a_rank_is_a_number_or_text(given: object, kept: object) -> None:
    config = validate(HardenConfig, {"base": "b", "rank": given})
    assert config.rank == kept
    assert validate(HardenConfig, config.model_dump()) == config


@pytest.mark.parametrize("recipe", ["balanced", "transfer"])
def test_a_budget_takes_the_place_of_the_rank_of_the_recipe(recipe: str) -> None:
    config = validate(HardenConfig, {"base": "b", "recipe": recipe, "max_bytes": "0.4MB"})
    assert (config.rank, config.max_bytes) == (None, 400_000)
    assert validate(HardenConfig, config.model_dump()) == config


@pytest.mark.parametrize(
    ("name", "text", "says"),
    [
        ("a.yaml", "a: [1", "cannot be read"),
        ("a.toml", "a = ", "cannot be read"),
        ("a.yaml", "just words", "holds str"),
        ("a.yaml", "epochs: 3\nseed: 1\nepochs: 5\n", "'epochs' stands twice"),
        ("a.yaml", "a: {b: 1, b: 2}", "'b' stands twice"),
        ("gone.yaml", None, "cannot be read"),
    ],
)
def test_a_file_that_is_no_config(tmp_path: Path, name: str, text: str | None, says: str) -> None:
    if text is not None:
        (tmp_path / name).write_text(text)
    with pytest.raises(BadConfigError, match=says) as caught:
        read_file(tmp_path / name)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("given", "size"), [(64, (64, 64)), ("64", (64, 64)), ("48x64", (48, 64)), ([48, 64], (48, 64))]
)
def test_a_size_is_one_number_or_two(given: object, size: tuple[int, int]) -> None:
    assert validate(HardenConfig, {"base": "b", "size": given}).size == size


@pytest.mark.parametrize("given", ["", "x", "0", "0x5", "64x", "-3", "64x64x3", 1.5, [64], True, "6e1", "999999"])
def test_a_size_that_is_none_is_refused(given: object) -> None:
    with pytest.raises(BadConfigError, match="size is"):
        validate(HardenConfig, {"base": "b", "size": given})


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"seed": "9" * 5000}, "exceeded maximum size"),
        ({"seed": int("f" * 5000, 16)}, "thousands of digits"),
        ({"epochs": 10**30}, "at most 18 digits"),
        ({"seed": -1}, "greater than or equal to 0"),
        ({"base": "a\0b"}, "without NUL"),
        ({"attacks": ["pgd\0"]}, "without NUL"),
        ({"out": Path("a\0")}, "without NUL"),
        ({"attacks": [True]}, "expected a number or text"),
        ({"device": "meta"}, "device is 'meta'; expected auto, cpu"),
        ({"device": ""}, "expected auto, cpu"),
        ({"attacks": ["x" * 5000, 3]}, "attacks is 3"),
        ({"norm": "y" * 5000}, "norm is 'yyy"),
        ({"z" * 5000: 1}, "unknown config key 'zzz"),
    ],
)
def test_odd_values_are_said_in_a_short_line(settings: dict[str, object], says: str) -> None:
    with pytest.raises(BadConfigError) as caught:
        validate(HardenConfig, {"base": "b"} | settings)
    assert says in str(caught.value)
    assert len(str(caught.value)) < 2000


def test_nested_aliases_do_not_fill_the_screen(tmp_path: Path) -> None:
    lines = ["a: &a [x, x, x, x, x, x, x, x, x]"]
    for before, name in zip("abcdefgh", "bcdefghi", strict=True):
        lines.append(f"{name}: &{name} [{', '.join([f'*{before}'] * 9)}]")
    (tmp_path / "c.yaml").write_text("\n".join([*lines, "base: *i", "epochs: *i"]))
    with pytest.raises(BadConfigError) as caught:
        validate(HardenConfig, read_file(tmp_path / "c.yaml"))
    assert len(str(caught.value)) < 1000


@pytest.mark.parametrize(
    "text",
    ["a: " + "[" * 20_000, "seed: " + "9" * 5000, "a: 2020-13-45", "? [a]\n: b", "!!python/object:os.x y", "\xff"],
)
def test_yaml_that_breaks_the_reader_is_one_line(text: str, tmp_path: Path) -> None:
    (tmp_path / "c.yaml").write_bytes(text.encode("latin-1"))
    with pytest.raises(BadConfigError, match="cannot be read") as caught:
        read_file(tmp_path / "c.yaml")
    assert len(str(caught.value)) < 1000
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("text", ["", "{", "[1]", "\x00"])
def test_a_damaged_run_is_said(text: str, tmp_path: Path) -> None:
    (tmp_path / "run.json").write_text(text)
    with pytest.raises(BadConfigError, match=r"run\.json"):
        check_run_settings(validate(HardenConfig, {"base": "b", "out": tmp_path}))


def test_shares_of_the_data_are_the_defaults() -> None:
    config = validate(HardenConfig, {"base": "b"})
    assert config.validation is config.max_test_images is config.train is None


def test_text_that_json_cannot_hold_is_refused() -> None:
    with pytest.raises(BadConfigError, match="expected text and names of files in UTF-8"):
        validate(HardenConfig, {"base": "a\udc80"})
