"""The demo's report, kept: adapters against ROA, FIA and PGD on handwritten digits.

    python experiments/digits/run.py

runs `loradar demo` (its settings are in `loradar.jobs.demo`) in `runs/demo` and keeps the report beside this file.
"""

import shutil
from pathlib import Path

from rich.console import Console

from loradar.cli.progress import watching
from loradar.jobs.demo import demo

if __name__ == "__main__":
    with watching(Console(stderr=True)) as progress:
        page = demo(Path("runs/demo"), progress=progress)
    for name in ("report.json", "report.md", "report.html"):
        shutil.copy(page.parent / name, Path(__file__).parent / name)
