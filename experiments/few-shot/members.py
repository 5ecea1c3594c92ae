"""One member of the pool, trained in several ways: what its rank, start, perturbation and loss are worth.

    python experiments/few-shot/members.py             # about half an hour on one core, behind the base
    python experiments/few-shot/members.py --only "rank 4" "random start"

reads the data and the base that `resnet18-stages.yaml` names, trains the member of radius 6/255 for 200 tasks each way, under
the nearest centroid, as in the paper, and at a lower rate than that pool's, works in `runs/few-shot/members/`, and writes
`members.json` and `members.md` beside this file: right answers on validation tasks (never on reported ones), clean and under
the member's own attack, at the last epoch.
"""

import argparse
import json
import math
from pathlib import Path
from typing import Any

from rich.console import Console

from loradar.cli.progress import watching
from loradar.core.config import validate
from loradar.core.files import write_atomically
from loradar.fewshot.config import MetaTuneConfig
from loradar.fewshot.meta_tune import resolve, run
from loradar.jobs import stages
from loradar.training import read_epochs

HERE = Path(__file__).parent
RECORD = HERE / "members.json"
MEMBER = "eps-6"
SHARED: dict[str, Any] = {
    "eps_255": [6],
    "baselines": False,
    "ablations": False,
    "head": "centroid",
    "adversarial_weight": 1.0,
    "learning_rate": 2e-3,
    "epochs": 4,
    "episodes": 50,
    "validation_episodes": 60,
}
VARIANTS: dict[str, dict[str, Any]] = {
    "rank 16": {},
    "rank 4": {"rank": 4},
    "rank 64": {"rank": 64},
    "random start": {"init": "random"},
    "factors not perturbed": {"perturbation": "none"},
    "factors perturbed by the raw gradient": {"perturbation": "raw"},
    "divergence reversed": {"kl": "attacked-clean"},
    "weight of the divergence 6": {"adversarial_weight": 6.0},
    "rate 5e-3": {"learning_rate": 5e-3},
}


def config_of(name: str, settings: dict[str, Any], directory: Path) -> MetaTuneConfig:
    """What the variant `name` is trained with."""
    return validate(MetaTuneConfig, settings | SHARED | VARIANTS[name] | {"out": directory / name.replace(" ", "-")})


def told(config: MetaTuneConfig) -> dict[str, Any]:
    """What its figures depend on, but for where things lie."""
    unread = {"out", "base", "data", "validation_data", "precision", "device", "clean_learning_rate"}
    return config.model_dump(mode="json", exclude=unread)


def trained(name: str, config: MetaTuneConfig) -> dict[str, Any]:
    """What the validation tasks say of the variant `name` after its last epoch."""
    with watching(Console(stderr=True)) as progress:
        run(resolve(config), progress=progress)
    last = read_epochs(config.out / "work" / MEMBER / "epochs", config.epochs)[-1]
    return {"variant": name, "clean": last.clean, "attacked": last.adversarial, "settings": told(config)}


def recorded(configs: dict[str, MetaTuneConfig]) -> dict[str, dict[str, Any]]:
    """The rows that stand, but for those of other settings, which would be no company."""
    rows = json.loads(RECORD.read_text()) if RECORD.exists() else []
    found = {row["variant"]: row for row in rows}
    return {name: found[name] for name in configs if name in found and found[name]["settings"] == told(configs[name])}


def table(rows: list[dict[str, Any]], settings: dict[str, Any]) -> str:
    way, _, shots = str(settings["setting"]).partition("w")
    queries = SHARED["validation_episodes"] * int(way) * int(settings["query"])
    lines = [
        "# One member, trained in several ways\n",
        f"{SHARED['epochs'] * SHARED['episodes']} tasks each under the nearest centroid, at the rate "
        f"{SHARED['learning_rate']:g} where no other is said, seed 0. Right answers, in percent, on the {queries} queries of "
        f"{SHARED['validation_episodes']} validation tasks ({way} ways, {shots.removesuffix('s')} shots, CIFAR-FS's validation "
        "classes), clean and under PGD of two steps, radius 6/255; ± is the half width of a binomial 95 % interval.\n",
        "| variant | clean | attacked |",
        "|---|---:|---:|",
    ]
    for row in rows:
        cells = [
            f"{100 * p:.1f} ± {196 * math.sqrt(p * (1 - p) / queries):.1f}" for p in (row["clean"], row["attacked"])
        ]
        lines.append(f"| {row['variant']} | {cells[0]} | {cells[1]} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=list(VARIANTS), default=list(VARIANTS), metavar="VARIANT")
    parser.add_argument("--directory", type=Path, default=Path("runs/few-shot/members"))
    args = parser.parse_args()
    (pool,) = stages.resolve(HERE / "resnet18-stages.yaml", only=["pool"]).stages
    settings = pool.config.model_dump(exclude_unset=True)
    configs = {name: config_of(name, settings, args.directory) for name in VARIANTS}
    for name in args.only:
        row = trained(name, configs[name])
        # read again: others may have written in the meantime
        known = recorded(configs) | {name: row}
        rows = [known[variant] for variant in VARIANTS if variant in known]
        write_atomically(RECORD, (json.dumps(rows, indent=1) + "\n").encode())
        write_atomically(RECORD.with_suffix(".md"), table(rows, settings).encode())


if __name__ == "__main__":
    main()
