"""Seconds per 1,000 images for each attack, torchattacks beside ours where it has the same one; same model and batch.

    python -m benchmarks.attacks [--architecture resnet18] [--batch 32] [--repeats 2]

Speed does not depend on what the weights are, so the model has fresh ones. Ours are measured in fp32 and, where the
processor multiplies it, in bf16; torchattacks as it runs by default, in fp32.
"""

import argparse
import os
from collections.abc import Callable

import torch

from benchmarks.timing import show, timed
from loradar.attacks import parse_attack
from loradar.models import foldable_conv_bn, new_base, optimize_for_inference

OURS = ("fgsm", "pgd", "pgd:norm=l2", "mi-fgsm", "noise", "fia", "roa", "roa:search=exhaustive,stride=4")
PEERS = ("FGSM", "PGD", "PGDL2", "MIFGSM")


def prepare(case: str) -> tuple[Callable[[], object], int]:
    """`loradar PRECISION SPEC` or `torchattacks NAME` as something to call."""
    who, _, rest = case.partition(" ")
    batch = int(os.environ["BENCH_BATCH"])
    base = new_base(os.environ["BENCH_ARCHITECTURE"], num_classes=10, input_size=(3, 32, 32))
    x = torch.rand(batch, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    y = torch.arange(batch) % 10
    if who == "torchattacks":
        import torchattacks

        settings = {"FGSM": {}, "MIFGSM": {"steps": 10}, "PGD": {"steps": 10}, "PGDL2": {"steps": 10}}[rest]
        peer = getattr(torchattacks, rest)(base.model, **settings)
        return lambda: peer(x, y), batch
    precision, spec = rest.split(" ", 1)
    attack, model = parse_attack(spec), base.model.to(memory_format=torch.channels_last)
    fast = optimize_for_inference(model, "bf16" if precision == "bf16" else "fp32", merge=foldable_conv_bn(model))
    return lambda: attack(fast, x, y), batch


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--architecture", default="resnet18")
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--repeats", type=int, default=2)
    args = parser.parse_args()
    # the cases run in processes of their own, which read this
    os.environ |= {"BENCH_BATCH": str(args.batch), "BENCH_ARCHITECTURE": args.architecture}
    cases = [f"torchattacks {name}" for name in PEERS]
    cases += [f"loradar {precision} {spec}" for precision in ("fp32", "bf16") for spec in OURS]
    timings = [timed(case, prepare, args.repeats) for case in cases]
    show("attacks", timings, {"architecture": args.architecture, "batch": args.batch, "repeats": args.repeats})


if __name__ == "__main__":
    main()
