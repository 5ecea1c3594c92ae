"""The command that renders a report's pages again."""

from pathlib import Path
from typing import Annotated

import typer


def report(folder: Annotated[Path, typer.Argument(help="A folder with a report.json.")]) -> None:
    """Render report.md and report.html again from a folder's report.json, and print the page's path."""
    from loradar.report.files import read_report, write_pages

    typer.echo(write_pages(read_report(folder), folder if folder.is_dir() else folder.parent))
