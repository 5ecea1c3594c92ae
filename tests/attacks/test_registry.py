"""Names of attacks: ours, and those that other packages bring."""

from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any

import pytest
from torch import nn

from loradar.attacks import BaseAttack, available_attacks, describe_attack, parse_attack, register, registry
from loradar.attacks.settings import count, seed_setting
from loradar.core.errors import BadConfigError
from loradar.core.types import Images, Labels


@dataclass(frozen=True, kw_only=True)
class Blink(BaseAttack):
    """Turns images off and on."""

    times: int = count(2, "How often.")
    seed: int = seed_setting()

    def __call__(self, model: nn.Module, x: Images, y: Labels) -> Images:  # noqa: ARG002
        return x if self.times % 2 else 1 - x


@pytest.fixture(autouse=True)
def _as_before(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(registry, "_ATTACKS", dict(registry._ATTACKS))
    registry._plugins.cache_clear()
    yield
    registry._plugins.cache_clear()


PLUGIN = '''"""An attack of another package."""
from dataclasses import dataclass
from loradar.attacks import BaseAttack, register
from loradar.attacks.settings import count

@register("blink")
@dataclass(frozen=True, kw_only=True)
class Blink(BaseAttack):
    times: int = count(2, "How often.")
'''


def plug_in(monkeypatch: pytest.MonkeyPatch, name: str, value: str) -> None:
    points = (EntryPoint(name=name, value=value, group=registry.GROUP),)
    monkeypatch.setattr(registry, "entry_points", lambda group: points if group == registry.GROUP else ())
    registry._plugins.cache_clear()


def test_a_registered_attack_is_known_everywhere() -> None:
    register("blink")(Blink)
    assert parse_attack("blink:times=3") == Blink(times=3)
    assert parse_attack("blink:times=3+pgd").spec == "blink:times=3+pgd"
    assert "blink" in available_attacks()
    (times, _) = describe_attack("blink").settings
    assert (times.name, times.type, times.default, times.bounds, times.help) == (
        "times",
        "a whole number",
        "2",
        "1 to 10000",
        "How often.",
    )


def test_a_name_that_is_taken_or_no_name_is_refused() -> None:
    for name in ("pgd", "roa-quick"):
        with pytest.raises(BadConfigError, match="is taken"):
            register(name)(Blink)
    for name in ("Blink", "a b", "", "a:b", "3d"):
        with pytest.raises(BadConfigError, match="small letters"):
            register(name)(Blink)


def test_a_plugin_is_loaded_when_it_is_asked_for(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "a_plugin_of_another.py").write_text(PLUGIN)
    monkeypatch.syspath_prepend(tmp_path)
    plug_in(monkeypatch, "blink", "a_plugin_of_another")
    assert parse_attack("blink:times=3").spec == "blink:times=3"
    assert available_attacks()["blink"].startswith("An attack of another package")


@pytest.mark.parametrize(
    ("value", "says"),
    [
        ("no_such_module_at_all", "cannot be loaded (ModuleNotFoundError"),
        ("math:missing", "cannot be loaded (AttributeError"),
        ("math", "registers no attack of that name"),
    ],
)
def test_a_broken_plugin_is_one_clear_line(monkeypatch: pytest.MonkeyPatch, value: str, says: str) -> None:
    plug_in(monkeypatch, "broken", value)
    with pytest.raises(BadConfigError) as caught:
        parse_attack("broken")
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)
    found = available_attacks()  # the others are not harmed
    assert says in found["broken"]
    assert "pgd" in found
    assert parse_attack("pgd").spec == "pgd"


@pytest.mark.parametrize("name", available_attacks())
def test_every_attack_is_described(name: str) -> None:
    info = describe_attack(name)
    assert info.name == name
    assert info.summary
    assert info.text
    for setting in info.settings:
        assert all((setting.name, setting.type, setting.default, setting.help)), setting
    assert parse_attack(info.spec) == parse_attack(name)


def test_a_preset_is_described_by_its_own_values() -> None:
    values = {setting.name: setting.default for setting in describe_attack("fia-quick").settings}
    assert (values["n_masks"], values["step_size"], values["drop_prob"]) == ("10", "4.8/255", "0.3")
    assert values["eps"] == "16/255 (linf), 0.5 (l2)"


@pytest.mark.parametrize("name", ["pdg", "pgd+roa", "pgd:steps=3", ""])
def test_what_is_no_name_is_not_described(name: str) -> None:
    with pytest.raises(BadConfigError):
        describe_attack(name)


def test_the_settings_of_a_name_that_is_not_known_are_those_given() -> None:
    options: dict[str, Any] = {"x": "1"}
    assert registry.settings_text("nobody", options) == options
