"""Fills pages of the reference from the code: the help of every command, the exported names, the attacks' settings.

A page names what it wants in a line of its own: `<!-- commands -->`, `<!-- names -->` or `<!-- attacks -->`.
"""

import inspect
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from docutils import nodes
from sphinx.application import Sphinx
from typer.main import get_command

import loradar
from loradar.attacks import available_attacks, describe_attack
from loradar.cli.app import app

WIDTH = 96
ROOT = Path(__file__).parents[1]


def _walk(command: Any, context: Any) -> Iterator[Any]:
    """The context of every command that is not hidden, groups before their members."""
    yield context
    if hasattr(command, "list_commands"):
        for name in command.list_commands(context):
            member = command.get_command(context, name)
            if not member.hidden:
                yield from _walk(member, _context(member, name, context))


def _context(command: Any, name: str, parent: Any = None) -> Any:
    return command.context_class(command, info_name=name, parent=parent, terminal_width=WIDTH, max_content_width=WIDTH)


def commands() -> str:
    root = get_command(app)
    parts = []
    for context in _walk(root, _context(root, "loradar")):
        parts += [f"## {context.command_path}", "```text\n" + context.command.get_help(context) + "\n```"]
    return "\n\n".join(parts)


def names() -> str:
    parts = []
    for module, members in loradar._HOMES.items():
        parts.append(f"## From `{module}`")
        for name in members:
            kind = "class" if inspect.isclass(getattr(loradar, name)) else "function"
            if inspect.isclass(getattr(loradar, name)) and issubclass(getattr(loradar, name), Exception):
                kind = "exception"
            members_of = "\n   :members:" if kind == "class" else ""
            parts.append(f"```{{eval-rst}}\n.. auto{kind}:: loradar.{name}{members_of}\n```")
    return "\n\n".join(parts)


def attacks() -> str:
    parts = []
    for name in available_attacks():
        info = describe_attack(name)
        rows = ["| setting | type | default | bounds | |", "|---|---|---|---|---|"]
        for one in info.settings:
            cells = (f"`{one.name}`", one.type, f"`{one.default}`" if one.default else "", one.bounds, one.help)
            rows.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
        parts += [
            f"## {name}",
            info.summary,
            info.text,
            "\n".join(rows) if info.settings else "No settings.",
            f"Use: `--attacks {info.spec}`",
        ]
    return "\n\n".join(parts)


FILLINGS = {"commands": commands, "names": names, "attacks": attacks}


def _fill(app: Sphinx, page: str, source: list[str]) -> None:  # noqa: ARG001
    for name, filling in FILLINGS.items():
        mark = f"\n<!-- {name} -->\n"
        if mark in source[0]:
            source[0] = source[0].replace(mark, f"\n{filling()}\n")


def _relink(app: Sphinx, path: Path, parent: str, source: list[str]) -> None:  # noqa: ARG001
    """Pages of the repository's root, when included: their links lead to pages here."""
    up = "../" * parent.count("/")
    for old, new in {
        "](docs/": f"]({up}",
        "](ARCHITECTURE.md)": f"]({up}explanation/architecture.md)",
        "](CONTRIBUTING.md)": f"]({up}explanation/contributing.md)",
    }.items():
        source[0] = source[0].replace(old, new)


def _to_rst(app: Sphinx, what: str, name: str, value: Any, options: Any, lines: list[str]) -> None:  # noqa: ARG001
    """Docstrings are plain text and Markdown's tables: stars and bars mean themselves, a table's rows become points."""
    written: list[str] = []
    for line in lines:
        if line.lstrip().startswith("|"):
            first, *others = (cell.strip() for cell in line.strip().strip("|").split(" | "))
            if set(first) - set("-|") and not first.isalpha():
                written.append(f"- {first}: {' '.join(others)}".replace("`", "``"))
        else:
            pieces = line.split("`")
            pieces[::2] = [piece.replace("*", "\\*").replace("|", "\\|") for piece in pieces[::2]]
            written.append("``".join(pieces))
    lines[:] = written


def _to_shell(app: Sphinx, document: nodes.document) -> None:  # noqa: ARG001
    """Cells that a shell runs are shown as the commands alone, without the line that calls the shell."""
    for block in document.findall(nodes.literal_block):
        magic, _, commands = block.astext().partition("\n")
        if magic.startswith("%%sh"):
            block.rawsource, block["language"] = commands, "sh"
            block.children = [nodes.Text(commands)]


def _keep_together(app: Sphinx, document: nodes.document) -> None:  # noqa: ARG001
    """A table's figures break before their interval, neither in it nor before the percent sign."""
    for text in [text for cell in document.findall(nodes.entry) for text in cell.findall(nodes.Text)]:
        if not isinstance(text.parent, nodes.literal):
            joined = re.sub(r"(?<=\d)-(?=\d)", "\u2060-\u2060", re.sub(r"(?<=\d) %", "\u00a0%", text))
            text.parent.replace(text, nodes.Text(joined))


def setup(app: Sphinx) -> dict[str, bool]:
    app.connect("source-read", _fill)
    app.connect("include-read", _relink)
    app.connect("doctree-read", _to_shell)
    app.connect("doctree-read", _keep_together)
    app.connect("autodoc-process-docstring", _to_rst, priority=400)  # before napoleon
    return {"parallel_read_safe": True, "parallel_write_safe": True}
