"""One adapter hardened on the built-in digits by one process, and by two of torchrun: bits, accuracy, bytes and seconds.

    python -m benchmarks.data_parallel [--train 1200] [--epochs 6] [--processes 2]

A base is pretrained first. `loradar harden` then runs once by itself and twice under torchrun, with the same settings, each in
an empty folder and cache. The weights that each process holds at the end of every epoch, before the first one's are handed
out, are compared by their checksums, and the files of the two parallel runs by theirs. Prints the figures of the reports with
Wilson intervals, the bytes that a step reduces, and wall times; JSON goes to `results/data-parallel.json`.

What `loradar` does is not changed: this file starts it with two functions that also take notes.
"""

import argparse
import hashlib
import json
import os
import subprocess
import sys
import tempfile
import time
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

SMALL_BASE = [
    "--architecture",
    "timm:test_resnet",
    "--data",
    "digits",
    "--validation",
    "100",
    "--max-test-images",
    "200",
]
PRETRAIN = [*SMALL_BASE, "--epochs", "15", "--learning-rate", "0.3", "--batch-size", "64", "--no-flip", "--crop", "2"]
HARDEN = ["--data", "digits", "--validation", "100", "--max-test-images", "300", "--attacks", "pgd", "--no-baselines"]
BATCH = 64
SETTINGS = [*HARDEN, "--effort", "quick", "--batch-size", str(BATCH), "--no-flip", "--crop", "2", "--precision", "fp32"]


def note_down(folder: Path, arguments: list[str]) -> None:
    """Runs `loradar` in this process, and writes what it reduced and the checksums of its weights."""
    import torch

    from loradar.cli.app import main as loradar
    from loradar.training import World

    reduced: list[int] = []
    checksums: list[int] = []
    all_reduce, check_same = torch.distributed.all_reduce, World.check_same

    def counted(tensor: torch.Tensor) -> object:
        reduced.append(tensor.numel() * tensor.element_size())
        return all_reduce(tensor)

    def noted(world: World, what: str, parts: Sequence[torch.Tensor | str]) -> None:
        if what == "the weights":
            code = 0
            for part in parts:
                assert isinstance(part, torch.Tensor)
                code = zlib.crc32(part.detach().contiguous().numpy().tobytes(), code)
            checksums.append(code)
        check_same(world, what, parts)

    torch.distributed.all_reduce, World.check_same = counted, noted  # type: ignore[assignment, method-assign]
    sys.argv = ["loradar", *arguments]
    try:
        loradar()
    finally:
        notes = {"reduced": reduced, "checksums": checksums}
        (folder / f"{os.environ.get('RANK', 0)}.json").write_text(json.dumps(notes))


def hardened(base: Path, folder: Path, processes: int, settings: list[str]) -> dict[str, Any]:
    """Seconds, rows of the report, checksums of its files, and what each process noted."""
    folder.mkdir()
    torchrun = ["torch.distributed.run", "--standalone", "--nproc-per-node", str(processes), "-m"]
    module = [*(torchrun if processes > 1 else []), "benchmarks.data_parallel", "--note", str(folder)]
    own = ["harden", str(base), *settings, "--out", str(folder / "run"), "--cache", str(folder / "cache")]
    began = time.perf_counter()
    subprocess.run([sys.executable, "-m", *module, *own], check=True, stdout=subprocess.DEVNULL)
    seconds = time.perf_counter() - began
    weights = sorted((folder / "run").rglob("adapter_model.safetensors"))
    return {
        "seconds": round(seconds, 1),
        "rows": json.loads((folder / "run" / "report.json").read_text())["rows"],
        "files": {str(p.relative_to(folder)): hashlib.sha256(p.read_bytes()).hexdigest() for p in weights},
        "notes": [json.loads((folder / f"{rank}.json").read_text()) for rank in range(processes)],
    }


def compared(single: dict[str, Any], runs: list[dict[str, Any]], steps: int) -> dict[str, Any]:
    """What the runs say; a reduction of one number is a wait."""
    notes = runs[0]["notes"]
    return {
        "weights equal in all processes at every epoch": all(n["checksums"] == notes[0]["checksums"] for n in notes),
        "epochs compared": len(notes[0]["checksums"]),
        "bits equal in two runs": runs[0]["files"] == runs[1]["files"],
        "files compared": len(runs[0]["files"]),
        "bytes reduced per step": sum(size for size in notes[0]["reduced"] if size > 4) / steps,
        "seconds": {"one process": single["seconds"], "parallel": [run["seconds"] for run in runs]},
        "rows": {
            "one process": [_figure(row) for row in single["rows"]],
            "parallel": [_figure(row) for row in runs[0]["rows"]],
        },
    }


def _figure(row: dict[str, Any]) -> dict[str, Any]:
    return {key: row[key] for key in ("model", "attack", "threat", "correct", "total", "low", "high")}


def show(found: dict[str, Any]) -> None:
    for name, value in found.items():
        if name != "rows":
            print(f"{name}: {value}")
    print(f"{'right answers, % (95 % interval)':<52}{'one process':>22}{'parallel':>22}")
    for one, several in zip(*found["rows"].values(), strict=True):
        name = f"{one['model']}, {one['attack']}, {one['threat']}"
        print(f"{name:<52}" + "".join(f"{_share(row):>22}" for row in (one, several)))


def _share(row: dict[str, Any]) -> str:
    return f"{100 * row['correct'] / row['total']:.1f} ({100 * row['low']:.1f}-{100 * row['high']:.1f})"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--train", type=int, default=1200)
    parser.add_argument("--epochs", type=int, default=6)
    parser.add_argument("--processes", type=int, default=2)
    args = parser.parse_args()
    settings = [*SETTINGS, "--train", str(args.train), "--epochs", str(args.epochs)]
    with tempfile.TemporaryDirectory() as directory:
        base = Path(directory, "base")
        pretrain = [sys.executable, "-m", "loradar", "pretrain", *PRETRAIN, "--out", str(base)]
        subprocess.run(pretrain, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        single = hardened(base, Path(directory, "single"), 1, settings)
        runs = [hardened(base, Path(directory, f"parallel-{i}"), args.processes, settings) for i in range(2)]
    found = compared(single, runs, args.epochs * (args.train // BATCH))
    show(found)
    place = Path(__file__).parent / "results" / "data-parallel.json"
    place.write_text(json.dumps({"settings": vars(args) | {"harden": settings}, "found": found}, indent=1) + "\n")


if __name__ == "__main__":
    if sys.argv[1:2] == ["--note"]:
        note_down(Path(sys.argv[2]), sys.argv[3:])
    else:
        main()
