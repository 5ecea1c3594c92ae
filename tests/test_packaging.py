"""The version stands in one place, and every page of the documentation is reached."""

import tomllib
from pathlib import Path

import loradar
from loradar.adapters import Card
from loradar.evaluation import versions

ROOT = Path(__file__).parents[1]


def test_the_version_stands_in_one_place() -> None:
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())
    assert settings["project"]["dynamic"] == ["version"]
    assert "version" not in settings["project"]
    source = ROOT / settings["tool"]["hatch"]["version"]["path"]
    assert f'__version__ = "{loradar.__version__}"' in source.read_text()
    assert Card().loradar_version == versions()["loradar"] == loradar.__version__
    others = [*ROOT.glob("*.cff"), *ROOT.glob("docs/*.py"), *ROOT.glob("src/loradar/*/**/*.py")]
    assert [path for path in others if f'"{loradar.__version__}"' in path.read_text()] == []
