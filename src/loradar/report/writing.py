"""Writes reports: report.json, report.md and report.html."""

from pathlib import Path

from loradar.report.few_shot import FewShotReport, few_shot_to_json
from loradar.report.files import write
from loradar.report.schema import Report, to_json


def write_report(report: Report, folder: Path | str) -> Path:
    """Writes report.json, report.md and report.html into `folder`, each whole or not at all; returns the page's path.

    Other files in the folder stay. Raises BadConfigError, and BadFileError where the disk is full or refuses.
    """
    from loradar.report.page import to_html, to_markdown  # here: it brings matplotlib, which takes seconds

    return write(folder, to_json(report), to_markdown(report), to_html(report))


def write_few_shot_report(report: FewShotReport, folder: Path | str) -> Path:
    """Writes report.json, report.md and report.html into `folder`; returns the page's path. Raises BadFileError."""
    from loradar.report.few_shot_page import to_html, to_markdown  # here: it brings matplotlib, which takes seconds

    return write(folder, few_shot_to_json(report), to_markdown(report), to_html(report))
