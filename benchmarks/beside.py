"""Ours and others in one process and in turns, so that a ratio compares the same moments; and how far the floor is."""

import json
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.timing import RESULTS, machine


@dataclass(frozen=True, kw_only=True)
class Strength:
    """What an attack did to `total` images, judged by the fp32 model: how many it fooled, and the mean cross-entropy."""

    fooled: int
    total: int
    loss: float


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """`seconds` of each turn, of a call that handles `images`; `strength` where it was measured."""

    name: str
    images: int
    seconds: tuple[float, ...]
    strength: Strength | None = None


@dataclass(frozen=True, kw_only=True)
class Ratio:
    """How many times as long `peer` takes as `ours`: median, least and most over the turns.

    It counts only where ours fools as many images as the peer, within half a point, and, for attacks that we make cheaper
    than their papers do (`by_loss`), leaves no lower a mean loss.
    """

    ours: str
    peer: str
    median: float
    least: float
    most: float
    counts: bool | None


def in_turns(calls: Mapping[str, Callable[[], object]], repeats: int) -> dict[str, tuple[float, ...]]:
    """Seconds of each call in each of `repeats` rounds; one round before them warms up."""
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    for turn in range(repeats + 1):
        for name, call in calls.items():
            began = time.perf_counter()
            call()
            if torch.cuda.is_available():
                torch.cuda.synchronize()  # a call returns before the GPU has done it
            if turn:
                seconds[name].append(time.perf_counter() - began)
    return {name: tuple(values) for name, values in seconds.items()}


def ratio(ours: Candidate, peer: Candidate, *, by_loss: bool = False) -> Ratio:
    turns = [theirs / own for own, theirs in zip(ours.seconds, peer.seconds, strict=True)]
    counts = None
    if ours.strength and peer.strength:
        as_many = ours.strength.fooled >= peer.strength.fooled - 0.005 * peer.strength.total
        counts = as_many and (not by_loss or ours.strength.loss >= peer.strength.loss)
    return Ratio(
        ours=ours.name,
        peer=peer.name,
        median=statistics.median(turns),
        least=min(turns),
        most=max(turns),
        counts=counts,
    )


def peak(dtype: torch.dtype, size: int = 2048, device: torch.device | str = "cpu") -> float:
    """Operations a second of a square matrix product: what this device can do at best, in this run."""
    a, b = torch.rand(2, size, size).to(device, dtype).unbind()
    seconds = in_turns({"product": lambda: a @ b}, 5)["product"]
    return 2 * size**3 / min(seconds)


def operations(model: nn.Module, x: Tensor) -> int:
    """Of a forward pass."""
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(x)
    return int(counter.get_total_flops())


def show(name: str, settings: Mapping[str, object], candidates: list[Candidate], ratios: list[Ratio]) -> None:
    """Prints two tables and writes `results/NAME.json`."""
    console = Console()
    table = Table("case", "s / 1,000 images", "least - most", "fooled", "mean loss", title=f"{name}: {dict(settings)}")
    for one in candidates:
        per = [1000 * second / one.images for second in one.seconds]
        found = one.strength
        table.add_row(
            one.name,
            f"{statistics.median(per):.2f}",
            f"{min(per):.2f} - {max(per):.2f}",
            f"{found.fooled} of {found.total}" if found else "not measured",
            f"{found.loss:.2f}" if found else "",
        )
    console.print(table)
    table = Table("ours", "beside", "times faster", "least - most", "as strong")
    for each in ratios:
        word = {True: "yes", False: "no: does not count", None: "not measured"}[each.counts]
        table.add_row(each.ours, each.peer, f"{each.median:.2f}", f"{each.least:.2f} - {each.most:.2f}", word)
    console.print(table)
    content = {
        "settings": dict(settings),
        "machine": machine(),
        "candidates": [asdict(one) for one in candidates],
        "ratios": [asdict(one) for one in ratios],
    }
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / f"{name}.json").write_text(json.dumps(content, indent=1) + "\n")
