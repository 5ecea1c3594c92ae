"""A guard of small models that have learnt something, made in a second."""

import dataclasses
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from loradar.adapters import fingerprint, merge_weights
from loradar.guard.calibration import Calibration
from loradar.guard.features import residual_statistics, vote_features
from loradar.guard.files import GuardRecord, GuardState, save_guard
from loradar.guard.guard import Guard
from loradar.guard.identify import Examples, Identifier, fit_identifier
from loradar.guard.parts import Parts
from loradar.guard.settings import GuardSettings
from loradar.guard.trunk import share
from loradar.models import Base, wrap
from tests.adapters import tiny

THREATS = ("patch", "noise")
CLASSES = 4
WINDOW = (5, 5)
TEMPERATURES = {"base": 1.5, "patch": 0.8, "noise": 1.0}


def models(seed: int = 0, targets: str = "layer3*.conv1") -> dict[str, nn.Module]:
    base = tiny.resnet(seed)
    adapters = {name: tiny.trained(base, targets, seed=i + 1) for i, name in enumerate(THREATS)}
    return {"base": base, **{name: merge_weights(base, adapter) for name, adapter in adapters.items()}}


def attacked(kind: str, x: Tensor) -> Tensor:
    """What stands for an attack here: a loud rectangle, or noise."""
    generator = torch.Generator().manual_seed(5)
    if kind == "patch":
        changed = x.clone()
        changed[:, :, 8:13, 20:25] = torch.rand(x[:, :, :5, :5].shape, generator=generator).round()
        return changed
    return (x + 0.3 * (torch.rand(x.shape, generator=generator) - 0.5)).clamp(0, 1)


def smooth_images(count: int, seed: int = 0) -> Tensor:
    small = torch.rand(count, 3, 4, 4, generator=torch.Generator().manual_seed(seed))
    return nn.functional.interpolate(small, size=(32, 32), mode="bilinear").clamp(0, 1)


def features(voters: dict[str, nn.Module], x: Tensor) -> tuple[Tensor, Tensor]:
    with torch.no_grad():
        log_probs = torch.stack([(model(x) / TEMPERATURES[n]).log_softmax(1) for n, model in voters.items()])
    statistics = residual_statistics(x, window=WINDOW)
    return (
        torch.cat([statistics, vote_features(log_probs)], dim=1),
        torch.cat([statistics, vote_features(log_probs[:1])], dim=1),
    )


def identifiers(voters: dict[str, nn.Module]) -> tuple[Identifier, Identifier]:
    every, labels = _fitting(voters, 96, seed=0)
    apart, kinds = _fitting(voters, 48, seed=1)
    found = []
    for part in (0, 1):
        fitted, held = examples(every[part], labels), examples(apart[part], kinds)
        found.append(fit_identifier(fitted, held, threats=THREATS, seed=0))
    return found[0], found[1]


def examples(values: Tensor, labels: Tensor) -> Examples:
    """Examples of which every label is one kind of traffic, and every row an image of its own."""
    return Examples(features=values, labels=labels, kinds=labels, origins=torch.arange(len(labels)))


def _fitting(voters: dict[str, nn.Module], count: int, seed: int) -> tuple[tuple[Tensor, Tensor], Tensor]:
    """Clean images, both attacks, and pseudo-unknowns, with their labels."""
    x = smooth_images(count, 100 + seed)
    kinds = [x, attacked("patch", x), attacked("noise", x), 1 - x.flip(2).square()]
    return features(voters, torch.cat(kinds)), torch.arange(len(kinds)).repeat_interleave(count)


def settings(**changes: Any) -> GuardSettings:
    values: dict[str, Any] = {
        "threats": THREATS,
        "specialists": {name: name for name in THREATS},
        "calibrations": {
            name: Calibration(temperature=temperature, right=right, total=40)
            for (name, temperature), right in zip(TEMPERATURES.items(), (30, 35, 20), strict=True)
        },
        "window": WINDOW,
        "fusion": "mean",
        "masks": 3,
    }
    return GuardSettings(**values | changes)


def state(seed: int = 0, **changes: Any) -> GuardState:
    """`models` as a guard's state; the adapters themselves are left out."""
    voters = models(seed)
    identifier, gate = identifiers(voters)
    record = GuardRecord(
        settings=settings(**changes),
        base="runs/base",
        base_fingerprint="ab" * 32,
        attacks={"patch": "roa", "noise": "pgd:steps=3"},
        costs={"trunk": 0.4, "base": 0.6, "patch": 0.6, "noise": 0.6},
    )
    base = Base(
        model=wrap(voters["base"], (0.0,) * 3, (1.0,) * 3), num_classes=CLASSES, input_size=(3, 32, 32), classes=None
    )
    return GuardState(record=record, base=base, adapters={}, identifier=identifier, gate=gate)


def saved(folder: Path) -> tuple[Path, Base]:
    """A guard's folder, adapters and all, and its base."""
    base, one = tiny.resnet(), state()
    opened = dataclasses.replace(one.base, model=wrap(base, (0.0,) * 3, (1.0,) * 3))
    adapters = {n: tiny.trained(opened.model, "layer3*.conv1", seed=i + 1) for i, n in enumerate(THREATS)}
    record = dataclasses.replace(one.record, base_fingerprint=fingerprint(opened.model))
    return save_guard(dataclasses.replace(one, record=record, base=opened, adapters=adapters), folder), opened


def guard(seed: int = 0, **changes: Any) -> Guard:
    trunk, tails = share(list(models(seed).values()))
    costs = torch.tensor([0.4, 0.6, 0.6, 0.6])
    return Guard(state(seed, **changes), Parts(trunk=trunk, tails=tails, costs=costs))


def traffic(count: int = 6, seed: int = 3) -> Tensor:
    x = smooth_images(count, seed)
    return torch.cat([x, attacked("patch", x), attacked("noise", x)])
