"""The front door: objects in, objects out. Everything here is `loradar.NAME`.

A model is any `nn.Module` from images in [0, 1] to logits; one that takes normalised images is given with `mean=` and
`std=`. Data are a pair of tensors (images, labels), a `Dataset`, a `DataLoader`, or the one-line name of a source. Attacks
are objects (`PGD(eps=8 / 255)`) or their one-line names (`"pgd:eps=8/255"`).
"""

import tempfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from os import PathLike, fspath
from pathlib import Path
from types import FunctionType
from typing import Any, get_args

import torch
from torch import nn

from loradar.adapters import Adapter, fingerprint
from loradar.adapters import load as load_adapter
from loradar.adapters import plug as plug_adapter
from loradar.attacks import FunctionAttack, as_attack, named_attack
from loradar.core.config import Effort, validate
from loradar.core.errors import BadConfigError
from loradar.core.types import Attack, Images, Labels, NullProgress, Progress
from loradar.data import Source, as_source, fetch_all
from loradar.evaluation import AccuracyResult, accuracy_row, run_attack, worst_case
from loradar.evaluation.workbench import NamedProgress
from loradar.exporting import GraphFormat
from loradar.exporting import export as export_module
from loradar.guard.guard import Guard
from loradar.jobs import check as check_job
from loradar.jobs import export as export_job
from loradar.jobs import harden as harden_job
from loradar.jobs.check import CheckResult
from loradar.jobs.config import CheckConfig, ExportConfig, HardenConfig
from loradar.jobs.harden import HardenResult
from loradar.models import Base, open_base

Model = nn.Module | Base | str
Attacks = Mapping[str, Attack | str] | Iterable[Attack | str]
Numbers = Sequence[float] | None


def check(
    model: Model,
    data: Any,
    *,
    attacks: Attacks | None = None,
    mean: Numbers = None,
    std: Numbers = None,
    progress: Progress | None = None,
    **settings: Any,
) -> CheckResult:
    """Attacks `model` for about a minute and prints, in words, what breaks it and how sure that is.

    `settings` are those of `loradar check` (`max_test_images=200`, `seconds=30`). Returns the verdicts and the report.
    Raises LoradarError, one line, for a model or data that do not fit.

    >>> import loradar
    >>> base = loradar.load_base("timm:test_resnet:pretrained=false,num_classes=10")
    >>> result = loradar.check(base.model, "digits", attacks=["fgsm"], max_test_images=20)  # doctest: +ELLIPSIS
    base...
    """
    base, source = _opened(model, data, mean, std)
    config = validate(CheckConfig, {"base": _name(model, base), "data": _data_name(data, source)} | settings)
    named = None if attacks is None else as_attacks(attacks)
    result = check_job.run(check_job.resolve(config, base=base, source=source, attacks=named), progress=progress)
    print(result)  # noqa: T201  # the verdict is what this function is for
    return result


def harden(
    model: Model,
    data: Any,
    *,
    attacks: Attacks = ("roa", "fia", "pgd"),
    mean: Numbers = None,
    std: Numbers = None,
    out: Path | str | None = None,
    progress: Progress | None = None,
    **settings: Any,
) -> HardenResult:
    """Trains one adapter per attack on a frozen `model`, measures each, and returns them with the report.

    `model` is left as it is, to the bit. `settings` are those of `loradar harden` (`epochs=5`, `rank=8`). With `out`,
    the run is kept there and continues if it was killed; without, everything stays in memory: see `HardenResult.save`.
    Raises LoradarError, one line, for a model, data or settings that do not fit.
    """
    base, source = _opened(model, data, mean, std)
    named = as_attacks(attacks)
    with tempfile.TemporaryDirectory() as folder:
        given = {
            "base": _name(model, base),
            "data": _data_name(data, source),
            "attacks": [f"{name}={attack.spec}" for name, attack in named.items()],
            "out": Path(folder) if out is None else Path(out),
        }
        config = validate(HardenConfig, given | settings)
        return harden_job.run(harden_job.resolve(config, base=base, source=source, attacks=named), progress=progress)


def evaluate(
    model: Model,
    x: Images,
    y: Labels,
    *,
    attacks: Attacks = ("pgd",),
    mean: Numbers = None,
    std: Numbers = None,
    effort: Effort = "standard",
    batch_size: int = 128,
    seed: int = 0,
    progress: Progress | None = None,
) -> list[AccuracyResult]:
    """Measures `model` on clean images and under each attack, crafted on the model itself (adaptive).

    Args: `x` images (n, channels, height, width) in [0, 1], `y` labels (n,). `effort` is "quick", "standard" or "full": a
    figure is the worst, image by image, over the attack and others that move in the same set. Returns one result for
    clean images and one for each attack, each with its counts and 95 % interval. Raises LoradarError.
    """
    base, source = _opened(model, (x, y), mean, std)
    images, labels = fetch_all(source.train)
    rows = [accuracy_row(base.model, images, labels, name="model", seed=seed, batch_size=batch_size)]
    target = _Given(model=base.model, batch_size=batch_size, progress=progress or NullProgress())
    for attack in as_attacks(attacks).values():
        rows.append(worst_case(target, attack, images, labels, effort=effort, seed=seed).row)
    return rows


@dataclass(frozen=True, kw_only=True, eq=False)
class _Given:
    """A model as it was given, attacked without a bench: it is not copied, and nothing is kept on disk."""

    model: nn.Module
    batch_size: int
    progress: Progress
    name: str = "model"
    trained_against: str = ""

    def model_for(self, attack: Attack | None) -> nn.Module:  # noqa: ARG002
        return self.model

    def attacked(self, attack: Attack, x: Images, y: Labels, *, name: str) -> Images:
        progress = NamedProgress(progress=self.progress, name=name)
        return run_attack(attack, self.model, x, y, batch_size=self.batch_size, progress=progress)


def plug(
    model: Model,
    adapter: Adapter | str | Path,
    *,
    mean: Numbers = None,
    std: Numbers = None,
    key: str | Path | None = None,
) -> nn.Module:
    """Returns a model with `adapter` applied, beside `model`, which stays as it is: unplugging is using `model`.

    The result shares the parameters of `model`. `adapter` is an adapter, its folder, or `hub:OWNER/NAME`; with
    `key`, the file of a public key, the folder must be signed by its owner. Raises WrongBaseError for an adapter of another
    base.
    """
    base = open_base(model, "auto") if isinstance(model, str) else model
    module = base.model if isinstance(base, Base) else base
    if mean is not None or std is not None:
        module = Base.of(module, mean=mean, std=std).model
    found = adapter if isinstance(adapter, Adapter) else load(adapter, key=key)
    device = next(module.parameters()).device
    own = found.to(device)
    for tensor in own.parameters():  # a copy for use: `adapters.plug` is the one for training
        tensor.requires_grad_(False)
    plugged = plug_adapter(module, own).eval()
    size = found.card.data.get("input_size")
    if size:  # so that `export` need not be told
        object.__setattr__(plugged, "input_size", tuple(size))  # a plain attribute, no part of the model's state
    return plugged


def export(
    model: nn.Module | Base | str | Path,
    path: Path | str,
    *,
    to: str | None = None,
    input_size: Sequence[int] | None = None,
    **settings: Any,
) -> Path:
    """Writes a model as a file for readers without loradar, for batches of any size, and returns the path.

    Args:
        model: A module from images in [0, 1] to logits, a base or a guard, in memory; or the folder of an adapter, a task,
            a guard or a base, as `loradar export` takes it.
        path: `.onnx`, or `.pt2` (torch.export). For weights, a folder or a file: see docs/export.md.
        to: The format, "onnx", "torch-export" or "aoti", where the suffix leaves it open; of a folder also "state-dict",
            "timm" or "peft".
        input_size: (channels, height, width) of an image. A plugged model knows that of its adapter's training images.
        settings: Of a folder, those of `loradar export` (`base="timm:resnet18"`, `data="path/to/images"`).

    The file is read again by its runtime, and its answers are compared with the model's; where they differ nothing is
    written. Guards are written in float32. Raises BadConfigError.
    """
    if isinstance(model, str | Path):
        kind = to or ("onnx" if Path(path).suffix == ".onnx" else "torch-export")
        given: dict[str, Any] = {"place": str(model), "to": kind, "out": Path(path), **settings}
        if input_size is not None:
            given["size"] = tuple(input_size[1:])
        return export_job.run(export_job.resolve(validate(ExportConfig, given))).path
    if settings:
        raise BadConfigError(
            f"{', '.join(settings)}: settings of a folder's export; expected a folder, not a model in memory"
        )
    if to not in (None, *get_args(GraphFormat)):
        raise BadConfigError(f"a model in memory cannot be written as {to!r}; expected onnx, torch-export or aoti")
    classes, module = None, model
    if isinstance(model, Base):
        classes, module, input_size = model.classes, model.model, input_size or model.input_size
    elif isinstance(model, Guard):
        # what a runtime other than torch makes of bfloat16 is another answer, or none
        module = model if model.dtype is None else Guard.of(model.state, precision="fp32")
        classes = model.classes_
    metadata = {"classes": list(classes)} if classes else {}
    return export_module(module, path, to=to, input_size=input_size, metadata=metadata)  # type: ignore[arg-type]


def load(place: str | Path, *, key: str | Path | None = None) -> Adapter:
    """Reads an adapter from a folder, a URI, or `hub:OWNER/NAME[@REVISION]` on the Hugging Face hub.

    With `key`, the file of a public key, it must be signed by its owner. Raises BadFileError.
    """
    return load_adapter(place, key=key)


def as_attacks(attacks: Attacks) -> dict[str, Attack]:
    """Attacks by name: given ones, else the kind (`pgd`), or the whole setting where a kind is there twice."""
    if isinstance(attacks, Mapping):
        return {
            str(name): FunctionAttack(attack, name=str(name)) if isinstance(attack, FunctionType) else as_attack(attack)
            for name, attack in attacks.items()
        }
    if isinstance(attacks, str) or not isinstance(attacks, Iterable):
        attacks = [attacks]
    pairs = [_named(attack) for attack in attacks]
    kinds = [name.partition("-")[0] for name, _ in pairs]
    found: dict[str, Attack] = {}
    for (name, attack), kind in zip(pairs, kinds, strict=True):
        key = kind if kinds.count(kind) == 1 else name
        if key in found:
            raise BadConfigError(f"two attacks are called {key!r}; give them names: {{'mine': attack, ...}}")
        found[key] = attack
    if not found:
        raise BadConfigError("no attack is given; expected at least one, for example loradar.PGD(eps=8 / 255)")
    return found


def _named(attack: Any) -> tuple[str, Attack]:
    if isinstance(attack, str):
        return named_attack(attack)
    made = as_attack(attack)
    return named_attack(made.spec)[0] if made.traits.cacheable else made.spec, made


def _opened(model: Model, data: Any, mean: Numbers, std: Numbers) -> tuple[Base, Source]:
    """The base, and the data at its size."""
    if isinstance(model, str):
        model = open_base(model, "auto")
    if isinstance(model, Base):
        return model, as_source(data, size=model.input_size[1:], classes=model.classes)
    source = as_source(data)
    x, _ = source.train.fetch(torch.arange(1))
    base = Base.of(model, mean=mean, std=std, input_size=tuple(x.shape[1:]))
    return base, source


def _data_name(data: Any, source: Source) -> str:
    """What a command takes for `data`, where it is no object in memory."""
    return fspath(data) if isinstance(data, str | PathLike) else source.name


def _name(model: Model, base: Base) -> str:
    return model if isinstance(model, str) else f"memory:{fingerprint(base.model)[:12]}"
