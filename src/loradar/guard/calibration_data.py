"""What the parts of a guard are fitted on: calibration images, attacked in every known way, and the voters' logits."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from loradar.core.randomness import generator
from loradar.core.types import Attack, Images, Labels
from loradar.evaluation import device_of
from loradar.evaluation.workbench import Workbench
from loradar.guard.calibration import Calibration
from loradar.guard.features import residual_statistics, vote_features

FITTED = 0.7
"""Of the calibration images, the part that the identifiers are fitted on; the rest sets their thresholds."""
FAINT = 3 / 255
"""Root mean square, in [0, 1] pixels, below which a perturbation without its aim is as good as none."""


@dataclass(frozen=True, kw_only=True, eq=False)
class CalibrationData:
    """Calibration images of each kind (0 clean, then the threats, last pseudo-unknowns), and every voter's logits.

    `known` is the number of kinds before the pseudo-unknowns; `held` images set thresholds and fit nothing.
    """

    x: Images
    y: Labels
    kinds: Tensor
    held: Tensor
    known: int
    logits: Mapping[str, Tensor]


def calibration_data(
    bench: Workbench, voters: Mapping[str, nn.Module], attacks: Mapping[str, Attack], x: Images, y: Labels
) -> CalibrationData:
    """Attacks the calibration images on the base by every attack, and asks every voter about all of them."""
    count = len(y)
    variants = [x]
    for name, attack in attacks.items():
        task_name = f"craft {name} on the base, {count} calibration images"
        variants.append(bench.attacked(attack, bench.base.model, x, y, name=task_name))
    parts = [(kind, torch.arange(count), variant) for kind, variant in enumerate(variants)]
    parts += [(len(variants), rows, variant) for rows, variant in pseudo_unknowns(x, variants[1:])]
    images = torch.cat([variant for _, _, variant in parts])
    task = bench.progress.task("ask the voters", len(voters), "voters")
    logits = {}
    for name, model in voters.items():
        logits[name] = _logits(bench.optimized(model), images, batch_size=bench.batch_size)
        task.advance()
    rows = torch.cat([rows for _, rows, _ in parts])
    return CalibrationData(
        x=images,
        y=y[rows],
        kinds=torch.cat([torch.full((len(rows),), kind) for kind, rows, _ in parts]),
        # an image is held out under all of its attacks or under none
        held=rows >= math.ceil(FITTED * count),
        known=len(variants),
        logits=logits,
    )


def _logits(model: nn.Module, x: Images, *, batch_size: int) -> Tensor:
    """Runs `model` on all images: (n, classes) on the CPU."""
    with torch.inference_mode():
        return torch.cat([model(batch.to(device_of(model))).float().cpu() for batch in torch.split(x, batch_size)])


def pseudo_unknowns(x: Images, attacked: Sequence[Images]) -> list[tuple[Tensor, Images]]:
    """Makes stand-ins for unknown attacks: rows of `x` and as many images, together no more than there are in `x`.

    A known perturbation on another image keeps its statistics and loses its aim; with its pixels shuffled it is noise of
    the same strength. Perturbations below FAINT are left out: without their aim they look like clean images. (Hendrycks,
    Mazeika and Dietterich, "Deep Anomaly Detection with Outlier Exposure", 2019, show that outliers of another kind than
    those to come teach a detector as well.)
    """
    changes = [images - x for images in attacked]
    loud = [change for change in changes if float(change.square().mean().sqrt()) >= FAINT] or changes
    unknowns = []
    for index, change in enumerate(loud):
        rows = torch.arange(index, len(x), len(loud))
        for part, aimless in ((rows[0::2], change.roll(1, 0)), (rows[1::2], _shuffled(change))):
            unknowns.append((part, (x[part] + aimless[part]).clamp(0, 1)))
    return unknowns


def _shuffled(change: Tensor) -> Tensor:
    """Shuffles the pixels of each image, all in the same order."""
    order = torch.randperm(change.shape[2] * change.shape[3], generator=generator(0))
    return change.flatten(2)[..., order].view_as(change)


def identifier_features(
    data: CalibrationData, calibrations: Mapping[str, Calibration], window: int
) -> tuple[Tensor, Tensor]:
    """Computes the identifier's features, and the gate's (from the base's vote alone)."""
    scaled = [(data.logits[name] / each.temperature).log_softmax(1) for name, each in calibrations.items()]
    log_probs = torch.stack(scaled)
    batches = torch.split(data.x, 512)
    statistics = torch.cat([residual_statistics(batch, window=(window, window)) for batch in batches])
    return (
        torch.cat([statistics, vote_features(log_probs)], dim=1),
        torch.cat([statistics, vote_features(log_probs[:1])], dim=1),
    )
