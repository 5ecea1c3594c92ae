"""Text of others in Markdown: nothing in it is markup, and no terminal obeys it."""

import re

_MARKUP = re.compile(r"[\\`*\[\]<>|~$&#]|(?<![^\W_])_|_(?![^\W_])")
_LIST = re.compile(r"^(\s*)([-+=]|\d+(?=[.)]))")
_CONTROL = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")


def text(value: object) -> str:
    r"""Escapes what Markdown would take for markup, also within a table.

    >>> print(text("a|b *c* snake_case _d_"))
    a\|b \*c\* snake_case \_d\_
    """
    line = _MARKUP.sub(r"\\\g<0>", " ".join(str(value).split()))
    return _LIST.sub(lambda found: f"{found[1]}{_escaped(found[2])}", line)


def code(value: object) -> str:
    """Writes a Markdown code span that holds any text, also within a table."""
    line = " ".join(str(value).split()).replace("|", "\\|")
    fence = "`" * (1 + max((len(run) for run in re.findall("`+", line)), default=0))
    pad = " " if line.startswith("`") or line.endswith("`") else ""
    return f"{fence}{pad}{line}{pad}{fence}" if line else ""


def printable(page: str) -> str:
    r"""Spells out what a terminal obeys as `\x1b`, what turns the direction of text as `\u202e`, and lone surrogates."""
    return _CONTROL.sub(lambda found: found[0].encode("unicode_escape").decode(), page)


def _escaped(start: str) -> str:
    # a number is escaped at the dot that makes it a list
    return f"{start}\\" if start.isdigit() else f"\\{start}"
