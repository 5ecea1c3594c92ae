"""What `loradar export` writes, beside the model in torch: answers on 500 images, time on one core, size; int8 under attack.

    loradar demo --out runs/demo
    OMP_NUM_THREADS=1 python -m benchmarks.exports --demo runs/demo [--base NAME DATA BASE] [--images 500] [--attacked 100]

Rows: the demo's PGD adapter, a guard of its adapters and a few-shot task on its base; an adapter with random factors on a ViT
with fresh weights, and on each `--base`. Every file is opened by its own runtime, with one thread. int8 was calibrated on the
first 128 images. It has no gradient, so an image of it counts as right only where it withstands what PGD crafts on the float32
model, and Square (no gradient) on the file itself; the float32 model is attacked by PGD and Square on itself. Prints tables;
the JSON goes to `results/exports.json`.
"""

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.timing import RESULTS, machine
from loradar.adapters import init_adapter, load, save
from loradar.attacks import parse_attack
from loradar.data import load_source
from loradar.evaluation.intervals import wilson
from loradar.exporting import open_graph
from loradar.fewshot.classifier import FewShotClassifier
from loradar.guard import build
from loradar.guard.config import GuardBuildConfig
from loradar.jobs.config import ExportConfig
from loradar.jobs.export import resolve, run
from loradar.models import new_base, open_base, save_base

FORMATS = ("onnx", "onnx-int8", "torch-export")
CALIBRATED = 256
"""Images that exporting looks at; those that are counted come after them."""
Call = Callable[[Tensor], Tensor]


class Runs(nn.Module):
    """A file's runtime as a module, for an attack that needs no gradient."""

    def __init__(self, call: Call) -> None:
        super().__init__()
        self.call = call

    def forward(self, x: Tensor) -> Tensor:
        return self.call(x.detach())


def places(args: argparse.Namespace, work: Path) -> Iterator[tuple[str, str, str, str]]:
    """Name, folder, data and base of what is exported."""
    base = str(args.demo / "base")
    adapters = args.demo / "harden" / "adapters"
    yield "adapter, small ResNet (demo)", str(adapters / "pgd"), "digits", base
    names = ("pgd", "roa", "fia")
    config = GuardBuildConfig(
        base=base,
        adapter=[adapters / name for name in names],
        attacks=[load(adapters / name).card.trained_against for name in names],
        data="digits",
        fusion="mean",
        max_fpr=0.05,
        out=work / "guard",
        cache=work / "cache",
    )
    yield "guard of three adapters (demo)", str(build.run(build.resolve(config)).folder), "digits", ""
    x, y = load_source("digits", size=(32, 32)).train.fetch(torch.arange(100))
    task = FewShotClassifier(base).fit(x, [str(one) for one in y.tolist()])
    yield "few-shot task, 10 classes", str(task.save(work / "task")), "digits", base
    vit = new_base("timm:vit_tiny_patch16_224", num_classes=10, input_size=(3, 64, 64), img_size=64)
    yield from _with_adapter("ViT-Ti/16 at 64 px, fresh", "digits", str(save_base(work / "vit", vit)), work)
    for name, data, spec in args.base:
        yield from _with_adapter(name, data, spec, work)


def _with_adapter(name: str, data: str, spec: str, work: Path) -> Iterator[tuple[str, str, str, str]]:
    base = open_base(spec, "cpu")
    adapter = init_adapter(base.model, rank=4)
    draws = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for delta in adapter.deltas.values():
            delta.b.normal_(0, 0.01, generator=draws)
    yield f"adapter, {name}", str(save(adapter, work / f"adapter-{name.split()[0]}", base.model)), data, spec


def timed(calls: dict[str, Call], x: Tensor, repeats: int) -> dict[str, list[float]]:
    """Milliseconds an image, of each call in turns, after one that warms up: lower quartile, median, upper quartile."""
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    for turn in range(repeats + 1):
        for name, call in calls.items():
            began = time.perf_counter()
            call(x)
            if turn:
                seconds[name].append(1000 * (time.perf_counter() - began) / len(x))
    return {name: [round(value, 3) for value in statistics.quantiles(one, n=4)] for name, one in seconds.items()}


def answers(call: Call, x: Tensor) -> Tensor:
    return torch.cat([call(batch) for batch in x.split(50)])  # type: ignore[no-untyped-call]


def attacked(model: nn.Module, files: dict[str, Call], x: Tensor, y: Tensor, spec: str) -> dict[str, dict[str, Any]]:
    """Right answers, clean and under the worst of PGD on the float32 model and Square on each itself."""
    crafted = parse_attack(spec)(model, x, y)
    eps = spec.partition("eps=")[2].split(",")[0] or "8/255"
    found = {}
    for name, call in files.items():
        own = parse_attack(f"autoattack:attacks=square,eps={eps}")(Runs(call), x, y)
        right = [answers(call, batch).argmax(1) == y for batch in (x, crafted, own)]
        counts = {"clean": right[0], "PGD on float32": right[1], "Square on itself": right[2]}
        counts["worst"] = right[0] & right[1] & right[2]
        found[name] = {
            what: {"right": int(one.sum()), "total": len(y), "interval": wilson(int(one.sum()), len(y))}
            for what, one in counts.items()
        }
    return found


def measured(name: str, place: str, data: str, base: str, args: argparse.Namespace, work: Path) -> dict[str, Any]:
    """The rows of one model, a format each."""
    rows: list[dict[str, Any]] = []
    files: dict[str, Call] = {}
    for to in FORMATS:
        path = work / f"{len(list(work.iterdir()))}{'.pt2' if to == 'torch-export' else '.onnx'}"
        job = resolve(ExportConfig(place=place, to=to, data=data, base=base or None, out=path))
        run(job)
        files[to] = open_graph(path)
        rows.append({"model": name, "format": to, "mb": round(path.stat().st_size / 1e6, 2)})
    source = load_source(data, size=(job.x.shape[2], job.x.shape[3]))
    split = source.train if source.test is None else source.test
    chosen = torch.arange(CALIBRATED, min(CALIBRATED + args.images, len(split.labels)))
    x, y = split.fetch(chosen)
    with torch.no_grad():
        expected = answers(job.model, x)
        for row in rows:
            logits = answers(files[row["format"]], x)
            row["equal"] = int((logits.argmax(1) == expected.argmax(1)).sum())
            row["total"], row["largest"] = len(x), float((logits - expected).abs().max())
        for batch in (1, 64):
            taken = timed({"torch": job.model, **files}, x[:batch], args.repeats)
            for row in rows:
                row[f"ms_{batch}"], row[f"torch_ms_{batch}"] = taken[row["format"]], taken["torch"]
    card = load(place).card if base else None
    robust = None
    if card is not None and card.trained_against.startswith("pgd"):
        one = slice(0, args.attacked)
        calls: dict[str, Call] = {"float32": job.model, "onnx-int8": files["onnx-int8"]}
        robust = attacked(job.model, calls, x[one], y[one], args.attack)
    return {"rows": rows, "attacked": robust}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--demo", type=Path, required=True, help="what `loradar demo` wrote")
    parser.add_argument("--base", nargs=3, action="append", default=[], metavar=("NAME", "DATA", "BASE"))
    parser.add_argument("--images", type=int, default=500)
    parser.add_argument("--attacked", type=int, default=100)
    parser.add_argument("--attack", default="pgd:eps=24/255,steps=50")
    parser.add_argument("--repeats", type=int, default=9)
    args = parser.parse_args()
    torch.set_num_threads(1)
    models = []
    with tempfile.TemporaryDirectory() as folder:
        for each in places(args, Path(folder)):
            models.append(found := measured(*each, args, Path(folder)))
            for row in found["rows"]:
                times = [f"{row[f'ms_{n}'][1]:.2f} ({row[f'torch_ms_{n}'][1]:.2f})" for n in (1, 64)]
                counts = f"{row['equal']} of {row['total']} | {row['largest']:.2g}"
                print(
                    f"| {row['model']} | {row['format']} | {counts} | {' | '.join(times)} | {row['mb']} |", flush=True
                )
            if found["attacked"]:
                print(json.dumps(found["attacked"]))
    settings = {"images": args.images, "attacked": args.attacked, "attack": args.attack, "repeats": args.repeats}
    whole = {"settings": settings, "machine": machine(), "models": models}
    (RESULTS / "exports.json").write_text(json.dumps(whole, indent=1) + "\n")


if __name__ == "__main__":
    main()
