"""The guard on CIFAR-10: specialists and joint adapters, a guard of the specialists, and the audit of all of them.

    python experiments/cifar10-guard/run_guard.py                  # about an hour on one core; a killed run goes on
    python experiments/cifar10-guard/run_guard.py --only audit     # of what is there already

reads CIFAR-10 and the base from the places that the YAML files name, and writes the report beside this file. Work lies in
`runs/cifar10-guard`. Every number is a setting of `harden.yaml`, `build.yaml` or `audit.yaml`.
"""

import argparse
import shutil
from pathlib import Path

from rich.console import Console

from loradar.cli.progress import watching
from loradar.core.config import read_file, validate
from loradar.core.types import Progress
from loradar.guard.audit import audit_guard
from loradar.guard.build import build_guard
from loradar.guard.config import GuardAuditConfig, GuardBuildConfig
from loradar.jobs.config import HardenConfig
from loradar.jobs.harden import harden

HERE = Path(__file__).parent
WORK = Path("runs/cifar10-guard")
SPECIALISTS, JOINT = ("roa", "fia", "pgd", "l2"), ("avg", "max")
STAGES = ("harden", "build", "audit")


def run(stage: str, progress: Progress) -> None:
    settings = read_file(HERE / f"{stage}.yaml")
    adapters = WORK / "harden" / "adapters"
    if stage == "harden":
        harden(validate(HardenConfig, settings | {"out": WORK / "harden"}), progress=progress)
    elif stage == "build":
        pool = {"adapter": [adapters / name for name in SPECIALISTS], "out": WORK / "guard"}
        build_guard(validate(GuardBuildConfig, settings | pool), progress=progress)
    else:
        beside = {"guard": WORK / "guard", "candidate": [adapters / name for name in JOINT], "out": WORK / "audit"}
        page = audit_guard(validate(GuardAuditConfig, settings | beside), progress=progress)
        for file in ("report.json", "report.md", "report.html"):
            shutil.copy(page.parent / file, HERE / file)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", choices=STAGES, help="one stage instead of all three")
    args = parser.parse_args()
    with watching(Console(stderr=True)) as progress:
        for stage in (args.only,) if args.only else STAGES:
            run(stage, progress)


if __name__ == "__main__":
    main()
