"""What each part of a few-shot pool is worth: the blend minus every other row, task by task.

    loradar run experiments/few-shot/resnet18-features.yaml --only parts
    python experiments/few-shot/parts.py               # reads runs/few-shot/resnet18-features/parts

The run's own report compares with the untuned base alone. Writes `parts.json` and `parts.md` beside this file: mean differences
in points with 95 % intervals, domains averaged as in the report.
"""

import argparse
import json
from pathlib import Path

from rich.console import Console

from loradar.core.files import write_atomically
from loradar.report.few_shot import FewShotRow, averaged

HERE = Path(__file__).parent
BLEND = "AMT"
MINUS = {
    "the average of the members, the same head": "average of weights, ridge head",
    "one member, chosen by the images left out": "single member by held-out answers",
    "the most robust member (eps 8), always": "member eps-8",
    "members scored under attack instead": "AMT, members scored under attack",
    "class means instead of ridge": "AMT, nearest centroid",
    "the best member of each task, chosen by its queries": "best member of each task (by its queries)",
}


def differences(run: Path) -> list[FewShotRow]:
    """A row for each part, measure, and kind of domain, of the tasks that the run has kept."""
    settings = json.loads((run / "run.json").read_text())
    names = [one.partition("=")[0] for one in settings["domain"]]
    rows = []
    for name in names:
        tasks = [json.loads(one.read_text()) for one in sorted(run.glob(f"work/*/{name}-5w5s/*.json"))]
        for measure in (key for key in tasks[0] if key != "weights"):
            found = [task[measure] for task in tasks if measure in task]
            for part, other in MINUS.items():
                shares = [one[BLEND] - one[other] for one in found if other in one]
                what = {"method": part, "domain": name, "setting": "5w5s", "attack": measure}
                rows.append(FewShotRow.of(shares, seed=settings["seed"], **what))
    like = settings["in_domain"]
    unlike = [name for name in names if name not in like]
    return [*averaged(rows, unlike, "unlike"), *averaged(rows, like, "like")]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", nargs="?", type=Path, default=Path("runs/few-shot/resnet18-features/parts"))
    found: dict[str, dict[str, list[FewShotRow]]] = {part: {} for part in MINUS}
    for row in differences(parser.parse_args().run):
        measure = "attacked" if row.attack.startswith("pgd") else {"none": "clean"}.get(row.attack, row.attack)
        found[row.method].setdefault(measure, []).append(row)
    measures = list(next(iter(found.values())))
    unlike, like = next(iter(found.values()))[measures[0]]
    lines = [
        "# What each part of a pool is worth",
        "",
        f"The blend minus the row, in points, unlike / like the tuning data ({unlike.episodes} / {like.episodes} tasks of 5 "
        "ways and 5 shots).",
        "",
        f"| the blend minus | {' | '.join(measures)} |",
        f"|---|{'---|' * len(measures)}",
    ]
    for part, by_measure in found.items():
        cells = [
            " / ".join(f"{100 * row.mean:+.1f} ± {100 * row.half_width:.1f}" for row in by_measure[measure])
            for measure in measures
        ]
        lines.append(f"| {part} | {' | '.join(cells)} |")
    known = {
        part: {m: [[row.mean, row.half_width, row.episodes] for row in rows] for m, rows in each.items()}
        for part, each in found.items()
    }
    write_atomically(HERE / "parts.json", (json.dumps(known, indent=1) + "\n").encode())
    write_atomically(HERE / "parts.md", ("\n".join(lines) + "\n").encode())
    Console(soft_wrap=True).print("\n".join(lines))


if __name__ == "__main__":
    main()
