"""What `few-shot fit` is worth on many classes: beside logistic regression on the same features, and by its own estimate.

    python experiments/few-shot/fitting.py BASE        # a minute a draw on one core for EfficientNet-Lite0 at 128 px

draws 43 classes of five domains, five images of each to fit on and ten others to count, five times over, and writes
`fitting.json` and `fitting.md` beside this file. Logistic regression is scikit-learn's as it comes (L2, C = 1) on the features
as they are.
"""

import json
import sys
import time
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from sklearn.linear_model import LogisticRegression
from torch import Tensor

from loradar.adapters import feature_extractor
from loradar.cli.progress import watching
from loradar.core.files import write_atomically
from loradar.core.randomness import generator
from loradar.core.types import Progress
from loradar.fewshot.classifier import FewShotClassifier
from loradar.fewshot.pools import features_of
from loradar.fewshot.tasks import Domain, named_domain
from loradar.models import Base, open_base
from loradar.report.few_shot import FewShotRow

HERE = Path(__file__).parent
DOMAINS = ("eurosat", "fashionmnist", "imagenette", "plantvillage", "signdigits")
CLASSES, SHOT, OTHERS, DRAWS = 43, 5, 10, 5


def drawn(domains: list[Domain], seed: int) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
    """Images and labels to fit on, and others of the same classes to count."""
    draws = generator(seed)
    known = [(domain, int(label)) for domain in domains for label in torch.unique(domain.images.labels)]
    parts: tuple[list[Tensor], list[Tensor]] = ([], [])
    for place in torch.randperm(len(known), generator=draws)[:CLASSES].tolist():
        domain, label = known[place]
        rows = (domain.images.labels == label).nonzero().squeeze(1)
        rows = rows[torch.randperm(len(rows), generator=draws)[: SHOT + OTHERS]]
        x, _ = domain.images.fetch(rows)
        parts[0].append(x[:SHOT])
        parts[1].append(x[SHOT:])
    labels = torch.arange(CLASSES)
    return (
        (torch.cat(parts[0]), labels.repeat_interleave(SHOT)),
        (torch.cat(parts[1]), labels.repeat_interleave(OTHERS)),
    )


def measured(base: Base, progress: Progress) -> list[dict[str, float]]:
    """For each draw: shares of right answers of the fit and of logistic regression, the fit's own estimate, and its seconds."""
    domains = [
        named_domain(f"{name}=../shared/data/fewshot/{name}", size=base.input_size[1:], seed=0) for name in DOMAINS
    ]
    features = feature_extractor(base.model).eval()
    found, bar = [], progress.task("draws", DRAWS, "draws")
    for seed in range(DRAWS):
        (x, y), (others, truth) = drawn(domains, seed)
        began = time.perf_counter()
        task = FewShotClassifier(base).fit(x, y)
        seconds = time.perf_counter() - began
        peer = LogisticRegression(max_iter=5000).fit(features_of(features, x), y)
        clean, _ = task.adapter_.card.data["held_out"]["rows"]
        found.append(
            {
                "fit": task.score(others, truth),
                "logistic regression": float(peer.score(features_of(features, others), truth)),
                "images left out": clean["correct"] / clean["total"],
                "seconds": seconds,
            }
        )
        bar.advance()
    return found


def table(rows: list[dict[str, float]], base: str) -> str:
    """The figures of all draws as Markdown."""

    def mean(values: list[float]) -> str:
        row = FewShotRow.of(values, method="", domain="", setting="", attack="", seed=0)
        return f"{100 * row.mean:.1f} ± {100 * row.half_width:.1f}"

    shown = {
        "fit": [row["fit"] for row in rows],
        "logistic regression": [row["logistic regression"] for row in rows],
        "fit less logistic regression, by draw": [row["fit"] - row["logistic regression"] for row in rows],
        "fit, by images left out": [row["images left out"] for row in rows],
        "fit less that, by draw": [row["fit"] - row["images left out"] for row in rows],
    }
    seconds = sorted(row["seconds"] for row in rows)
    lines = [
        "# A fit on many classes\n",
        f"Right answers in percent, with 95 % intervals over {DRAWS} draws of {CLASSES} classes ({', '.join(DOMAINS)}), "
        f"{SHOT} images of each to fit on, {OTHERS} others to count; base: {base}. The fit took {seconds[0]:.1f} to "
        f"{seconds[-1]:.1f} seconds, its attack on images left out included.\n",
        "| | right, % |",
        "|---|---:|",
        *(f"| {name} | {mean(values)} |" for name, values in shown.items()),
    ]
    return "\n".join(lines) + "\n"


def main() -> None:
    if len(sys.argv) != 2:
        sys.exit("expected one argument: the base, such as timm:tf_efficientnet_lite0")
    base = open_base(sys.argv[1], "cpu")
    with watching(Console(stderr=True)) as progress:
        rows = measured(base, progress)
    said: dict[str, Any] = {"base": base.description["architecture"], "domains": DOMAINS, "rows": rows}
    write_atomically(HERE / "fitting.json", (json.dumps(said, indent=1) + "\n").encode())
    text = table(rows, str(base.description["architecture"]))
    write_atomically(HERE / "fitting.md", text.encode())
    Console().print(text, markup=False)


if __name__ == "__main__":
    main()
