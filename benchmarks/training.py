"""Seconds per 1,000 clean images for a 1:1 training step: an adapter beside full fine-tuning, the head alone, and peft.

    python -m benchmarks.training [--architecture resnet18] [--batch 64] [--repeats 3]

The attacked half is given: crafting has a benchmark of its own. Same model, batch, threads and optimiser.
"""

import argparse
import copy
import os
from collections.abc import Callable, Iterable

import torch
from torch import Tensor, nn

from benchmarks.timing import show, timed
from loradar.adapters import find_targets, init_adapter, plug
from loradar.models import foldable_conv_bn, new_base, skip_padding, with_autocast
from loradar.training import adversarial_loss

CASES = ("full fine-tuning", "peft LoRA rank 4", "loradar rank 4", "loradar fc only")
TARGETS = ["block-conv1+stem"]


def prepare(case: str) -> tuple[Callable[[], object], int]:
    """`PRECISION WAY` as a training step to call."""
    precision, _, way = case.partition(" ")
    batch = int(os.environ["BENCH_BATCH"])
    base = new_base(os.environ["BENCH_ARCHITECTURE"], num_classes=10, input_size=(3, 32, 32)).model
    base = base.to(memory_format=torch.channels_last).requires_grad_(False)
    model, parameters = _wear(base, way)
    fast = with_autocast(model, "bf16" if precision == "bf16" else "fp32")
    optimizer = torch.optim.Adam(parameters, lr=1e-3)
    x, x_adv = torch.rand(2, batch, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    y = torch.arange(batch) % 10

    def step() -> None:
        loss = adversarial_loss(fast, x, x_adv, y)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()

    return step, batch


def _wear(base: nn.Module, way: str) -> tuple[nn.Module, Iterable[Tensor]]:
    if way == "full fine-tuning":
        model = copy.deepcopy(base).requires_grad_(True)
        return model, list(model.parameters())
    if way == "peft LoRA rank 4":
        import peft

        names = list(find_targets(base, TARGETS))
        config = peft.LoraConfig(r=4, lora_alpha=4, target_modules=names, modules_to_save=["fc"])
        model = copy.deepcopy(base)
        model.wrapped = peft.get_peft_model(model.wrapped, config)
        return model, [p for p in model.parameters() if p.requires_grad]
    adapter = init_adapter(base, target_modules=TARGETS if way == "loradar rank 4" else ())
    return skip_padding(plug(base, adapter, merge=foldable_conv_bn(base))), adapter.parameters()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--architecture", default="resnet18")
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--repeats", type=int, default=3)
    args = parser.parse_args()
    # the cases run in processes of their own, which read this
    os.environ |= {"BENCH_BATCH": str(args.batch), "BENCH_ARCHITECTURE": args.architecture}
    timings = [timed(f"{p} {way}", prepare, args.repeats) for p in ("fp32", "bf16") for way in CASES]
    show("training", timings, {"architecture": args.architecture, "batch": args.batch, "repeats": args.repeats})


if __name__ == "__main__":
    main()
