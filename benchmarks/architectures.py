"""One small member of each timm module and of each torchvision family, from a new adapter to its features.

Each is built with random weights and 10 classes at the smallest images that it takes, then: adapter, plug, a training step,
merged weights, optimised for inference, saved, loaded, features before the head. An architecture is `ok` when all of it
is right, `refused` when loradar says in one line why not, `failed` for anything else: a traceback, another answer, a hang.

    python -m benchmarks.architectures [--only NAME ...] [--resume] [--seconds 120] [--json FILE]
"""

import argparse
import json
import multiprocessing
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, Literal

import timm  # noqa: F401  # here, so that a forked child has it already
import torch
import torch.nn.functional as F
import torchvision  # noqa: F401
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn

from benchmarks.timing import RESULTS, machine
from loradar.adapters import (
    Adapter,
    feature_extractor,
    find_heads,
    init_adapter,
    load,
    merge_weights,
    plug,
    save,
    target_share,
)
from loradar.core.errors import BadConfigError, LoradarError
from loradar.core.modules import unwrap
from loradar.models import foldable_conv_bn, new_base, optimize_for_inference

CLASSES = 10
_TIMM = """
beit_base_patch16_224 halonet_h1 test_byobnet cait_xxs24_224 coat_tiny convit_tiny convmixer_768_32 test_convnext cpubone_nano
crossvit_tiny_240 csatv2 cs3darknet_focus_s cspnext_tiny davit_tiny deepseek_vit_412m deit_tiny_patch16_224 densenet121
dla46x_c dpn48b edgenext_xx_small efficientformer_l1 efficientformerv2_s0 test_efficientnet efficientvim_m1 efficientvit_b0
efficientvit_m0 vit_tiny_patch16_dinov3_qkvb fasternet_t0 fastvit_t8 focalnet_tiny_srf gcvit_xxtiny gemma4_vit_167m
ghostnet_050 hardcorenas_b hgnetv2_b0 hiera_tiny_224 sam2_hiera_tiny hrnet_w18_small iformer_t inception_next_atto
inception_resnet_v2 inception_v3 inception_v4 lcnetv2_small levit_128s lowformer_b0 test_mambaout test_coatnet
poolformerv2_s12 gmlp_ti16_224 lcnet_035 mobilenetv5_base mobilevit_xxs mvitv2_tiny naflexvit_base_patch16_gap nasnetalarge
nest_tiny nextvit_small test_nfnet pit_ti_224 pnasnet5large pvt_v2_b0 qwen3_vit_88m rdnet_tiny regnetx_002 repghostnet_050
repvit_m1 res2next50 resnest14d test_resnet resnetv2_18 rexnet_100 selecsls42 legacy_seresnet18 sequencer2d_s shvit_s1
skresnet18 starnet_s050 swiftformer_xs swin_tiny_patch4_window7_224 swinv2_tiny_window16_256 swinv2_cr_tiny_224
tiny_vit_5m_224 tnt_s_legacy_patch16_224 tresnet_m twins_svt_small vgg11 visformer_tiny test_vit vit_tiny_r_s16_p8_224
test_vit_relpos samvit_base_patch16_224 vitamin_small_224 volo_d1_224 ese_vovnet19b_slim_dw legacy_xception xception41p
xcit_nano_12_p8_224 deit_tiny_distilled_patch16_224 pit_ti_distilled_224 resnet18 vit_tiny_patch16_224
"""
"""The smallest of each module of timm 1.0, and four more: two distilled ones, and what most people have."""
_TORCHVISION = """
alexnet convnext_tiny densenet121 efficientnet_b0 googlenet inception_v3 maxvit_t mnasnet0_5 mobilenet_v2 mobilenet_v3_small
regnet_y_400mf resnet18 shufflenet_v2_x0_5 squeezenet1_1 swin_t swin_v2_t vgg11 vit_b_16
"""
MEMBERS = tuple([f"timm:{name}" for name in _TIMM.split()] + [f"torchvision:{name}" for name in _TORCHVISION.split()])

SIZES = {
    "timm:halonet_h1": 256,
    "timm:csatv2": 64,
    "timm:deepseek_vit_412m": 112,
    "timm:efficientformer_l1": 224,
    "timm:inception_resnet_v2": 96,
    "timm:inception_v3": 96,
    "timm:inception_v4": 96,
    "torchvision:alexnet": 64,
    "torchvision:inception_v3": 299,
    "torchvision:maxvit_t": 224,
}
"""Of those that do not take 32."""
OPTIONS: dict[str, dict[str, Any]] = {
    "timm:beit_base_patch16_224": {"depth": 2},
    "timm:cait_xxs24_224": {"depth": 2},
    "timm:deepseek_vit_412m": {"depth": 1},
    "timm:gemma4_vit_167m": {"depth": 1},
    "timm:naflexvit_base_patch16_gap": {"depth": 2},
    "timm:qwen3_vit_88m": {"depth": 2},
    "timm:samvit_base_patch16_224": {"depth": 2},
    "torchvision:googlenet": {"init_weights": False},
    "torchvision:inception_v3": {"init_weights": False},
}
Verdict = Literal["ok", "refused", "failed"]


@dataclass(frozen=True, kw_only=True)
class Row:
    """What was found of one architecture.

    `share` is that of the parameters below the head which the targets cover. `features` says whether the head makes the
    logits of the features. `note` is the line of the refusal, or the step and the error.
    """

    architecture: str
    verdict: Verdict = "failed"
    layers: int = 0
    share: float = 0.0
    head: str = ""
    features: str = ""
    note: str = ""
    seconds: float = 0.0


class Wrong(Exception):  # noqa: N818  # a verdict
    """An answer that should have been another."""


def build(name: str) -> tuple[nn.Module, Tensor]:
    """The architecture with random weights that all count, from images in [0, 1] to logits; and two images for it."""
    size, options = SIZES.get(name, 32), OPTIONS.get(name, {})
    key = "image_size" if name.startswith("torchvision:") else "img_size"
    settings = {"num_classes": CLASSES, "input_size": (3, size, size), **options}
    try:
        model = new_base(name, **settings, **dict[str, Any]({key: size})).model
        with torch.no_grad():
            model(torch.rand(2, 3, size, size))
    except (BadConfigError, RuntimeError):  # most convolutional ones take no size
        model = new_base(name, **settings).model
    draws = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for label, parameter in model.named_parameters():
            # gains that start at 0 or near it (layer scale, the last normalisation of a block) would hide their block
            if parameter.ndim < 2 and not label.endswith("bias") and float(parameter.abs().max()) < 1e-2:
                parameter.uniform_(0.5, 1.0, generator=draws)
        for module in model.modules():
            if (
                isinstance(module, nn.BatchNorm2d)
                and module.running_mean is not None
                and module.running_var is not None
            ):
                module.running_mean.normal_(std=0.1, generator=draws)
                module.running_var.uniform_(0.5, 1.5, generator=draws)
    return model.eval(), torch.rand(2, 3, size, size, generator=draws)


def examine(name: str) -> Row:
    """All steps in this process. Raises nothing."""
    began, row, at = time.perf_counter(), Row(architecture=name), "build"
    try:
        for at, changes in _steps(name):  # noqa: B007  # the last one that was reached
            row = replace(row, **changes)
        row = replace(row, verdict="ok")
    except LoradarError as error:
        row = replace(row, verdict="refused", note=str(error))
    except Exception as error:
        line = (str(error).strip() or type(error).__name__).splitlines()[0]
        row = replace(row, note=f"{at}: {type(error).__name__}: {line}"[:300])
    return replace(row, seconds=round(time.perf_counter() - began, 2))


def _steps(name: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yields the name of the step to come, and what is known by then."""
    model, x = build(name)
    with torch.no_grad():
        plain = model(x)
    if plain.shape != (2, CLASSES):
        raise Wrong(f"the base gives {tuple(plain.shape)}")
    yield "adapter", {}
    heads = find_heads(model)
    adapter = init_adapter(model, rank=2)
    share = target_share(model, adapter.deltas)
    yield "plug", {"layers": len(adapter.deltas), "share": round(share, 4), "head": ", ".join(heads)}
    plugged = plug(model, adapter)
    with torch.no_grad():
        _same(plugged(x), plain, "a new adapter changes the logits")
    yield "train", {}
    _train(plugged, adapter, x)
    with torch.no_grad():
        trained = plugged(x)
        if torch.equal(trained, plain):
            raise Wrong("a trained adapter leaves the logits as they were")
        yield "merge", {}
        merged = merge_weights(model, adapter)
        _same(merged(x), trained, "merged weights give other logits than the plugged model")
        yield "optimise", {}
        _same(
            optimize_for_inference(merged, "fp32", merge=foldable_conv_bn(model))(x),
            trained,
            "the optimised copy gives other logits",
        )
        yield "save", {}
        _again(model, adapter, x, trained)
        yield "features", {}
        yield "end", {"features": _features(merged, heads, x, trained)}


def _train(plugged: nn.Module, adapter: Adapter, x: Tensor) -> None:
    """Three steps of Adam, large enough to be seen in the logits."""
    optimiser = torch.optim.Adam(adapter.parameters(), lr=1e-2)
    plugged.train()
    for _ in range(3):
        optimiser.zero_grad()
        F.cross_entropy(plugged(x), torch.tensor([1, 2])).backward()  # type: ignore[no-untyped-call]
        optimiser.step()
    plugged.eval()
    idle = [layer for layer, delta in adapter.deltas.items() if delta.b.grad is None]
    if idle:
        raise Wrong(f"no gradient reaches {len(idle)} of {len(adapter.deltas)} deltas, {idle[0]} the first")


def _same(found: Tensor, expected: Tensor, otherwise: str) -> None:
    scale = float(expected.abs().max())
    error = float((found - expected).abs().max())
    if not error <= 1e-3 * max(scale, 1e-3):
        raise Wrong(f"{otherwise}: {error:.2g} off, of {scale:.2g}")


def _again(model: nn.Module, adapter: Adapter, x: Tensor, trained: Tensor) -> None:
    with tempfile.TemporaryDirectory() as folder:
        save(adapter, Path(folder) / "adapter", model)
        loaded = load(Path(folder) / "adapter")
    if not torch.equal(plug(model, loaded)(x), trained):
        raise Wrong("saved and loaded, it gives other bits")


def _features(model: nn.Module, heads: tuple[str, ...], x: Tensor, logits: Tensor) -> str:
    """How many there are, and what the heads make of them. A Linear that is the only head must make the logits."""
    found = feature_extractor(model)(x)
    if found.ndim != 2 or len(found) != len(x):
        raise Wrong(f"features of shape {tuple(found.shape)}; expected (batch, features)")
    layers = [unwrap(model).get_submodule(name) for name in heads]
    widths = [layer.in_features if isinstance(layer, nn.Linear) else int(layer.weight.shape[1]) for layer in layers]  # type: ignore[index]
    parts = found.split(widths, 1) if sum(widths) == found.shape[1] else [found] * len(layers)
    answers = [
        layer(part) if isinstance(layer, nn.Linear) else layer(part[:, :, None, None]).flatten(1)
        for layer, part in zip(layers, parts, strict=True)
    ]
    answer = torch.stack(answers).mean(0)
    is_linear = torch.allclose(answer, logits, atol=1e-3 * float(logits.abs().max()))
    if not is_linear and len(layers) == 1 and isinstance(layers[0], nn.Linear):
        raise Wrong("the head does not make the logits of the features")
    return f"{found.shape[1]}" + (", head(features) = logits" if is_linear else "")


def apart(name: str, seconds: float) -> Row:
    """`examine` in a process of its own, which may die or take too long."""
    # where there is no fork, each child takes some seconds more to load torch
    method = "fork" if "fork" in multiprocessing.get_all_start_methods() else "spawn"
    context: Any = multiprocessing.get_context(method)
    ours, theirs = context.Pipe(duplex=False)
    child = context.Process(target=_send, args=(theirs, name), daemon=True)
    began = time.perf_counter()
    child.start()
    theirs.close()
    try:
        row: Row = (
            ours.recv() if ours.poll(seconds) else Row(architecture=name, note=f"hangs: stopped after {seconds:g} s")
        )
    except EOFError:
        child.join(5)
        row = Row(architecture=name, note=f"the process died with exit code {child.exitcode}")
    child.kill()
    child.join()
    return row if row.seconds else replace(row, seconds=round(time.perf_counter() - began, 2))


def _send(pipe: Connection, name: str) -> None:
    torch.set_num_threads(1)
    pipe.send(examine(name))


def show(rows: list[Row], console: Console) -> None:
    table = Table("architecture", "layers", "share", "head", "features", "verdict")
    for row in rows:
        share = f"{row.share:.1%}" if row.share else ""
        verdict = f"{row.verdict}: {row.note}" if row.note else row.verdict
        table.add_row(row.architecture, str(row.layers or ""), share, row.head, row.features, verdict)
    console.print(table)
    console.print(summary(rows))


def summary(rows: list[Row]) -> str:
    counts = Counter(row.verdict for row in rows)
    return ", ".join(f"{counts[verdict]} {verdict}" for verdict in ("ok", "refused", "failed")) + f" of {len(rows)}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--only", action="append", choices=MEMBERS, metavar="NAME", help="this architecture; repeatable"
    )
    parser.add_argument("--resume", action="store_true", help="keep the rows that the file has, and make the others")
    parser.add_argument("--seconds", type=float, default=120, help="what one architecture may take")
    parser.add_argument("--json", type=Path, default=RESULTS / "architectures.json", metavar="FILE")
    args = parser.parse_args()
    names = args.only or MEMBERS
    kept = (
        [Row(**row) for row in json.loads(args.json.read_text())["rows"]] if args.resume and args.json.exists() else []
    )
    rows = {row.architecture: row for row in kept}
    for position, name in enumerate(names, start=1):
        if name not in rows:
            rows[name] = apart(name, args.seconds)
        print(f"{position}/{len(names)} {name}: {rows[name].verdict} {rows[name].note}".rstrip(), flush=True)
        content = {
            "machine": machine(),
            "summary": summary(list(rows.values())),
            "rows": list(map(asdict, rows.values())),
        }
        args.json.parent.mkdir(parents=True, exist_ok=True)
        args.json.write_text(json.dumps(content, indent=1) + "\n")
    show([rows[name] for name in names], Console(width=200))


if __name__ == "__main__":
    main()
