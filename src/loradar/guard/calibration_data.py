"""What a guard is fitted on: benign traffic, attacks known and strange, and the voters' answers to all of it."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from loradar.core.errors import BadConfigError
from loradar.core.randomness import generator, mix
from loradar.core.types import Attack, Images, Labels
from loradar.data import BENIGN_KINDS, change_benignly
from loradar.evaluation import device_of
from loradar.evaluation.workbench import Workbench
from loradar.guard.calibration import Calibration, least_count
from loradar.guard.features import residual_statistics, vote_features
from loradar.guard.identify import Examples

UNTOUCHED = "untouched"
UNFITTED_KINDS = ("blur", "gamma", "white-balance", "zoom", "posterize")
"""Benign changes that no guard is calibrated on: an audit measures on them how far the calibration carries."""
FITTED_KINDS = tuple(kind for kind in BENIGN_KINDS if kind not in UNFITTED_KINDS)
DRAWS = 3
"""How often a held-out image is changed in each way: the more, the less a threshold hangs on the draws."""
FAINT = 3 / 255
"""Root mean square, in [0, 1] pixels, below which a perturbation without its aim is as good as none."""
_FEWEST = 8
_STREAM = 0x7E57


@dataclass(frozen=True, kw_only=True, eq=False)
class CalibrationData:
    """Calibration images of each kind of traffic, and every voter's logits.

    `names` are the kinds: untouched and otherwise benign first, then the threats, strange attacks, and perturbations
    without their aim; `kinds` (n,) are their places. `labels` (n,) are the identifier's: 0 for all benign kinds, one for
    each threat, the last (`unknown`) for the rest. `origins` (n,) number the images that these are variants of; `held`
    ones set thresholds and fit nothing.
    """

    x: Images
    y: Labels
    names: tuple[str, ...]
    kinds: Tensor
    labels: Tensor
    origins: Tensor
    unknown: int
    held: Tensor
    logits: Mapping[str, Tensor]

    @property
    def plain(self) -> Tensor:
        """(n,) bool: untouched images and known threats, which the voters' confidences are fitted on."""
        return (self.kinds == 0) | ((self.labels > 0) & (self.labels < self.unknown))

    def examples(self, features: Tensor) -> Examples:
        """The features of all images with what they are."""
        return Examples(features=features, labels=self.labels, kinds=self.kinds, origins=self.origins)

    def attacks(self) -> dict[str, Tensor]:
        """(n,) bool for each attack, known or strange: its held-out images."""
        rows = {name: self.held & (self.kinds == kind) for kind, name in enumerate(self.names)}
        return {name: mask for name, mask in rows.items() if name not in (UNTOUCHED, *FITTED_KINDS, _AIMLESS)}


_AIMLESS = "without aim"


def held_count(count: int, max_fpr: float) -> int:
    """Counts the images to hold out of `count`: half, or as many as keeping `max_fpr` needs.

    Raises BadConfigError where that leaves too few to fit on.
    """
    held = max(math.ceil(count / 2), least_count(max_fpr))
    if count - held < _FEWEST:
        raise BadConfigError(
            f"{count} calibration images cannot keep false alarms to {max_fpr:g}: that takes {least_count(max_fpr)} held "
            f"out, and {_FEWEST} or more to fit on; bring {least_count(max_fpr) + _FEWEST} images (--calibration), or "
            f"allow more alarms (--max-fpr)"
        )
    return held


def calibration_data(
    bench: Workbench,
    voters: Mapping[str, nn.Module],
    attacks: Mapping[str, Attack],
    strangers: Mapping[str, Attack],
    x: Images,
    y: Labels,
    *,
    held: int,
    seed: int,
) -> CalibrationData:
    """Makes every kind of traffic of the calibration images, attacks on the base, and asks every voter about all of it.

    Every second attacked image is rounded to 8 bits, as picture files do it. `held` images, drawn by `seed`, are held out
    under all of their variants.
    """
    count, unknown = len(y), len(attacks) + 1
    every = torch.arange(count)
    parts = [(UNTOUCHED, 0, every, x)]
    parts += [(kind, 0, every, change_benignly(x, kind, seed=seed)) for kind in FITTED_KINDS]
    apart = torch.randperm(count, generator=generator(seed, _STREAM))[:held].sort().values
    parts += [
        (kind, 0, apart, change_benignly(x[apart], kind, seed=mix(seed, draw)))
        for kind in FITTED_KINDS
        for draw in range(1, DRAWS)
    ]
    crafted = []
    every_attack = {**attacks, **strangers}
    for name, attack in every_attack.items():
        task_name = f"craft {name} on the base, {count} calibration images"
        crafted.append(bench.attacked(attack, bench.base.model, x, y, name=task_name))
    labels = [*range(1, unknown), *[unknown] * len(strangers)]
    parts += [
        (name, label, every, _half_rounded(images))
        for name, label, images in zip(every_attack, labels, crafted, strict=True)
    ]
    parts += [(_AIMLESS, unknown, rows, images) for rows, images in pseudo_unknowns(x, crafted[: len(attacks)])]
    images = torch.cat([variant for *_, variant in parts])
    task = bench.progress.task("ask the voters", len(voters), "voters")
    logits = {}
    for name, model in voters.items():
        logits[name] = _logits(bench.optimized(model), images, batch_size=bench.batch_size)
        task.advance()
    names = tuple(dict.fromkeys(name for name, *_ in parts))
    rows = torch.cat([rows for _, _, rows, _ in parts])
    return CalibrationData(
        x=images,
        y=y[rows],
        names=names,
        kinds=torch.cat([torch.full((len(rows),), names.index(name)) for name, _, rows, _ in parts]),
        labels=torch.cat([torch.full((len(rows),), label) for _, label, rows, _ in parts]),
        origins=rows,
        unknown=unknown,
        held=torch.isin(rows, apart),
        logits=logits,
    )


def _half_rounded(x: Images) -> Images:
    """Every second image rounded to 8 bits."""
    x = x.clone()
    x[1::2] = (x[1::2] * 255).round() / 255
    return x


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
