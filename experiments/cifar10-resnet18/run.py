"""The source's table on CIFAR-10: base, fc-only, fc+norm, the literal start, FIA, ROA 5x5 and 7x7.

    python experiments/cifar10-resnet18/run.py stock --seeds 0 1 2
    python experiments/cifar10-resnet18/run.py cifar --seeds 0

reads CIFAR-10 and the bases from the places that the YAML files name, trains and measures (a killed run goes on), counts
clean and transfer on all 10,000 test images as well, and writes the reports beside this file. Work lies in `runs/`.
"""

import argparse
import shutil
from pathlib import Path

from rich.console import Console

from loradar.cli.progress import watching
from loradar.core.config import read_file, validate
from loradar.core.types import Progress
from loradar.jobs.audit import audit
from loradar.jobs.config import AuditConfig, HardenConfig
from loradar.jobs.harden import harden

HERE = Path(__file__).parent


def one(name: str, seed: int, whole: int, progress: Progress) -> None:
    """Trains and measures one base with one seed, and keeps the reports."""
    work = Path("runs/cifar10-resnet18") / f"{name}-seed{seed}"
    settings = read_file(HERE / f"{name}.yaml") | {"seed": seed, "out": work}
    config = validate(HardenConfig, settings)
    keep(harden(config, progress=progress).parent, HERE / f"{name}-seed{seed}")
    if whole <= (config.max_test_images or whole):
        return
    more = AuditConfig(
        base=config.base,
        adapter=sorted((work / "adapters").iterdir()),
        data=config.data,
        attacks=config.attacks,
        threat=["transfer"],
        max_test_images=whole,
        out=work / f"first-{whole}",
        batch_size=config.batch_size,
        precision=config.precision,
        seed=seed,
    )
    keep(audit(more, progress=progress).parent, HERE / f"{name}-seed{seed}-first-{whole}")


def keep(report: Path, place: Path) -> None:
    place.mkdir(exist_ok=True)
    for file in ("report.json", "report.md", "report.html"):
        shutil.copy(report / file, place / file)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("base", choices=[path.stem for path in sorted(HERE.glob("*.yaml"))])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--whole", type=int, default=10_000, help="test images for clean and transfer, beside the 500")
    args = parser.parse_args()
    with watching(Console(stderr=True)) as progress:
        for seed in args.seeds:
            one(args.base, seed, args.whole, progress)


if __name__ == "__main__":
    main()
