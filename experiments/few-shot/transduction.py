"""What answering queries together is worth, by how many they are and of which classes: where it helps, and where it hurts.

    python experiments/few-shot/transduction.py        # about a minute on one core, behind the base

draws validation tasks (5 ways, 1 and 5 shots, of cifarfs-val and mnist, never of reported domains) for the untuned base that
`resnet18-stages.yaml` names, answers their queries with the ridge head, alone and together, clean and corrupted, and writes
`transduction.json` and `transduction.md` beside this file.
"""

import json
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from torch import Tensor

from loradar.adapters import feature_extractor
from loradar.cli.progress import watching
from loradar.core.files import write_atomically
from loradar.core.randomness import generator, mix
from loradar.core.types import Progress
from loradar.data import corrupt
from loradar.evaluation.corruptions import corruption_of
from loradar.fewshot.episode import parse_setting
from loradar.fewshot.heads import HeadConfig
from loradar.fewshot.tasks import Task, named_domain
from loradar.fewshot.transduction import Transduction
from loradar.jobs import stages
from loradar.models import open_base
from loradar.report.few_shot import FewShotRow

HERE = Path(__file__).parent
DOMAINS = ("cifarfs-val", "mnist")
SETTINGS = ("5w1s", "5w5s")
TASKS = 60
HEADS = {"alone": HeadConfig(kind="ridge"), "together": HeadConfig(kind="ridge", transduction=Transduction())}


def drawn(task: Task, seed: int) -> dict[str, Tensor]:
    """Which of a task's queries (10 of each of 5 classes) are answered, by what is wanted of them."""
    draws, labels = generator(seed), task.query_labels
    shares = torch.distributions.Gamma(torch.full((5,), 2.0), 1.0)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        wanted = shares.sample()
    counts = (20 * wanted / wanted.sum()).round().clamp(max=10).long()
    uneven = torch.cat([(labels == c).nonzero()[: int(counts[c]), 0] for c in range(5)])
    some = torch.randperm(len(labels), generator=draws)
    return {
        "50, ten of each class": torch.arange(len(labels)),
        "about 20, classes mixed by Dirichlet(2)": uneven,
        "5 at random": some[:5],
        "1": some[:1],
        "10 of one class": (labels == int(some[0]) % 5).nonzero()[:, 0],
    }


def measured(base: str, progress: Progress) -> list[dict[str, Any]]:
    """A row for each choice of queries: mean and half width of the share of right answers, by head and by images."""
    opened = open_base(base, "cpu")
    features = feature_extractor(opened.model).eval()
    shares: dict[str, dict[str, list[float]]] = {}
    task_of = progress.task("tasks", len(DOMAINS) * len(SETTINGS) * TASKS, "tasks")
    for domain in DOMAINS:
        images = named_domain(f"{domain}=../shared/data/fewshot/{domain}", size=opened.input_size[1:], seed=0)
        for setting in SETTINGS:
            for index in range(TASKS):
                task = images.task(parse_setting(setting, query=10), index)
                kind, severity = corruption_of(index)
                with torch.no_grad():
                    support = features(task.support).float()
                    queries = {
                        "clean": features(task.query).float(),
                        "corrupted": features(corrupt(task.query, kind, severity, seed=0)).float(),
                    }
                    for wanted, rows in drawn(task, mix(index, DOMAINS.index(domain), SETTINGS.index(setting))).items():
                        for how, query in queries.items():
                            for name, rule in HEADS.items():
                                right = rule(support, task.support_labels, 5)(query[rows]).argmax(1)
                                share = float((right == task.query_labels[rows]).float().mean())
                                shares.setdefault(wanted, {}).setdefault(f"{how}, {name}", []).append(share)
                task_of.advance()
    return [{"queries": wanted, "figures": {k: _interval(v) for k, v in by.items()}} for wanted, by in shares.items()]


def _interval(values: list[float]) -> dict[str, float]:
    row = FewShotRow.of(values, method="", domain="", setting="", attack="", seed=0)
    return {"mean": row.mean, "half_width": row.half_width}


def table(rows: list[dict[str, Any]]) -> str:
    names = list(rows[0]["figures"])
    lines = [
        "# Queries answered alone and together\n",
        f"Right answers, in percent, with 95 % intervals over {len(DOMAINS) * len(SETTINGS) * TASKS} validation tasks "
        f"({', '.join(DOMAINS)}; {', '.join(SETTINGS)}), untuned base, ridge head.\n",
        f"| queries | {' | '.join(names)} |",
        f"|---|{'---:|' * len(names)}",
    ]
    for row in rows:
        cells = [f"{100 * f['mean']:.1f} ± {100 * f['half_width']:.1f}" for f in row["figures"].values()]
        lines.append(f"| {row['queries']} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    (pool,) = stages.resolve(HERE / "resnet18-stages.yaml", only=["pool"]).stages
    base = str(pool.config.model_dump()["base"])
    with watching(Console(stderr=True)) as progress:
        rows = measured(base, progress)
    told = {
        "base": base,
        "domains": DOMAINS,
        "settings": SETTINGS,
        "tasks": len(DOMAINS) * len(SETTINGS) * TASKS,
        "heads": {name: repr(rule) for name, rule in HEADS.items()},
        "rows": rows,
    }
    write_atomically(HERE / "transduction.json", (json.dumps(told, indent=1) + "\n").encode())
    write_atomically(HERE / "transduction.md", table(rows).encode())


if __name__ == "__main__":
    main()
