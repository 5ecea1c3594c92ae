"""The version stands in one place, and every page of the documentation is reached."""

import re
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


def test_every_page_is_in_a_table_of_contents() -> None:
    docs = ROOT / "docs"
    pages = {path.resolve() for path in docs.rglob("*.md")}
    reached, new = set[Path](), [(docs / "index.md").resolve()]
    while new:
        page = new.pop()
        reached.add(page)
        for table in re.findall(r"```\{toctree\}\n(.*?)```", page.read_text(), flags=re.DOTALL):
            names = [line for line in table.splitlines() if line and not line.startswith(":")]
            new += [(page.parent / f"{name}.md").resolve() for name in names]
    assert len(pages) > 20
    assert reached == pages
