"""Help as plain text: flags in sections, whole at every width, and a worked example at the end."""

from collections.abc import Iterator
from typing import Any

import typer
from typer.core import TyperCommand, TyperGroup

from loradar.cli.panels import place_of

_COLUMN = 24
"""Cells for the flags; a longer flag has its description on the next line."""


class Command(TyperCommand):
    """A command whose help has a section for each panel of its flags."""

    def format_options(self, ctx: Any, formatter: Any) -> None:
        _write_sections(self, ctx, formatter)

    def format_epilog(self, ctx: Any, formatter: Any) -> None:  # noqa: ARG002
        _write_example(self, formatter)


class Group(TyperGroup):
    """A group of commands: the first paragraph of each one's help is shown whole. Without a command, help and exit 2."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        if not args and not ctx.resilient_parsing:
            typer.echo(ctx.get_help())
            raise typer.Exit(2)
        return super().parse_args(ctx, args)

    def format_options(self, ctx: Any, formatter: Any) -> None:
        _write_sections(self, ctx, formatter)
        with formatter.section(_heading("Commands")):
            formatter.write_dl(list(self._summaries(ctx)), col_max=_COLUMN)

    def format_epilog(self, ctx: Any, formatter: Any) -> None:  # noqa: ARG002
        _write_example(self, formatter)

    def _summaries(self, ctx: Any) -> Iterator[tuple[str, str]]:
        for name in self.list_commands(ctx):
            command = self.get_command(ctx, name)
            if command is not None and not command.hidden:
                yield name, " ".join((command.help or "").partition("\n\n")[0].split())


def _write_sections(command: Any, ctx: Any, formatter: Any) -> None:
    sections: dict[str, list[tuple[str, str]]] = {}
    for parameter in command.get_params(ctx):
        record = parameter.get_help_record(ctx)
        if parameter.param_type_name == "argument":
            sections.setdefault("Arguments", []).append((parameter.metavar, parameter.help))
        elif record is not None:
            sections.setdefault(getattr(parameter, "rich_help_panel", None) or "Other", []).append(record)
    for name in sorted(sections, key=place_of):
        with formatter.section(_heading(name)):
            formatter.write_dl(sections[name], col_max=_COLUMN)


def _write_example(command: Any, formatter: Any) -> None:
    if command.epilog:
        with formatter.section(_heading("Example")):
            formatter.write("\n".join(_broken(command.epilog, formatter.width - 2)) + "\n")


def _heading(name: str) -> str:
    return typer.style(name, bold=True)


def _broken(example: str, width: int) -> Iterator[str]:
    r"""The command on lines of `width`, each but the last ended by a backslash, so that it can be copied whole."""
    line = ""
    for part in example.replace(" --", "\n--").split("\n"):
        if line and len(line) + len(part) + 3 > width:
            yield f"  {line} \\"
            line = f"  {part}"
        else:
            line = f"{line} {part}" if line else part
    yield f"  {line}"
