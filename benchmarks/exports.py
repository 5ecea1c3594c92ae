"""What `loradar export` writes, beside the model in torch: answers on 500 images, time on one core, size; int8 under attack.

    loradar demo --out runs/demo
    OMP_NUM_THREADS=1 python -m benchmarks.exports --demo runs/demo [--resnet BASE] [--lite0 BASE] [--images FOLDER] [--aoti]

Rows: the demo's PGD adapter, a guard of its adapters and a few-shot task on its base; an adapter with random factors on a ViT
with fresh weights, on a ResNet-18 (`--resnet`) and on EfficientNet-Lite0 (`--lite0`), these two on `--images`; without its base
a row is skipped, which is said. Every file is opened by its own runtime, with one thread, and compared on images that int8 was
not calibrated on. int8 has no gradient, so an image of it counts as right only where it withstands what PGD crafts on the
float32 model, and Square (no gradient) on the file itself; the float32 model is attacked by PGD and Square on itself. The
attacked images were held back from the adapter and its base. `--aoti` compiles packages too, half a minute for each
small model. Prints tables; the JSON goes to `results/exports.json`.
"""

import argparse
import json
import statistics
import tempfile
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.beside import in_turns
from benchmarks.timing import RESULTS, machine
from loradar.adapters import init_adapter, load, save
from loradar.attacks import parse_attack
from loradar.data import ImageSet, fetch_all, load_source
from loradar.evaluation.intervals import wilson
from loradar.exporting import SUFFIXES, open_graph
from loradar.fewshot.classifier import FewShotClassifier
from loradar.guard import build
from loradar.guard.config import GuardBuildConfig
from loradar.jobs.config import ExportConfig
from loradar.jobs.export import ExportJob, resolve, run
from loradar.models import new_base, open_base, save_base

FORMATS = ("onnx", "onnx-int8", "torch-export")
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
    for name, spec in (("ResNet-18", args.resnet), ("EfficientNet-Lite0", args.lite0)):
        if spec and args.images:
            yield from _with_adapter(name, args.images, spec, work)
        else:
            print(
                f"adapter, {name}: skipped, its base (--{'lite0' if '-L' in name else 'resnet'}) or --images is not given"
            )


def _with_adapter(name: str, data: str, spec: str, work: Path) -> Iterator[tuple[str, str, str, str]]:
    base = open_base(spec, "cpu")
    adapter = init_adapter(base.model, rank=4)
    draws = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for delta in adapter.deltas.values():
            delta.b.normal_(0, 0.01, generator=draws)
    yield f"adapter, {name}", str(save(adapter, work / f"adapter-{name.split()[0]}", base.model)), data, spec


def timed(calls: dict[str, Call], x: Tensor, repeats: int) -> dict[str, list[float]]:
    """Milliseconds an image of each call, by turns: lower quartile, median, upper quartile."""
    seconds = in_turns({name: partial(call, x) for name, call in calls.items()}, repeats)
    return {
        name: [round(1000 * value / len(x), 3) for value in statistics.quantiles(one, n=4)]
        for name, one in seconds.items()
    }


def unseen(images: ImageSet, shown: Tensor, count: int) -> Tensor:
    """The first `count` images that are none of `shown`."""
    seen = {one.numpy().tobytes() for one in shown}
    x, _ = fetch_all(images, count + len(shown))
    return x[[index for index, one in enumerate(x) if one.numpy().tobytes() not in seen][:count]]


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
        found[name] = {what: counted(int(one.sum()), len(y)) for what, one in counts.items()}
    return found


def counted(right: int, total: int) -> dict[str, Any]:
    return {"right": right, "total": total, "interval": [round(bound, 4) for bound in wilson(right, total)]}


def measured(name: str, place: str, data: str, base: str, args: argparse.Namespace, work: Path) -> dict[str, Any]:
    """The rows of one model, a format each."""
    rows: list[dict[str, Any]] = []
    files: dict[str, Call] = {}
    jobs: dict[str, ExportJob] = {}
    for to in (*FORMATS, *(("aoti",) if args.aoti else ())):
        path = work / f"{len(list(work.iterdir()))}{SUFFIXES[to]}"
        jobs[to] = resolve(ExportConfig(place=place, to=to, data=data, base=base or None, out=path))
        found = run(jobs[to]).comparison
        files[to] = torch._inductor.aoti_load_package(str(path)) if to == "aoti" else open_graph(path)
        row = {"model": name, "format": to, "mb": round(path.stat().st_size / 1e6, 2)}
        if found.right:
            row["accuracy"] = {
                kind: counted(n, found.total) for kind, n in zip(("float32", "int8"), found.right, strict=True)
            }
        rows.append(row)
    job = jobs["onnx-int8"]
    assert job.shown is not None
    source = load_source(data, size=(job.x.shape[2], job.x.shape[3]))
    x = unseen(source.train if source.test is None else source.test, job.shown, args.compared)
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
        assert job.y is not None, job.uncounted
        one = slice(0, args.attacked)
        calls: dict[str, Call] = {"float32": job.model, "onnx-int8": files["onnx-int8"]}
        robust = attacked(job.model, calls, job.x[one], job.y[one], args.attack)
    return {"rows": rows, "attacked": robust}


def in_words(found: dict[str, Any]) -> str:
    low, high = found["interval"]
    return f"{found['right']} of {found['total']} ({100 * low:.0f}-{100 * high:.0f} %)"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--demo", type=Path, required=True, help="what `loradar demo` wrote")
    parser.add_argument("--resnet", help="a ResNet-18")
    parser.add_argument("--lite0", help="an EfficientNet-Lite0")
    parser.add_argument("--images", help="data of these two, as `--data` takes them")
    parser.add_argument("--aoti", action="store_true")
    parser.add_argument("--compared", type=int, default=500)
    parser.add_argument("--attacked", type=int, default=200)
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
                counts = f"{row['equal']} of {row['total']} | {row['largest']:.1g}"
                print(
                    f"| {row['model']} | `{row['format']}` | {counts} | {' | '.join(times)} | {row['mb']} |", flush=True
                )
                for kind, right in row.get("accuracy", {}).items():
                    print(f"  right, {kind}: {in_words(right)}")
            for kind, rights in (found["attacked"] or {}).items():
                print(f"| {kind} | {' | '.join(map(in_words, rights.values()))} |")
    settings = {"compared": args.compared, "attacked": args.attacked, "attack": args.attack, "repeats": args.repeats}
    whole = {"settings": settings, "machine": machine(), "models": models}
    (RESULTS / "exports.json").write_text(json.dumps(whole, indent=1) + "\n")


if __name__ == "__main__":
    main()
