"""The declared graph of imports: each package may import those that it names here, and no others. There is no ring."""

import ast
from collections.abc import Iterator
from pathlib import Path

import loradar

SOURCE = Path(loradar.__file__).parent
TOOLKIT = {"attacks", "adapters", "models", "data", "training"}
ALLOWED: dict[str, set[str]] = {
    "core": set(),
    **{package: {"core"} for package in TOOLKIT},
    "evaluation": {"core", *TOOLKIT},
    "report": {"core", "evaluation"},
    "fewshot": {"core", *TOOLKIT, "evaluation", "report"},
    "guard": {"core", *TOOLKIT, "evaluation", "report"},
    "jobs": {"core", *TOOLKIT, "evaluation", "report", "fewshot", "guard", "exporting"},
    "hub": {"core", *TOOLKIT, "evaluation", "fewshot", "guard"},
    "exporting": {"core"},
    "api": {"core", *TOOLKIT, "evaluation", "report", "fewshot", "guard", "jobs", "exporting"},
    "serve": {"core", *TOOLKIT, "evaluation", "report", "fewshot", "guard", "jobs"},
    "integrations": {"core", "attacks", "models", "evaluation", "api"},
    "cluster": {"core", "jobs"},
    "cli": {
        "core",
        *TOOLKIT,
        "evaluation",
        "report",
        "fewshot",
        "guard",
        "jobs",
        "hub",
        "exporting",
        "serve",
        "cluster",
    },
}


def imports() -> Iterator[tuple[str, str, str, str]]:
    """(place, importing package, importing module, imported module), imports within functions included."""
    for path in sorted(SOURCE.rglob("*.py")):
        parts = path.relative_to(SOURCE).with_suffix("").parts
        module = ".".join(part for part in parts if part != "__init__")
        tree = ast.parse(path.read_text())
        # what only a type checker reads is no import of the running program
        typing = {id(n) for node in ast.walk(tree) if _is_for_typing(node) for n in ast.walk(node)}
        for node in ast.walk(tree):
            if id(node) in typing:
                continue
            if isinstance(node, ast.ImportFrom):
                names = [node.module or ""]
            elif isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            else:
                continue
            for name in names:
                if name.startswith("loradar."):
                    yield f"{path.relative_to(SOURCE)}:{node.lineno}", parts[0], module, name.removeprefix("loradar.")


def _is_for_typing(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"


def test_every_package_is_in_the_graph() -> None:
    packages = {path.name.removesuffix(".py") for path in SOURCE.iterdir() if not path.name.startswith(("_", "py."))}
    assert packages == set(ALLOWED)


def test_the_graph_has_no_ring() -> None:
    done: set[str] = set()
    while left := {package for package in ALLOWED if package not in done}:
        free = {package for package in left if ALLOWED[package] <= done}
        assert free, f"a ring among {sorted(left)}"
        done |= free


def test_imports_follow_the_graph() -> None:
    found = list(imports())
    assert len(found) > 100
    wrong = [
        f"{place}: {here} imports {there}"
        for place, here, _, there in found
        if here not in ("__init__", "__main__")
        and (package := there.split(".")[0]) != here
        and package not in ALLOWED[here]
    ]
    assert wrong == []


def test_modules_have_no_ring() -> None:
    """Also none through imports within functions."""
    edges: dict[str, set[str]] = {}
    for _, _, module, there in imports():
        edges.setdefault(module, set()).add(there)
    packages = {module for module in edges if (SOURCE / module.replace(".", "/")).is_dir()}
    done: set[str] = set()
    while left := {module for module in edges if module not in done and module not in packages}:
        free = {module for module in left if not {t for t in edges[module] if t in left}}
        assert free, f"a ring among {sorted(left)}"
        done |= free


def test_settings_import_no_torch() -> None:
    for package in ("jobs", "guard", "fewshot", "serve", "cluster"):
        text = (SOURCE / package / "config.py").read_text()
        assert {node.module for node in ast.walk(ast.parse(text)) if isinstance(node, ast.ImportFrom)} <= {
            "pathlib",
            "typing",
            "pydantic",
            "pydantic_core",
            "loradar.core.config",
            "loradar.core.ranks",
            "loradar.fewshot.presets",
            "loradar.jobs.recipes",
        }
