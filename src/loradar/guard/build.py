"""Builds a guard: voters calibrated, identifier and gate fitted, on images that are used for nothing else."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn

from loradar.adapters import Adapter, fingerprint, save
from loradar.attacks import named_attacks
from loradar.core.errors import BadConfigError
from loradar.core.files import check_place, folder_atomically, sha256
from loradar.core.names import ADAPTER_WEIGHTS, GUARD_RECORD
from loradar.core.randomness import generator
from loradar.core.types import Attack, Images, Labels, Progress
from loradar.data import ImageSet, load_source
from loradar.evaluation import check_classes, everything
from loradar.evaluation.workbench import Workbench, open_bench
from loradar.guard.calibration import Calibration, calibrate
from loradar.guard.calibration_split import calibration_split, identities
from loradar.guard.config import GuardBuildConfig
from loradar.guard.defenses import Defense
from loradar.guard.features import opinion_features, residual_statistics
from loradar.guard.files import GuardRecord, save_guard
from loradar.guard.guard import Guard
from loradar.guard.identify import Identifier, fit_identifier, fit_prior
from loradar.guard.masking import MaskSet, single_answers
from loradar.guard.policy import Policy
from loradar.guard.pool import folded, logits_on, named_adapters, parts_of, work_of
from loradar.guard.settings import GuardSettings
from loradar.models import Base, open_base

FITTED = 0.7
"""Of the calibration images, the part that the identifiers are fitted on; the rest sets their thresholds."""
FAINT = 3 / 255
"""Root mean square, in [0, 1] pixels, below which a perturbation without its aim is as good as none."""
_MASK_IMAGES = 64


def build_guard(config: GuardBuildConfig, *, progress: Progress | None = None) -> Path:
    """Builds what `config` asks for and returns its folder, which appears whole or not at all.

    What a user can get wrong is said before anything is computed. Raises LoradarError.
    """
    check_place(config.out, GUARD_RECORD, "a guard")
    attacks = named_attacks(config.attacks)
    policy = _policy(config)
    policy.check(tuple(attacks))
    adapters = named_adapters(config.adapter)
    base = open_base(config.base, config.device)
    masks = _masks(base, config)
    voters = folded(base, adapters)
    images, data = _calibration_images(config, base, adapters)
    bench = open_bench(base, config, progress)
    seen = _look(bench, voters, attacks, *everything(images))
    told = seen.kinds < seen.known
    calibrations = {name: calibrate(logits[told], seen.y[told]) for name, logits in seen.logits.items()}
    features, gate_features = _features(seen, calibrations, config.rectangle)
    identifier, gate = (_identifier(seen, one, tuple(attacks), config) for one in (features, gate_features))
    settings = GuardSettings(
        threats=tuple(attacks),
        specialists={name: _specialist(name, attack, adapters) for name, attack in attacks.items()},
        calibrations=calibrations,
        fusion=config.fusion,
        base_votes=config.base_votes,
        abstain=config.abstain,
        cascade=config.cascade,
        gate=_threshold(gate, seen, gate_features, config),
        prior=_prior(identifier, seen, features, config),
        policy=policy,
        window=(config.rectangle, config.rectangle),
        masker=_masker(bench, voters, seen, masks),
        masks=config.masks,
    )
    costs = work_of(base, voters)
    Guard(parts_of(base, voters, identifier, gate, costs=costs, precision=config.precision), settings)
    with folder_atomically(config.out) as fresh:
        for name, adapter in adapters.items():
            save(adapter, fresh / "adapters" / name)
        record = GuardRecord(
            settings=settings,
            base=config.base,
            base_fingerprint=fingerprint(base.model),
            attacks={name: _text(spec) for name, spec in zip(attacks, config.attacks, strict=True)},
            adapters={n: sha256((fresh / "adapters" / n / ADAPTER_WEIGHTS).read_bytes()) for n in adapters},
            costs=costs,
            data=data,
            digests=tuple(identities(images)),
        )
        save_guard(fresh, record, identifier, gate)
    return config.out


def _calibration_images(
    config: GuardBuildConfig, base: Base, adapters: Mapping[str, Adapter]
) -> tuple[ImageSet, dict[str, Any]]:
    """The images to calibrate on, and the record of where they are from."""
    size = base.input_size[1:]
    source = load_source(config.data, size=size)
    check_classes(base, source)
    return calibration_split(
        source,
        [adapter.card for adapter in adapters.values()],
        count=config.calibration,
        max_test_images=config.max_test_images,
        seed=config.seed,
        other=load_source(config.calibration_data, size=size) if config.calibration_data else None,
    )


@dataclass(frozen=True, kw_only=True, eq=False)
class _Seen:
    """Calibration images of each kind (0 clean, then the threats, last the strays), and what every voter said.

    `known` is the number of kinds before the strays; `held` images set thresholds and fit nothing.
    """

    x: Images
    y: Labels
    kinds: Tensor
    held: Tensor
    known: int
    logits: Mapping[str, Tensor]


def _look(
    bench: Workbench, voters: Mapping[str, nn.Module], attacks: Mapping[str, Attack], x: Images, y: Labels
) -> _Seen:
    count = len(y)
    variants = [x]
    for name, attack in attacks.items():
        told = f"craft {name} on the base, {count} calibration images"
        variants.append(bench.attacked(attack, bench.base.model, x, y, name=told))
    parts = [(kind, torch.arange(count), images) for kind, images in enumerate(variants)]
    parts += [(len(variants), rows, images) for rows, images in _pseudo_unknowns(x, variants[1:])]
    every = torch.cat([images for _, _, images in parts])
    task = bench.progress.task("ask the voters", len(voters), "voters")
    logits = {}
    for name, model in voters.items():
        logits[name] = logits_on(bench.optimized(model), every, batch_size=bench.batch_size)
        task.advance()
    rows = torch.cat([rows for _, rows, _ in parts])
    return _Seen(
        x=every,
        y=y[rows],
        kinds=torch.cat([torch.full((len(rows),), kind) for kind, rows, _ in parts]),
        # an image is held out under all of its attacks or under none
        held=rows >= math.ceil(FITTED * count),
        known=len(variants),
        logits=logits,
    )


def _pseudo_unknowns(x: Images, attacked: Sequence[Images]) -> list[tuple[Tensor, Images]]:
    """Stand-ins for attacks that nobody knows: rows of `x` and images, no more than there are in `x`.

    A known perturbation on another image has the statistics without the aim; one whose pixels are in another order is noise of
    the same strength without the shape. Perturbations of less than FAINT are left out: aimless they cannot be told from
    nothing. (Hendrycks, Mazeika and Dietterich, "Deep Anomaly Detection with Outlier Exposure", 2019, show that outliers of
    another kind than those to come teach a detector as well.)
    """
    changes = [images - x for images in attacked]
    loud = [change for change in changes if float(change.square().mean().sqrt()) >= FAINT] or changes
    found = []
    for index, change in enumerate(loud):
        rows = torch.arange(index, len(x), len(loud))
        for part, astray in ((rows[0::2], change.roll(1, 0)), (rows[1::2], _shuffled(change))):
            found.append((part, (x[part] + astray[part]).clamp(0, 1)))
    return found


def _shuffled(change: Tensor) -> Tensor:
    """The pixels of each image in another order, the same for all."""
    order = torch.randperm(change.shape[2] * change.shape[3], generator=generator(0))
    return change.flatten(2)[..., order].view_as(change)


def _features(seen: _Seen, calibrations: Mapping[str, Calibration], window: int) -> tuple[Tensor, Tensor]:
    """What the identifier sees, and what the gate sees (the base's opinion alone)."""
    scaled = [(seen.logits[name] / each.temperature).log_softmax(1) for name, each in calibrations.items()]
    log_probs = torch.stack(scaled)
    batches = torch.split(seen.x, 512)
    statistics = torch.cat([residual_statistics(batch, window=(window, window)) for batch in batches])
    return (
        torch.cat([statistics, opinion_features(log_probs)], dim=1),
        torch.cat([statistics, opinion_features(log_probs[:1])], dim=1),
    )


def _identifier(seen: _Seen, features: Tensor, threats: tuple[str, ...], config: GuardBuildConfig) -> Identifier:
    fit, held = ~seen.held, seen.held & (seen.kinds < seen.known)
    return fit_identifier(
        features[fit],
        seen.kinds[fit],
        threats=threats,
        held=features[held],
        held_labels=seen.kinds[held],
        far=config.max_fpr / 2,
        seed=config.seed,
    )


def _threshold(gate: Identifier, seen: _Seen, features: Tensor, config: GuardBuildConfig) -> float:
    """The lowest probability of clean, a half at least, that no more than `gate_fnr` of any threat's images reach."""
    clean = gate(features[seen.held])[:, 0]
    kinds = seen.kinds[seen.held]
    limits = [
        torch.quantile(clean[kinds == kind], 1 - config.gate_fnr, interpolation="higher")
        for kind in range(1, seen.known)
    ]
    # a hair above: who sits on the quantile itself is among those that must not pass
    return min(1.0, max(0.5, float(torch.stack(limits).max()) + 1e-4))


def _prior(identifier: Identifier, seen: _Seen, features: Tensor, config: GuardBuildConfig) -> dict[str, float]:
    """That of the labels, fitted on held-out images; what is far from everything known is unknown under any, and left out."""
    asked = seen.held & (seen.kinds < seen.known)
    near = ~identifier.is_far(features[asked])
    posterior, kinds = identifier.among_near(features[asked])[near], seen.kinds[asked][near]
    return fit_prior(posterior, kinds, max_fpr=config.max_fpr)


def _specialist(name: str, attack: Attack, adapters: Mapping[str, Adapter]) -> str:
    """The adapter called as the threat is, or trained against this very setting; "" for none."""
    if name in adapters:
        return name
    return next((n for n, adapter in adapters.items() if adapter.card.trained_against == attack.spec), "")


def _masks(base: Base, config: GuardBuildConfig) -> Tensor:
    """Those of two-round masking. Raises BadConfigError where the rectangle does not fit the images."""
    _, height, width = base.input_size
    return MaskSet(height=config.rectangle, width=config.rectangle, count=config.masks).masks((height, width))


def _masker(bench: Workbench, voters: Mapping[str, nn.Module], seen: _Seen, masks: Tensor) -> str:
    """The voter that is right most often on clean held-out images under each single mask."""
    rows = torch.nonzero(seen.held & (seen.kinds == 0)).squeeze(1)[:_MASK_IMAGES]
    x, y = seen.x[rows].to(bench.device), seen.y[rows].to(bench.device)

    def right(name: str) -> int:
        model = bench.optimized(voters[name])
        with torch.inference_mode():
            answers = single_answers(model, x, masks.to(bench.device))
        return int((answers == y[:, None]).sum())

    return max(voters, key=right)


def _policy(config: GuardBuildConfig) -> Policy:
    responses: dict[str, tuple[Defense, ...]] = {}
    for entry in config.respond:
        threat, sign, defenses = entry.partition("=")
        if not sign or threat in responses:
            raise BadConfigError(f"{entry!r} cannot be read; expected THREAT=MEASURE[+MEASURE...], each threat once")
        responses[threat] = cast(tuple[Defense, ...], tuple(defenses.split("+")))
    forced, forbidden = (cast(tuple[Defense, ...], tuple(names)) for names in (config.force, config.forbid))
    return Policy(responses=responses, forced=forced, forbidden=forbidden)


def _text(spec: str) -> str:
    """An attack as `audit` reads it again: without the name that it was given."""
    head, sign, tail = spec.partition("=")
    own = bool(sign) and ":" not in head and "," not in head
    return tail if own else spec
