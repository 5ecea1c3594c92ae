"""Printing to the terminal: names are printed as they are, tables fit the width, JSON is for programs.

Everything that a command prints goes through here. Nothing is read as markup, emoji code or something to highlight:
class names, file names and cards hold square brackets, colons and dollar signs.
"""

import dataclasses
import json
import math
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.cells import cell_len
from rich.console import Console, ConsoleOptions, RenderableType, RenderResult
from rich.table import Table
from rich.text import Text

_GAP = 2
_WORD = 24
"""Cells that a long word, such as a path, is given before it is broken."""


_TURNING = ("LRE", "RLE", "LRO", "RLO", "PDF", "LRI", "RLI", "FSI", "PDI")
_MARKS = "\u061c\u200e\u200f"
"""What turns the direction of text without being a letter of it."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Output:
    """What a command has to say: lines and tables for people, and the same as JSON data."""

    text: Sequence[str | RenderableType]
    data: Any


def console(*, stderr: bool = False) -> Console:
    """A console that prints text as it is."""
    return Console(stderr=stderr, markup=False, emoji=False, highlight=False)


def show(*parts: str | RenderableType) -> None:
    """Prints lines and tables to standard output. A line is left to the terminal to wrap, so that paths stay whole."""
    _print(console(), parts)


def note(*lines: str, style: str = "") -> None:
    """Prints lines to standard error: notes, warnings, mistakes."""
    _print(console(stderr=True), lines, style)


def show_json(data: Any) -> None:
    """Prints `data` as JSON to standard output, and nothing else."""
    console().print(Text(to_json(data)), soft_wrap=True)


def to_json(data: Any) -> str:
    """`data` as JSON text in ASCII, two spaces deep; dataclasses are objects, numbers that are not finite are null."""
    return json.dumps(_jsonable(data), indent=2, allow_nan=False)


def escape(text: object) -> str:
    r"""Text on one line and safe to print: control characters and lone surrogates as `\n`, `\x1b`, `\udcff`.

    So are marks that turn the direction of what follows, which would turn the numbers beside a name too.

    >>> escape("scan[1]\x1b[31m.png")
    'scan[1]\\x1b[31m.png'
    """
    return "".join(letter.encode("unicode_escape").decode() if _is_unsafe(letter) else letter for letter in str(text))


def _is_unsafe(letter: str) -> bool:
    turns = unicodedata.bidirectional(letter) in _TURNING or letter in _MARKS
    return turns or unicodedata.category(letter) in ("Cc", "Cs", "Zl", "Zp")


def prose(text: str) -> Text:
    """A paragraph that is wrapped between words."""
    return Text(escape(" ".join(text.split())))


@dataclasses.dataclass(frozen=True)
class Rows:
    """A table of text. Where it does not fit the width, each row becomes a block of lines, a line per column."""

    heads: Sequence[str]
    rows: Sequence[Sequence[object]]
    title: str = ""

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        if self.title:
            yield Text(escape(self.title))
        heads, rows = [escape(head) for head in self.heads], [[escape(cell) for cell in row] for row in self.rows]
        columns = list(zip(heads, *rows, strict=True))
        widths = _fit([_width(column) for column in columns], [_longest_word(c) for c in columns], options.max_width)
        if widths is not None:
            yield _grid(rows, widths, heads)
            return
        for index, row in enumerate(rows):
            if index:
                yield Text("")
            yield _pairs([pair for pair in zip(heads, row, strict=True) if pair[1]], options.max_width)


@dataclasses.dataclass(frozen=True)
class Facts:
    """Names with their values, a line each."""

    facts: Mapping[str, object]

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        yield _pairs([(escape(name), escape(value)) for name, value in self.facts.items()], options.max_width)


def _print(target: Console, parts: Iterable[str | RenderableType], style: str = "") -> None:
    for part in parts:
        if isinstance(part, str):
            target.print(Text(escape(part), style=style), soft_wrap=True)
        else:
            target.print(part)


def _fit(natural: list[int], least: list[int], room: int) -> list[int] | None:
    """Widths of columns whose words stay whole, in `room` cells; None where there is no such."""
    room -= _GAP * (len(natural) - 1)
    if sum(natural) <= room:
        return natural
    spare = room - sum(least)
    if spare < 0:
        return None
    wishes = [wish - width for wish, width in zip(natural, least, strict=True)]
    return [width + spare * wish // sum(wishes) for width, wish in zip(least, wishes, strict=True)]


def _width(column: Sequence[str]) -> int:
    return max(1, *(cell_len(cell) for cell in column))


def _longest_word(column: Sequence[str]) -> int:
    words = [cell_len(word) for cell in column for word in cell.split()]
    return min(max(words, default=1), _WORD)


def _grid(rows: Sequence[Sequence[str]], widths: Sequence[int], heads: Sequence[str] = ()) -> Table:
    table = Table(box=None, show_header=bool(heads), header_style="bold", padding=0, pad_edge=False)
    for index, width in enumerate(widths):
        last = index == len(widths) - 1
        head = Text(heads[index]) if heads else ""
        # the gap is part of the column, which rich would otherwise take from narrow tables
        table.add_column(head, width=width, overflow="fold")
        if not last:
            table.add_column("", width=_GAP)
    for row in rows:
        cells: list[Text | str] = []
        for cell in row:
            cells += [Text(cell), ""]
        table.add_row(*cells[:-1])
    return table


def _pairs(pairs: Sequence[tuple[str, str]], room: int) -> Table:
    names = min(_width([name for name, _ in pairs]), max(1, room // 2))
    table = _grid(pairs, [names, max(1, room - names - _GAP)])
    table.columns[0].style = "bold"
    return table


def _jsonable(value: Any) -> Any:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: _jsonable(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {str(key): _jsonable(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_jsonable(item) for item in value]
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return str(value) if isinstance(value, Path) else value
