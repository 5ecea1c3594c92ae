"""A report as files: for programs, for a terminal or a repository, and for a browser."""

from pathlib import Path

from loradar.core.errors import BadFileError
from loradar.core.files import write_atomically
from loradar.evaluation.report import Report, from_json, to_json


def write_report(report: Report, folder: Path | str) -> Path:
    """Writes report.json, report.md and report.html into `folder`, each whole or not at all; returns the page's path.

    Other files in the folder stay. Raises BadConfigError, and BadFileError where the disk is full or refuses.
    """
    from loradar.evaluation.page import to_html, to_markdown  # here: it brings matplotlib, which takes seconds

    folder = Path(folder)
    texts = {"report.json": to_json(report), "report.md": to_markdown(report), "report.html": to_html(report)}
    for name, text in texts.items():
        write_atomically(folder / name, text.encode())
    return folder / "report.html"


def read_report(path: Path | str) -> Report:
    """The report in a folder or a file. Raises BadFileError where there is none, or it is damaged."""
    path = Path(path)
    file = path / "report.json" if path.is_dir() else path
    try:
        text = file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise BadFileError(
            f"could not read {file}: {error}; expected a report.json, or a folder that holds one"
        ) from error
    return from_json(text)
