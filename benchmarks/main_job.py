"""The whole of the main job, one ROA adapter on CIFAR-10, with this source tree and with an older one beside it.

    git worktree add ../before COMMIT
    python -m benchmarks.main_job --before ../before --base FOLDER --data SOURCE

Each tree hardens the same base with the same settings in a process and a cache of its own, one after the other; this one a
second time, with training images by `roa-quick`. Prints where the time of each goes, by what the run tells of its progress,
and the report's rows side by side; JSON goes to `results/main-job.json`.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]


class Stopwatch:
    """A progress that keeps the seconds from the start of each task to that of the next."""

    def __init__(self) -> None:
        self.began = time.perf_counter()
        self.starts: list[tuple[float, str]] = [(self.began, "opening")]

    def task(self, name: str, total: int, unit: str = "images") -> "Stopwatch":  # noqa: ARG002
        crafted = name.startswith("craft") and ("training" in name or "validation" in name)
        stage = "crafting" if crafted else "training" if name.startswith("train") else "measuring"
        self.starts.append((time.perf_counter(), stage))
        return self

    def message(self, text: str) -> None: ...

    def advance(self, amount: int = 1, note: str = "") -> None:
        """Only the starts count."""

    def stages(self) -> dict[str, float]:
        ends = [*(at for at, _ in self.starts[1:]), time.perf_counter()]
        spent: dict[str, float] = {}
        for (at, stage), end in zip(self.starts, ends, strict=True):
            spent[stage] = spent.get(stage, 0.0) + end - at
        return spent


def once(settings: dict[str, Any]) -> dict[str, Any]:
    """Hardens in this process; seconds by stage, and the rows of the report."""
    from loradar.core.config import validate
    from loradar.jobs import harden
    from loradar.jobs.config import HardenConfig

    watch = Stopwatch()
    if "recipe" in HardenConfig.model_fields:  # what earlier trees do by default
        settings = {"recipe": "transfer"} | settings
    page = harden.run(harden.resolve(validate(HardenConfig, settings)), progress=watch).page
    rows = json.loads((page.parent / "report.json").read_text())["rows"]
    return {"seconds": watch.stages(), "rows": rows}


def with_tree(tree: Path, settings: dict[str, Any]) -> dict[str, Any]:
    """`once` in a process that imports loradar from `tree`; nothing is found in a cache."""
    with tempfile.TemporaryDirectory() as directory:
        own = settings | {"seed": 0, "out": f"{directory}/out", "cache": f"{directory}/cache"}
        command = [sys.executable, str(Path(__file__).resolve()), "--once", json.dumps(own), f"{directory}/found.json"]
        subprocess.run(command, check=True, env=os.environ | {"PYTHONPATH": str(tree.resolve() / "src")})
        found: dict[str, Any] = json.loads(Path(directory, "found.json").read_text())
    return found


def show(trees: dict[str, dict[str, Any]]) -> None:
    """Two tables: seconds by stage, and the share of right answers in each row."""
    print(f"{'seconds':<44}" + "".join(f"{name:>22}" for name in trees))
    stages = list(dict.fromkeys(stage for found in trees.values() for stage in found["seconds"]))
    for stage in stages:
        print(f"{stage:<44}" + "".join(f"{found['seconds'].get(stage, 0.0):>22.0f}" for found in trees.values()))
    print(f"{'all':<44}" + "".join(f"{sum(found['seconds'].values()):>22.0f}" for found in trees.values()))
    rows = [{_name(row): row for row in found["rows"]} for found in trees.values()]
    print("right answers, % (95 % interval)")
    for name in rows[0]:
        shares = (_share(found[name]) for found in rows)
        print(f"{name:<44}" + "".join(f"{share:>22}" for share in shares))


def _share(row: dict[str, Any]) -> str:
    return f"{100 * row['correct'] / row['total']:.1f} ({100 * row['low']:.1f}-{100 * row['high']:.1f})"


def _name(row: dict[str, Any]) -> str:
    return f"{row['model']}, {row['attack'].partition('(')[0]}, {row['threat']}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--before", type=Path, help="a checkout of another commit; without it, this tree alone")
    parser.add_argument("--base", required=True)
    parser.add_argument("--data", required=True)
    parser.add_argument("--train", type=int, default=10_000)
    parser.add_argument("--epochs", type=int, default=10)
    args = parser.parse_args()
    settings = {
        "base": args.base,
        "data": args.data,
        "train": args.train,
        "validation": 500,
        "max_test_images": 500,
        "transfer_attacks": ["roa"],
        "adaptive": "none",
        "baselines": False,
        "epochs": args.epochs,
        "learning_rate": 5e-3,
        "schedule": "cosine",
    }
    trees = {"before": with_tree(args.before, settings | {"attacks": ["roa"]})} if args.before else {}
    trees["now"] = with_tree(ROOT, settings | {"attacks": ["roa"]})
    trees["now, roa-quick"] = with_tree(ROOT, settings | {"attacks": ["roa=roa-quick"]})
    show(trees)
    place = Path(__file__).parent / "results" / "main-job.json"
    place.write_text(json.dumps({"settings": settings, "found": trees}, indent=1) + "\n")


if __name__ == "__main__":
    if sys.argv[1:2] == ["--once"]:
        Path(sys.argv[3]).write_text(json.dumps(once(json.loads(sys.argv[2]))))
    else:
        main()
