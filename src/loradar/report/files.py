"""A report as files: for programs, for a terminal or a repository, and for a browser.

`report.json` is `{"schema": 1, "rows": [...], "base": {...}, "data": {...}, "versions": {...}}` and those of the
other fields that hold something; `report.md` and `report.html` say the same for people.
"""

import json
from pathlib import Path
from typing import TypeVar

from pydantic import TypeAdapter, ValidationError
from pydantic_core import PydanticSerializationError

from loradar.core.errors import BadConfigError, BadFileError
from loradar.core.files import write_atomically
from loradar.core.names import REPORT

SCHEMA = 1
R = TypeVar("R")


def to_text(form: TypeAdapter[R], report: R, *, indent: int) -> str:
    """The fixed form. Raises BadConfigError for a value that JSON cannot hold."""
    try:
        values = json.loads(form.dump_json(report))
    except PydanticSerializationError as error:
        raise BadConfigError(f"the report holds what JSON cannot: {error}; give plain numbers and text") from error
    fixed = {"schema": SCHEMA, **{key: values.pop(key) for key in ("rows", "base", "data", "versions")}}
    return json.dumps(fixed | {key: value for key, value in values.items() if value}, indent=indent) + "\n"


def from_text(form: TypeAdapter[R], text: str, name: object) -> R:
    """The report of `to_text`, every type checked. Raises BadFileError with `name` and the first thing wrong."""
    try:
        values = json.loads(text)
    except ValueError as error:
        raise BadFileError(f"{name} is not JSON: {error}") from error
    if not isinstance(values, dict) or values.pop("schema", None) != SCHEMA:
        raise BadFileError(f"{name} has another schema; this version reads {{'schema': {SCHEMA}, ...}}")
    try:
        return form.validate_json(json.dumps(values))
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise BadFileError(f"{name} is damaged at {where or 'its top'}: {first['msg']}") from error


def write(folder: Path | str, text: str, markdown: str, page: str) -> Path:
    """Each file whole or not at all; returns the page's path. Raises BadFileError where the disk is full or refuses."""
    for name, content in {REPORT: text, "report.md": markdown, "report.html": page}.items():
        write_atomically(Path(folder) / name, content.encode())
    return Path(folder) / "report.html"


def read(form: TypeAdapter[R], path: Path | str) -> R:
    """The report in a folder or a file. Raises BadFileError where there is none, or it is damaged."""
    path = Path(path)
    file = path / REPORT if path.is_dir() else path
    try:
        text = file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise BadFileError(
            f"could not read {file}: {error}; expected a report.json, or a folder that holds one"
        ) from error
    return from_text(form, text, file)
