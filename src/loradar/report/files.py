"""A report's files: report.json for programs, report.md and report.html for people."""

import dataclasses
import json
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError
from pydantic_core import PydanticSerializationError

from loradar.core.errors import BadConfigError, BadFileError
from loradar.core.files import parse_object, read_regular, write_atomically
from loradar.core.names import REPORT
from loradar.report.schema import Report
from loradar.report.upgrade import SCHEMA, upgrade

_FORM = TypeAdapter(Report)
_FIRST = ("title", "created", "rows", "base", "data", "versions")


def write_report(report: Report, folder: Path | str) -> Path:
    """Writes report.json, report.md and report.html, each whole or not at all; returns the path of report.html.

    Where the folder holds the same figures already, their date stays. Raises BadConfigError for a value that JSON cannot
    hold, BadFileError where the disk is full or refuses.
    """
    folder = Path(folder)
    report = _dated(report, folder)
    write_atomically(folder / REPORT, to_json(report).encode())
    return write_pages(report, folder)


def write_pages(report: Report, folder: Path | str) -> Path:
    """Writes report.md and report.html; returns the path of report.html. Raises BadFileError."""
    from loradar.report.page import render  # here: jinja2 is needed for pages alone

    for name, text in zip(("report.md", "report.html"), render(report), strict=True):
        # a file name that is not UTF-8 reaches us as lone surrogates
        write_atomically(Path(folder) / name, text.encode("utf-8", "backslashreplace"))
    return Path(folder) / "report.html"


def read_report(path: Path | str) -> Report:
    """Reads the report in a folder or a file, of this or an earlier schema. Raises BadFileError."""
    path = Path(path)
    file = path / REPORT if path.is_dir() else path
    try:
        data = read_regular(file)
    except OSError as error:
        raise BadFileError(
            f"could not read {file}: {error}; expected a report.json, or a folder that holds one"
        ) from error
    return from_json(data, file)


def to_json(report: Report) -> str:
    """Returns `{"schema": 2, "title": ..., "rows": [...], ...}`; empty fields are left out. Raises BadConfigError."""
    try:
        values: dict[str, Any] = _FORM.dump_python(report, mode="json")
        first = {key: values.pop(key) for key in _FIRST}
        rest = {key: value for key, value in values.items() if value}
        return json.dumps({"schema": SCHEMA} | first | rest, indent=1) + "\n"
    except (PydanticSerializationError, ValueError) as error:
        raise BadConfigError(f"the report holds what JSON cannot: {error}; give plain numbers and text") from error


def from_json(text: str | bytes, name: object = "the report") -> Report:
    """Reads the text of `to_json`, every count and type checked. Raises BadFileError with the first thing wrong."""
    try:
        values = upgrade(parse_object(text))
        return _FORM.validate_python(values)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise BadFileError(f"{name} is damaged at {where or 'its top'}: {first['msg']}") from error
    except ValueError as error:
        raise BadFileError(f"{name} is no report: {error}") from error


def _dated(report: Report, folder: Path) -> Report:
    if not (folder / REPORT).exists():
        return report
    try:
        before = read_report(folder)
    except BadFileError:
        return report
    return before if dataclasses.replace(before, created=report.created) == report else report
