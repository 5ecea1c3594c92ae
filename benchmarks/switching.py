"""Switching the adapter and loading one, by the size of the pool, beside peft; and a batch through all of a pool.

    python -m benchmarks.switching [--architecture resnet18] [--batch 32] [--repeats 7]

Switching is `AdapterSwitch.use` beside peft's `set_adapter`, loading `load` and `add` beside peft's `load_adapter`, each with
1, 4, 16 and 64 adapters there. A batch through n adapters is beside n passes of the base: adapters on every stage, and
adapters on the last two alone, before which all is computed once.
"""

import argparse
import copy
import json
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn

from benchmarks.beside import in_turns
from benchmarks.timing import RESULTS, machine
from loradar.adapters import Adapter, AdapterSwitch, init_adapter, load, merge_weights, save
from loradar.guard.trunk import share
from loradar.models import Base, foldable_conv_bn, new_base, optimize_for_inference

SIZES = (1, 4, 16, 64)
TARGETS = {"every stage": ["block-conv1+stem"], "the last two stages": ["layer3.*.conv1", "layer4.*.conv1"]}


def trained(base: nn.Module, targets: list[str], seed: int) -> Adapter:
    """As good as trained: its deltas change the answers."""
    adapter = init_adapter(base, target_modules=targets, seed=seed)
    with torch.no_grad():
        for delta in adapter.deltas.values():
            delta.b.normal_(std=0.01)
    return adapter


def microseconds(call: Callable[[int], object], count: int, repeats: int) -> list[float]:
    """Of one call, in each repeat of `count` calls in a row; one repeat before them warms up."""
    found = []
    for _ in range(repeats + 1):
        began = time.perf_counter()
        for k in range(count):
            call(k)
        found.append(1e6 * (time.perf_counter() - began) / count)
    return found[1:]


def of_switching(base: nn.Module, folder: Path, size: int, repeats: int) -> dict[str, list[float]]:
    """Microseconds of a switch and of a load, theirs and ours, with `size` adapters in the pool."""
    import peft

    switch = AdapterSwitch(base, {str(k): load(folder) for k in range(size)})
    theirs = peft.PeftModel.from_pretrained(copy.deepcopy(base.wrapped), str(folder), adapter_name="0")
    for k in range(1, size):
        theirs.load_adapter(str(folder), adapter_name=str(k))
    found = {
        "switch, loradar": microseconds(lambda k: switch.use(str(k % size)), 200, repeats),
        "switch, peft": microseconds(lambda k: theirs.set_adapter(str(k % size)), 20, repeats),
    }

    def load_ours(_: int) -> None:
        switch.add("new", load(folder))
        switch.remove("new")

    def load_theirs(_: int) -> None:
        theirs.load_adapter(str(folder), adapter_name="new")
        theirs.delete_adapter("new")

    found["load, loradar"] = microseconds(load_ours, 3, repeats)
    found["load, peft"] = microseconds(load_theirs, 1, repeats)
    return found


def of_a_pool(found: Base, batch: int, repeats: int, count: int = 4) -> dict[str, list[float]]:
    """What a batch through `count` adapters takes, as a multiple of `count` passes of the base, in each repeat."""
    base, merge = found.model, foldable_conv_bn(found.model)
    x = torch.rand(batch, *found.input_size, generator=torch.Generator().manual_seed(0))

    def parted(targets: list[str]) -> Callable[[], list[Tensor]]:
        folded = [merge_weights(base, trained(base, targets, seed)) for seed in range(count)]
        trunk, tails = share([optimize_for_inference(model, "fp32", merge=merge) for model in folded])

        def call() -> list[Tensor]:
            shared = trunk(x)
            return [tail(*shared) for tail in tails]

        return call

    alone = optimize_for_inference(base, "fp32", merge=merge)
    calls: dict[str, Callable[[], object]] = {"base": lambda: [alone(x) for _ in range(count)]}
    calls |= {f"{count} adapters, {name}": parted(targets) for name, targets in TARGETS.items()}
    with torch.inference_mode():
        seconds = in_turns(calls, repeats)
    return {
        name: [one / own for one, own in zip(taken, seconds["base"], strict=True)]
        for name, taken in seconds.items()
        if name != "base"
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--architecture", default="resnet18")
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--repeats", type=int, default=7)
    args = parser.parse_args()
    found = new_base(args.architecture, num_classes=10, input_size=(3, 32, 32))
    base = found.model.eval().requires_grad_(False)
    with tempfile.TemporaryDirectory() as folder:
        save(trained(base, TARGETS["every stage"], 0), Path(folder))
        switching = {size: of_switching(base, Path(folder), size, args.repeats) for size in SIZES}
    table = Table("in microseconds: median (least - most)", *(f"{size} in the pool" for size in SIZES))
    for case in switching[SIZES[0]]:
        table.add_row(case, *(_said(switching[size][case], 1) for size in SIZES))
    console = Console()
    console.print(table)
    pools = of_a_pool(found, args.batch, args.repeats)
    table = Table("a batch through all", "as a multiple of as many passes of the base")
    for case, ratios in pools.items():
        table.add_row(case, _said(ratios, 3))
    console.print(table)
    content = {"settings": vars(args), "machine": machine(), "microseconds": switching, "passes": pools}
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "switching.json").write_text(json.dumps(content, indent=1) + "\n")


def _said(values: list[float], digits: int) -> str:
    return f"{statistics.median(values):.{digits}f} ({min(values):.{digits}f} - {max(values):.{digits}f})"


if __name__ == "__main__":
    main()
