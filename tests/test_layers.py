"""The floors of the house: imports go downwards only, and the families of floor 2 do not know each other."""

import ast
from collections.abc import Iterator
from pathlib import Path

import loradar

SOURCE = Path(loradar.__file__).parent
FLOOR = {
    "core": 1,
    "attacks": 2,
    "adapters": 2,
    "models": 2,
    "data": 2,
    "training": 2,
    "evaluation": 2,
    "fewshot": 2,
    "guard": 2,
    "config": 3,
    "recipes": 3,
    "cli": 4,
}


def imports() -> Iterator[tuple[str, str, str]]:
    """(place, the family that imports, the family that is imported), functions' own imports included."""
    for path in sorted(SOURCE.rglob("*.py")):
        here = path.relative_to(SOURCE).parts[0].removesuffix(".py")
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom):
                names = [node.module or ""]
            elif isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            else:
                continue
            for name in names:
                if name.startswith("loradar."):
                    yield f"{path.relative_to(SOURCE)}:{node.lineno}", here, name.split(".")[1]


def test_every_family_has_a_floor() -> None:
    families = {path.name.removesuffix(".py") for path in SOURCE.iterdir() if not path.name.startswith(("_", "py."))}
    assert families == set(FLOOR)


def test_imports_go_downwards() -> None:
    found = list(imports())
    assert len(found) > 100
    wrong = [
        f"{place}: {here} imports {there}"
        for place, here, there in found
        if here != "__init__" and here != there and (FLOOR[there] > FLOOR[here] or FLOOR[there] == FLOOR[here] == 2)
    ]
    assert wrong == []


def test_config_needs_no_recipe() -> None:
    assert not [place for place, here, there in imports() if here == "config" and there != "core"]
