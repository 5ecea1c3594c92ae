"""The command that renders a report's pages again."""

from pathlib import Path
from typing import Annotated

import typer

from loradar.cli.printing import Output


def report(
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="A folder with a report.json.", show_default=False)],
) -> Output:
    """Render report.md and report.html again from a folder's report.json, and print the verdicts."""
    from loradar.report.files import read_report, write_pages
    from loradar.report.verdict import next_steps, verdicts

    found = read_report(folder)
    page = write_pages(found, folder if folder.is_dir() else folder.parent)
    judged, steps = verdicts(found), next_steps(found)
    return Output(
        text=[*(one.text for one in judged), *(f"next: {step}" for step in steps), f"report: {page}"],
        data={"verdicts": judged, "next_steps": steps, "report": page},
    )
