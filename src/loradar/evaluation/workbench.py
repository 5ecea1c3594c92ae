"""What a recipe works on: the base, its images, the device, and one way to craft and to count."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import nn

from loradar.adapters import Adapter, fingerprint
from loradar.core.config import Config
from loradar.core.modules import AUTO_LAYER, middle_layer
from loradar.core.types import Attack, Images, Labels, NullProgress, Progress, ProgressBar
from loradar.evaluation.attack_copy import AttackCopy
from loradar.evaluation.measure import correct, run_attack
from loradar.models import (
    Base,
    Pair,
    Precision,
    foldable_conv_bn,
    optimize_for_inference,
    resolve_precision,
    skip_padding,
    with_autocast,
)
from loradar.training import AdversarialCache, cache_at


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
        return with_autocast(skip_padding(twin), self.precision)

    def optimized(self, model: nn.Module, attack: Attack | None = None) -> nn.Module:
        """A copy of `model`, as it is now, for `attack` and for counting; see `loradar.models.inference`."""
        return optimize_for_inference(model, self.precision, merge=self._merged(attack))

    def _merged(self, attack: Attack | None) -> list[Pair]:
        """What may be merged where `attack` reads the output of some layers."""
        apart = {
            middle_layer(self.base.model) if name == AUTO_LAYER else name
            for name in (attack.traits.layers if attack else ())
        }
        return [pair for pair in self.merge if not apart & set(pair)]

    def attack_copy(self, adapter: Adapter, attack: Attack) -> AttackCopy:
        """The base with `adapter` as `optimized` gives it, to be brought up to date at every training step."""
        return AttackCopy(self.base.model, adapter, self.precision, merge=self._merged(attack))

    def key(self, model: nn.Module) -> str:
        """What names `model` in the cache: its weights, and the precision that attacks see them in."""
        return f"{fingerprint(model)} frozen {resolve_precision(self.precision, self.device)}"

    def attacked(self, attack: Attack, model: nn.Module, x: Images, y: Labels, *, name: str) -> Images:
        """`attack` on `model` at every image, from the cache where it is there; float32 on the CPU."""
        fast = self.optimized(model, attack)
        remembered = self.cache.through(attack, fast, model_key=self.key(model))
        return run_attack(remembered, fast, x, y, batch_size=self.batch_size, progress=self.progress_named(name))

    def right(self, model: nn.Module, x: Images, y: Labels) -> int:
        """How many answers are right."""
        return int(correct(model, x, y, batch_size=self.batch_size).sum())

    def describe(self) -> dict[str, Any]:
        """The base, for a report."""
        return self.base.description | {"fingerprint": fingerprint(self.base.model)}

    def settings(self, config: Config) -> dict[str, Any]:
        """What was asked for, and the precision that it came to, for a report. Folders are nobody's business."""
        asked: dict[str, Any] = json.loads(config.model_dump_json(exclude={"out", "cache"}))
        return asked | {"computed_in": str(resolve_precision(self.precision, self.device)).removeprefix("torch.")}

    def progress_named(self, name: str) -> Progress:
        return NamedProgress(progress=self.progress, name=name)


@dataclass(frozen=True, kw_only=True)
class NamedProgress:
    """A progress whose tasks are all called `name`: the recipe knows better what the work is for."""

    progress: Progress
    name: str

    def task(self, name: str, total: int, unit: str = "images") -> ProgressBar:  # noqa: ARG002
        return self.progress.task(self.name, total, unit)

    def message(self, text: str) -> None:
        self.progress.message(text)


class BenchConfig(Protocol):
    """Settings of a command that attacks and counts: precision, batch size, cache folder."""

    @property
    def precision(self) -> Precision: ...
    @property
    def batch_size(self) -> int: ...
    @property
    def cache(self) -> Path: ...


def open_bench(base: Base, config: BenchConfig, progress: Progress | None) -> Workbench:
    """What `config` says of how to compute, around `base`. Raises BadFileError where the cache cannot be made."""
    return Workbench(
        base=base,
        precision=config.precision,
        merge=foldable_conv_bn(base.model),
        cache=cache_at(config.cache),
        batch_size=config.batch_size,
        progress=progress or NullProgress(),
    )
