"""How well spread work scales: a pool on two workers, the engine's own time, and a hundred nodes in a model.

    python -m benchmarks.scaling pool [--on ray] [--repeats 3]     # a pool of four: in one process, on two workers, on eight
    python -m benchmarks.scaling overhead [--tasks 10000]          # empty tasks through the driver, on Ray and processes
    python -m benchmarks.scaling nodes                             # efficiency on 100 nodes by the number and length of tasks
    python -m benchmarks.scaling pieces                            # ViT-B/16: what an image and a step cost, in forward passes

`nodes` is a discrete model, list scheduling on 100 workers of tasks with the times that were measured: each starts a process
once, costs the driver a while per task, and takes its own time, which varies as measured. Nothing else is in it: no disk that
slows down, no machine that fails.
"""

import argparse
import heapq
import json
import os
import random
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from benchmarks.timing import RESULTS, machine, seconds_of
from loradar.adapters import init_adapter, plug
from loradar.attacks import PGD
from loradar.cluster.config import Engine, RunFileConfig
from loradar.cluster.driver import execute
from loradar.cluster.runners import runner
from loradar.core.types import NullProgress
from loradar.jobs.tasks import Task, attempts, read_plan
from loradar.models import new_base, optimize_for_inference, with_autocast

POOL = """
out: OUT
stages:
  base: {job: pretrain, architecture: "timm:test_resnet", data: digits, epochs: 1, flip: false, precision: fp32}
  pool: {job: meta-tune, base: "${base}", data: digits, precision: fp32, preset: quick, validation_classes: 4, epochs: 2,
         setting: 3w2s, query: 5, episodes: EPISODES, batch_size: 32, eps_255: [2, 4, 8, 12], baselines: false,
         validation_episodes: 4, warm_up: 0, target_modules: [block-conv1]}
"""


def pool(engine: Engine, repeats: int, episodes: int) -> dict[str, Any]:
    """Wall seconds of a pool of four, after its base is there: in one process, on two workers, on eight of a quarter core."""
    folder = Path(tempfile.mkdtemp(prefix="scaling-"))
    file = folder / "pool.yaml"
    ways: dict[str, list[str]] = {
        "one process": ["--threads", "1"],
        "two workers": ["--on", engine, "--workers", "2"],
        "eight of a quarter": [
            "--on",
            engine,
            *(["--workers", "8", "--cpus", "0.25"] if engine == "ray" else ["--workers", "8"]),
        ],
    }
    # what the machine itself gives: two processes that know nothing of one another, each with two of the four
    seconds: dict[str, list[float]] = {way: [] for way in (*ways, "two halves")}
    bits, conflicts = set(), 0
    base = folder / "base"
    for repeat in range(repeats):
        for way, args in ways.items():
            out = folder / f"{way.split()[0]}-{repeat}"
            file.write_text(POOL.replace("OUT", str(out)).replace("EPISODES", str(episodes)))
            if not base.exists():
                _loradar("run", file, "--only", "base", "--threads", "1")
                shutil.copytree(out, base)
            elif not out.exists():
                shutil.copytree(base, out)
                _moved(out)
            began = time.perf_counter()
            said = _loradar("run", file, *args)
            seconds[way].append(time.perf_counter() - began)
            weights = sorted(out.glob("pool/pool/*/adapter_model.safetensors"))
            assert len(weights) == 4, said
            bits.add(b"".join(path.read_bytes() for path in weights))
            tried = [len(attempts(task)) for task in read_plan(out) if task.part]
            conflicts += sum(tries > 1 for tries in tried)
            print(f"{way}: {seconds[way][-1]:.1f} s", flush=True)
        seconds["two halves"].append(_halves(folder, base, episodes, repeat))
        print(f"two halves: {seconds['two halves'][-1]:.1f} s", flush=True)
    ratios = {
        way: [own / alone for own, alone in zip(seconds[way], seconds["one process"], strict=True)] for way in seconds
    }
    shutil.rmtree(folder)
    return {
        "engine": engine,
        "seconds": seconds,
        "of one process": {way: [min(each), statistics.median(each), max(each)] for way, each in ratios.items()},
        "equal bits": len(bits) == 1,
        "tasks tried twice": conflicts,
    }


def _halves(folder: Path, base: Path, episodes: int, repeat: int) -> float:
    files: list[Path] = []
    for half in ("[eps-2, eps-4]", "[eps-8, eps-12]"):
        out = folder / f"half-{len(files)}-{repeat}"
        shutil.copytree(base, out)
        _moved(out)
        files.append(folder / f"{out.name}.yaml")
        text = POOL.replace("OUT", str(out)).replace("EPISODES", str(episodes))
        files[-1].write_text(text.replace("warm_up: 0,", f"warm_up: 0, member: {half},"))
    began = time.perf_counter()
    with ThreadPoolExecutor(2) as both:
        list(both.map(lambda file: _loradar("run", file, "--threads", "1"), files))
    return time.perf_counter() - began


def _moved(out: Path) -> None:
    """The mark of a finished base names its folder."""
    mark = out / "stages" / "base.json"
    first = json.loads(mark.read_text())["out"]
    mark.write_text(mark.read_text().replace(first, str(out / "base")))


def _loradar(*args: object) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "loradar", *map(str, args)],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stderr


def overhead(engine: Engine, count: int) -> dict[str, Any]:
    """Seconds that the driver and the engine take for `count` tasks that have nothing to do."""
    folder = Path(tempfile.mkdtemp(prefix="scaling-"))
    mark = folder / "done"
    mark.touch()
    tasks = [
        Task(
            id=f"{number:016x}",
            stage="empty",
            part=str(number),
            job="craft",
            settings={"out": str(folder)},
            inputs={},
            needs=(),
            folder=folder / f"{number}",
            mark=mark,
            stage_mark=folder / "never",
        )
        for number in range(count)
    ]
    # done already, but for the driver, which would not hand them over: what is left is the way there and back
    config = RunFileConfig(file=folder / "none.yaml", on=engine, workers=2)
    found = {}
    with runner(config, folder) as own:
        execute([_Waiting.of(task) for task in tasks[:8]], own, folder, NullProgress())  # the workers start
        began = time.perf_counter()
        execute([_Waiting.of(task) for task in tasks], own, folder, NullProgress())
        found = {"engine": engine, "tasks": count, "seconds": time.perf_counter() - began}
    shutil.rmtree(folder)
    return found


@dataclass(frozen=True, kw_only=True)
class _Waiting(Task):
    """A task that is not done when the driver first asks, and is ever after."""

    asked: list[int] = field(default_factory=list, compare=False)

    @classmethod
    def of(cls, task: Task) -> "_Waiting":
        return cls(**vars(task))

    @property
    def is_done(self) -> bool:
        self.asked.append(1)
        return len(self.asked) > 1


def nodes(start: float, per_task: float, spread: float, workers: int = 100) -> list[dict[str, float]]:
    """The share of the workers' time that goes into tasks: by their number and length, with the measured times."""
    found = []
    for length in (10.0, 60.0, 600.0, 3600.0):
        for count in (100, 200, 1000, 10_000):
            draws = random.Random(0)
            free = [start] * workers  # when each worker is ready for its next task
            heapq.heapify(free)
            handed, work, end = 0.0, 0.0, 0.0
            for _ in range(count):
                handed += per_task  # the driver hands over one after the other
                takes = length * max(0.2, draws.gauss(1, spread))
                began = max(heapq.heappop(free), handed)
                heapq.heappush(free, began + takes)
                work, end = work + takes, max(end, began + takes)
            found.append(
                {"task seconds": length, "tasks": count, "wall seconds": end, "efficiency": work / (workers * end)}
            )
    return found


def pieces(batch: int, repeats: int) -> dict[str, Any]:
    """What training an adapter of a ViT-B/16 costs per image, in forward passes of the base, and the bytes that it leaves."""
    base = new_base("timm:vit_base_patch16_224", num_classes=1000)
    adapter = init_adapter(base.model, target_modules="attention+mlp", rank=8)
    x, y = torch.rand(batch, 3, 224, 224), torch.arange(batch)
    frozen = optimize_for_inference(base.model, "bf16")
    plugged = with_autocast(plug(base.model, adapter).train(), "bf16")
    attack = PGD(eps=4 / 255, steps=1)

    def forward() -> None:
        with torch.no_grad():
            frozen(x)

    def step() -> None:
        loss = torch.nn.functional.cross_entropy(plugged(x), y)
        torch.autograd.grad(loss, adapter.parameters(), allow_unused=True)

    calls: dict[str, Callable[[], object]] = {
        "forward": forward,
        "attack step": lambda: attack(frozen, x, y),
        "step": step,
    }
    seconds = {name: [value / batch for value in seconds_of(call, repeats)] for name, call in calls.items()}
    once = statistics.median(seconds["forward"])
    size = sum(tensor.numel() * tensor.element_size() for tensor in adapter.state().values())
    return {
        "seconds per image": seconds,
        "forward passes": {name: statistics.median(each) / once for name, each in seconds.items()},
        "adapter bytes": size,
        "checkpoint bytes": 3 * size,  # Adam keeps two more of each
        "cached image bytes": 3 * 224 * 224 * 4,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["pool", "overhead", "nodes", "pieces"])
    parser.add_argument("--on", choices=["processes", "ray"], default="ray")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--episodes", type=int, default=150, help="steps of each of the pool's epochs")
    parser.add_argument("--tasks", type=int, default=10_000)
    parser.add_argument("--start", type=float, default=20.0, help="nodes: seconds until a worker is ready")
    parser.add_argument("--spread", type=float, default=0.1, help="nodes: deviation of a task's time, as a share of it")
    args = parser.parse_args()
    path = RESULTS / "scaling.json"
    known = json.loads(path.read_text()) if path.exists() else {}
    if args.what == "pool":
        known[f"pool on {args.on}"] = pool(args.on, args.repeats, args.episodes)
    elif args.what == "overhead":
        known[f"overhead on {args.on}"] = overhead(args.on, args.tasks)
    elif args.what == "pieces":
        known["pieces"] = pieces(batch=8, repeats=args.repeats)
    else:
        measured = known.get("overhead on ray") or known["overhead on processes"]
        per_task = measured["seconds"] / measured["tasks"]
        known["nodes"] = {
            "start": args.start,
            "per task": per_task,
            "spread": args.spread,
            "rows": nodes(args.start, per_task, args.spread),
        }
    known["machine"] = machine()
    path.write_text(json.dumps(known, indent=1) + "\n")
    print(json.dumps({key: value for key, value in known.items() if key.startswith(args.what)}, indent=1))


if __name__ == "__main__":
    main()
