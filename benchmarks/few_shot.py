"""Seconds of one few-shot task, step by step: features, blend, trim, prototypes, classify; trimming beside a full SVD.

    python -m benchmarks.few_shot [--repeats 3] [--shot 5] [--queries 50]

A small ViT (patch 4, 32 px), ViT-S/16 at 128 px and ResNet-18 at 32 px, each with four members of rank 8. Speed does not depend
on what the weights are, so they are fresh.
"""

import argparse
import json
import statistics
from typing import Any

import torch

from benchmarks.timing import RESULTS, seconds_of
from loradar.adapters import (
    Adapter,
    AdapterPool,
    add_weighted,
    find_targets,
    init_adapter,
    merge_weights,
    truncate_spectrum,
)
from loradar.adapters.layers import weight_of
from loradar.core.modules import unwrap
from loradar.fewshot.blending import Blending
from loradar.fewshot.fit import FitJob, run
from loradar.fewshot.pools import PoolModels, targets_of
from loradar.models import Base, new_base

BASES: dict[str, dict[str, Any]] = {
    "small ViT, patch 4, 32 px": {"architecture": "timm:vit_tiny_patch16_224", "img_size": 32, "patch_size": 4},
    "ViT-S/16, 128 px": {"architecture": "timm:vit_small_patch16_224", "img_size": 128},
    "ResNet-18, 32 px": {"architecture": "resnet18"},
}
WAY, KEEP = 5, 0.9


def pool_of(base: Base) -> AdapterPool:
    """Four members that share their start and have moved apart."""
    start = init_adapter(
        base.model,
        target_modules=targets_of(base.model, ()),
        rank=8,
        init="svd",
        head=False,
        fused="split",
        name="start",
    )
    return AdapterPool({f"member {i}": _moved(start, i) for i in range(4)})


def _moved(start: Adapter, number: int) -> Adapter:
    member = start.to("cpu")
    draws = torch.Generator().manual_seed(number)
    with torch.no_grad():
        for tensor in member.parameters():
            tensor += 0.01 * torch.randn(tensor.shape, generator=draws)
    return member


def measure(name: str, shot: int, queries: int, repeats: int) -> dict[str, float]:
    """Median seconds by step."""
    options = dict(BASES[name])
    side = int(options.get("img_size", 32))
    base = new_base(options.pop("architecture"), num_classes=10, input_size=(3, side, side), **options)
    base.model.requires_grad_(False)
    pool = pool_of(base)
    models = PoolModels.of(base.model, pool)
    draws = torch.Generator().manual_seed(0)
    x, y = torch.rand(WAY * shot, 3, side, side, generator=draws), torch.arange(WAY * shot) % WAY
    query = torch.rand(queries, 3, side, side, generator=draws)
    classes = tuple(str(i) for i in range(WAY))
    job = FitJob(models=models, blending=Blending(rank_keep_ratio=KEEP), x=x, y=y, classes=classes)
    runs = [run(job) for _ in range(repeats + 1)][1:]
    found = {step: statistics.median(run.seconds[step] for run in runs) for step in runs[0].seconds}
    with torch.no_grad():
        folded = merge_weights(base.model, runs[0].adapter)
        found["classify"] = statistics.median(seconds_of(lambda: folded(query).argmax(1), repeats))
        blend = add_weighted(pool, {"member 0": 0.5, "member 1": 0.5})
        weights = [
            weight_of(unwrap(base.model), layer).flatten(1) for layer in find_targets(base.model, list(blend.deltas))
        ]
        found["trim, all weights"] = statistics.median(
            seconds_of(lambda: truncate_spectrum(base.model, blend, KEEP), repeats)
        )
        found["full SVD of the same weights"] = statistics.median(
            seconds_of(lambda: [_by_svd(weight) for weight in weights], 1)
        )
    found["one task"] = sum(found[step] for step in (*runs[0].seconds, "classify"))
    return found


def _by_svd(weight: torch.Tensor) -> torch.Tensor:
    u, s, vh = torch.linalg.svd(weight, full_matrices=False)
    kept = int(KEEP * len(s))
    cut: torch.Tensor = u[:, :kept] * s[:kept] @ vh[:kept]
    return cut


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--shot", type=int, default=5)
    parser.add_argument("--queries", type=int, default=50)
    args = parser.parse_args()
    print(f"{WAY}-way {args.shot}-shot, {args.queries} queries, {torch.get_num_threads()} threads; seconds")
    found = {}
    for name in BASES:
        found[name] = measure(name, args.shot, args.queries, args.repeats)
        print(name + "".join(f"\n  {step:<30}{value:8.3f}" for step, value in found[name].items()))
    RESULTS.mkdir(exist_ok=True)
    settings = {"way": WAY, "shot": args.shot, "queries": args.queries, "repeats": args.repeats, "keep": KEEP}
    values = {"settings": settings, "threads": torch.get_num_threads(), "torch": torch.__version__, "seconds": found}
    (RESULTS / "few-shot.json").write_text(json.dumps(values, indent=1) + "\n")


if __name__ == "__main__":
    main()
