"""One case in a process of its own: seconds over repeats after a warm-up, and the peak of its memory."""

import json
import multiprocessing
import platform
import resource
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import torch

RESULTS = Path(__file__).parent / "results"


@dataclass(frozen=True, kw_only=True)
class Timing:
    """`seconds` are those of each repeat; `peak_mb` is the process's largest resident size, of which `held_mb` was there
    before the first call: imports, the model and what was prepared.
    """

    case: str
    images: int
    seconds: tuple[float, ...]
    peak_mb: float
    held_mb: float

    @property
    def step_mb(self) -> float:
        """What the call itself needed."""
        return self.peak_mb - self.held_mb

    @property
    def per_thousand(self) -> float:
        return 1000 * statistics.median(self.seconds) / self.images

    @property
    def spread(self) -> tuple[float, float]:
        return 1000 * min(self.seconds) / self.images, 1000 * max(self.seconds) / self.images


def timed(case: str, prepare: Callable[[str], tuple[Callable[[], object], int]], repeats: int) -> Timing:
    """`prepare(case)` gives what is timed and how many images one call of it handles; both run in a fresh process."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(_run, (case, prepare, repeats))


def _run(case: str, prepare: Callable[[str], tuple[Callable[[], object], int]], repeats: int) -> Timing:
    call, images = prepare(case)
    held = _largest_mb()
    seconds = seconds_of(call, repeats)
    return Timing(case=case, images=images, seconds=seconds, peak_mb=_largest_mb(), held_mb=held)


def seconds_of(call: Callable[[], object], repeats: int) -> tuple[float, ...]:
    """Those of each repeat, after a call that warms up."""
    call()
    seconds = []
    for _ in range(repeats):
        began = time.perf_counter()
        call()
        seconds.append(time.perf_counter() - began)
    return tuple(seconds)


def _largest_mb() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1024 if sys.platform == "linux" else 1024**2)


def machine() -> dict[str, object]:
    """What the figures of a file were taken on."""
    processor = platform.processor() or platform.machine()
    return {"processor": processor, "threads": torch.get_num_threads(), "torch": torch.__version__}


def show(name: str, timings: list[Timing], settings: dict[str, object]) -> None:
    """Prints a table and writes `results/NAME.json`."""
    print(f"{name}: {', '.join(f'{k} {v}' for k, v in settings.items())}, {torch.get_num_threads()} threads")
    print(f"{'case':<44}{'s / 1,000 images':>18}{'min - max':>18}{'peak MB':>10}{'of it the call':>16}")
    for t in timings:
        low, high = t.spread
        print(f"{t.case:<44}{t.per_thousand:>18.2f}{f'{low:.2f} - {high:.2f}':>18}{t.peak_mb:>10.0f}{t.step_mb:>16.0f}")
    RESULTS.mkdir(exist_ok=True)
    values = {"settings": settings, "machine": machine()}
    rows = [asdict(t) | {"seconds_per_1000": t.per_thousand} for t in timings]
    (RESULTS / f"{name}.json").write_text(json.dumps(values | {"timings": rows}, indent=1) + "\n")
