"""A guard of small models that have learnt something, made in a second."""

from typing import Any

import torch
from torch import Tensor, nn

from loradar.adapters import fold
from loradar.guard import (
    Calibration,
    Guard,
    GuardSettings,
    Identifier,
    Parts,
    fit_identifier,
    opinion_features,
    residual_statistics,
    share,
)
from tests.adapters import tiny

THREATS = ("patch", "noise")
CLASSES = 4
WINDOW = (5, 5)


def models(seed: int = 0, targets: str = "layer3*.conv1") -> dict[str, nn.Module]:
    base = tiny.resnet(seed)
    adapters = {name: tiny.trained(base, targets, seed=i + 1) for i, name in enumerate(THREATS)}
    return {"base": base, **{name: fold(base, adapter) for name, adapter in adapters.items()}}


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
        log_probs = torch.stack([model(x).log_softmax(1) for model in voters.values()])
    statistics = residual_statistics(x, window=WINDOW)
    return (
        torch.cat([statistics, opinion_features(log_probs)], dim=1),
        torch.cat([statistics, opinion_features(log_probs[:1])], dim=1),
    )


def identifiers(voters: dict[str, nn.Module]) -> tuple[Identifier, Identifier]:
    x = smooth_images(24)
    kinds = [x, attacked("patch", x), attacked("noise", x), 1 - x.flip(2).square()]
    labels = torch.arange(len(kinds)).repeat_interleave(len(x))
    every = [features(voters, images) for images in kinds]
    found = []
    for part in (0, 1):
        fitted = torch.cat([pair[part] for pair in every])
        held = torch.cat([pair[part] for pair in every[:3]])
        found.append(fit_identifier(fitted, labels, threats=THREATS, held=held, seed=0))
    return found[0], found[1]


def settings(**changes: Any) -> GuardSettings:
    values: dict[str, Any] = {
        "threats": THREATS,
        "specialists": {name: name for name in THREATS},
        "calibrations": {
            "base": Calibration(temperature=1.5, right=30, total=40),
            "patch": Calibration(temperature=0.8, right=35, total=40),
            "noise": Calibration(temperature=1.0, right=20, total=40),
        },
        "window": WINDOW,
        "masks": 3,
    }
    return GuardSettings(**values | changes)


def guard(seed: int = 0, **changes: Any) -> Guard:
    voters = models(seed)
    trunk, tails = share(list(voters.values()))
    identifier, gate = identifiers(voters)
    parts = Parts(trunk=trunk, tails=tails, identifier=identifier, gate=gate, costs=torch.tensor([0.4, 0.6, 0.6, 0.6]))
    return Guard(parts, settings(**changes))


def traffic(count: int = 6, seed: int = 3) -> Tensor:
    x = smooth_images(count, seed)
    return torch.cat([x, attacked("patch", x), attacked("noise", x)])
