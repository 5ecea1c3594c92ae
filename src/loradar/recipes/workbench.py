"""What a recipe works on: the base, its images, the device, and one way to craft and to count."""

import dataclasses
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from loradar.adapters import fingerprint
from loradar.config import (
    AuditConfig,
    Config,
    FewShotEvalConfig,
    GuardAuditConfig,
    GuardBuildConfig,
    HardenConfig,
    MetaTuneConfig,
)
from loradar.core.errors import BadConfigError
from loradar.core.files import make_folder, write_atomically
from loradar.core.types import Attack, Images, Labels, Progress, Silent, Task
from loradar.data import ImageSet, Source
from loradar.evaluation import craft, predict
from loradar.models import Base, Pair, Precision, frozen, load_base, mergeable, nimble, quick, resolve_precision
from loradar.training import AdversarialCache


@dataclass(frozen=True, kw_only=True)
class Workbench:
    """A base on its device. Models are trained, attacked, selected and reported in `precision`.

    The plug-again check alone is made in the precision of the weights themselves. `merge` is what `frozen` may merge in
    the base, and in everything that is made of it.
    """

    base: Base
    precision: Precision
    merge: tuple[Pair, ...]
    cache: AdversarialCache
    batch_size: int
    progress: Progress

    @property
    def device(self) -> torch.device:
        return next(self.base.model.parameters()).device

    def trainable(self, twin: nn.Module) -> nn.Module:
        """`twin`, a plugged model of nobody else's, in the precision of the bench."""
        return quick(nimble(twin), self.precision)

    def frozen(self, model: nn.Module, attack: Attack | None = None) -> nn.Module:
        """A copy of `model`, as it is now, for `attack` and for counting; see `loradar.models.frozen`."""
        apart = layers_read(attack)
        return frozen(model, self.precision, merge=[pair for pair in self.merge if not apart & set(pair)])

    def key(self, model: nn.Module) -> str:
        """What names `model` in the cache: its weights, and the precision that attacks see them in."""
        return f"{fingerprint(model)} frozen {resolve_precision(self.precision, self.device)}"

    def attacked(self, attack: Attack, model: nn.Module, x: Images, y: Labels, *, name: str) -> Images:
        """`attack` on `model` at every image, from the cache where it is there; float32 on the CPU."""
        fast = self.frozen(model, attack)
        remembered = self.cache.through(attack, fast, model_key=self.key(model))
        return craft(remembered, fast, x, y, batch_size=self.batch_size, progress=self.named(name))

    def right(self, model: nn.Module, x: Images, y: Labels) -> int:
        """How many answers are right."""
        return int((predict(model, x, batch_size=self.batch_size) == y).sum())

    def describe(self) -> dict[str, Any]:
        """The base, for a report."""
        return self.base.description | {"fingerprint": fingerprint(self.base.model)}

    def settings(self, config: Config) -> dict[str, Any]:
        """What was asked for, and the precision that it came to, for a report. Folders are nobody's business."""
        asked: dict[str, Any] = json.loads(config.model_dump_json(exclude={"out", "cache"}))
        return asked | {"computed_in": str(resolve_precision(self.precision, self.device)).removeprefix("torch.")}

    def named(self, name: str) -> Progress:
        return _Named(progress=self.progress, name=name)


@dataclass(frozen=True, kw_only=True)
class _Named:
    """A progress whose tasks are all called `name`: the recipe knows better what the work is for."""

    progress: Progress
    name: str

    def task(self, name: str, total: int, unit: str = "images") -> Task:  # noqa: ARG002
        return self.progress.task(self.name, total, unit)


def open_base(spec: str, device: str) -> Base:
    """The base, frozen, on its device, in the memory format that convolutions are fastest in; its values untouched."""
    base = load_base(spec)
    model = base.model.to(pick_device(device)).to(memory_format=torch.channels_last)
    return dataclasses.replace(base, model=model.eval().requires_grad_(False))


def open_bench(
    base: Base, config: HardenConfig | AuditConfig | GuardBuildConfig | GuardAuditConfig, progress: Progress | None
) -> Workbench:
    """What `config` says of how to compute, around `base`. Raises BadFileError where the cache cannot be made."""
    return Workbench(
        base=base,
        precision=config.precision,
        merge=mergeable(base.model),
        cache=cache_at(config.cache),
        batch_size=config.batch_size,
        progress=progress or Silent(),
    )


def layers_read(attack: object) -> set[str]:
    """Names of the layers whose output an attack, or a member of it, looks at."""
    members = getattr(attack, "attacks", None) or ()  # AutoAttack's may be None, or names, which look at no layer
    named = getattr(attack, "layer", None)
    return set().union(*map(layers_read, members), {named} if named else ())


def claim(config: HardenConfig | MetaTuneConfig | FewShotEvalConfig, *free: str) -> None:
    """Takes the out folder for this run. Raises BadConfigError where it holds one with other settings than the `free`."""
    path = config.out / "run.json"
    now = json.loads(config.model_dump_json(exclude={"out", "cache", "device", *free}))
    if path.exists():
        before = json.loads(path.read_text())
        odd = [key for key in now if before.get(key) != now[key]]
        if odd:
            raise BadConfigError(
                f"{config.out} holds a run with {odd[0]} = {before.get(odd[0])!r}, now {now[odd[0]]!r}; choose another "
                "--out, or delete that folder"
            )
    write_atomically(path, json.dumps(now, indent=2).encode())


def pick_device(name: str) -> torch.device:
    """`auto` is the GPU where there is one. Raises BadConfigError for one that is not there."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as error:
        raise BadConfigError(f"device {name!r} cannot be used here; expected cpu, cuda or mps, or auto") from error
    return device


def cache_at(folder: Path) -> AdversarialCache:
    """The cache in `folder`, which is made. Raises BadFileError."""
    place = folder.expanduser() / "adversarial"
    make_folder(place)
    return AdversarialCache(place)


def check_classes(base: Base, source: Source) -> None:
    """Raises BadConfigError where labels of `source` cannot be answers of `base`: another number, or another order."""
    if len(source.classes) != base.num_classes:
        raise BadConfigError(
            f"{source.name} has {len(source.classes)} classes, the base {base.num_classes}; expected the same ones"
        )
    names = base.classes or source.classes
    if set(names) == set(source.classes) and tuple(names) != tuple(source.classes):
        odd = next(i for i, name in enumerate(names) if name != source.classes[i])
        raise BadConfigError(
            f"class {odd} is {source.classes[odd]!r} in {source.name} and {names[odd]!r} in the base; expected one order"
        )


def everything(images: ImageSet) -> tuple[Images, Labels]:
    """All of a set at once, in memory."""
    return images.fetch(torch.arange(len(images)))
