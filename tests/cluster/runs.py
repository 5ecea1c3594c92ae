"""A small run of two stages, and how its outcomes are compared."""

import os
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

from loradar.cluster.work import read_progress
from loradar.core.errors import LoradarError
from loradar.jobs.tasks import attempts, read_plan

ROOT = Path(__file__).parents[2]
FILE = """
out: OUT
stages:
  base: {job: pretrain, architecture: "timm:test_resnet", data: digits, epochs: 1, train: 64, validation: 16,
         max_test_images: 16, batch_size: 32, flip: false, precision: fp32}
  craft: {job: craft, base: "${base}", data: digits, attacks: ["pgd:steps=2"], split: reported, max_test_images: 40,
          batch_size: 8, shards: 3, precision: fp32, cache: OUT/cache}
  pool: {job: meta-tune, base: "${base}", data: digits, precision: fp32, preset: quick, setting: 3w1s, query: 2,
         validation_classes: 4, epochs: 2, episodes: EPISODES, batch_size: 8, eps_255: [2, 4], baselines: false,
         validation_episodes: 1, warm_up: 0, target_modules: [block-conv1]}
"""
"""A base, shards of images and a pool of two on it."""


def write(folder: Path, out: Path, *, episodes: int = 3) -> Path:
    """Writes the file of stages for a run into `out`; returns its path."""
    path = folder / f"{out.name}.yaml"
    path.write_text(FILE.replace("OUT", str(out)).replace("EPISODES", str(episodes)))
    return path


def command(*args: object, mark: object = "", python: str = sys.executable) -> subprocess.Popen[str]:
    """Starts loradar as a user does, with one thread; its processes can be found by `mark`."""
    return subprocess.Popen(
        [python, "-m", "loradar", *map(str, args)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT / "src"), "MARK": str(mark)},
    )


def results(out: Path) -> dict[str, bytes]:
    """What a run is for: every file of weights and images that it leaves, but for the work on the way."""
    places = [*out.glob("base/*.safetensors"), *out.glob("craft/*.safetensors"), *out.glob("pool/pool/*/*.safetensors")]
    return {str(path.relative_to(out)): path.read_bytes() for path in places}


def worker_at(out: Path, name: str, *, other_than: int = 0, seconds: float = 120) -> int:
    """Waits until a process is at the task `name`; returns its number."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        with suppress(LoradarError, StopIteration):
            task = next(one for one in read_plan(out) if one.name == name)
            tried = attempts(task)
            if tried and not tried[-1].outcome and tried[-1].process.pid != other_than and read_progress(task):
                return tried[-1].process.pid
        time.sleep(0.02)
    raise AssertionError(f"nobody came to {name}")


def processes(mark: object) -> list[int]:
    """Numbers of the processes that a command with this mark has left."""
    found = []
    for path in Path("/proc").glob("[0-9]*"):
        try:
            if f"MARK={mark}".encode() in (path / "environ").read_bytes().split(b"\0"):
                found.append(int(path.name))
        except OSError:
            continue
    return found
