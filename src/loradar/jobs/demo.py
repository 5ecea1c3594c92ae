"""The main job on built-in real data: no download, a few minutes. Its settings are those of demo.yaml beside this file."""

from pathlib import Path

from loradar.core.types import Progress
from loradar.jobs import stages, tasks

FILE = Path(__file__).with_name("demo.yaml")


def demo(out: Path, *, seed: int = 0, progress: Progress | None = None) -> Path:
    """Trains a base on handwritten digits and adapters against ROA, FIA and PGD; returns the path of the report."""
    job = stages.resolve(FILE, changes={"out": str(out), "seed": str(seed)})
    tasks.run(job, progress=progress)
    return out / "harden" / "report.html"
