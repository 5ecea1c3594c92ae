"""Builds a guard: voters calibrated, identifier and gate fitted, on images that are used for nothing else."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn

from loradar.adapters import Adapter, AdapterPool, fingerprint, load_named
from loradar.adapters.fits import check_base
from loradar.attacks import named_attacks
from loradar.core.errors import BadConfigError
from loradar.core.files import check_place
from loradar.core.names import GUARD_RECORD
from loradar.core.types import Attack, Progress
from loradar.data import ImageSet, Source, fetch_all, load_source
from loradar.evaluation import check_classes
from loradar.evaluation.workbench import Workbench, open_bench
from loradar.guard.calibration import calibrate
from loradar.guard.calibration_data import CalibrationData, calibration_data, identifier_features
from loradar.guard.calibration_split import calibration_split, identities
from loradar.guard.config import GuardBuildConfig
from loradar.guard.defenses import Defense
from loradar.guard.files import GuardRecord, GuardState, check_names
from loradar.guard.guard import Guard
from loradar.guard.identify import Identifier, fit_identifier, fit_prior
from loradar.guard.masking import MaskSet, mask_answers
from loradar.guard.parts import measure_costs, merged_voters
from loradar.guard.policy import Policy
from loradar.guard.settings import GuardSettings
from loradar.models import Base, open_base

_MASK_IMAGES = 64


@dataclass(frozen=True, kw_only=True, eq=False)
class GuardBuildJob:
    """A base, its adapters by name, the attacks to know, and images that nothing was trained or is reported on.

    `data` is the record of where the images come from.
    """

    config: GuardBuildConfig
    base: Base
    adapters: Mapping[str, Adapter]
    attacks: Mapping[str, Attack]
    policy: Policy
    images: ImageSet
    data: Mapping[str, Any]


@dataclass(frozen=True, kw_only=True, eq=False)
class GuardBuildResult:
    """The guard, ready to use, and the folder that it was written to."""

    guard: Guard
    folder: Path


def resolve(
    config: GuardBuildConfig,
    *,
    base: Base | None = None,
    adapters: Mapping[str, Adapter] | None = None,
    source: Source | None = None,
    attacks: Mapping[str, Attack] | None = None,
) -> GuardBuildJob:
    """Opens what `config` names and checks that it fits; nothing long is done and nothing is written.

    Objects in memory take the place of what `config` names. Raises LoradarError.
    """
    check_place(config.out, GUARD_RECORD, "a guard")
    attacks = named_attacks(config.attacks) if attacks is None else attacks
    policy = _policy(config)
    policy.check(tuple(attacks))
    adapters = load_named(config.adapter) if adapters is None else adapters
    if not adapters:
        raise BadConfigError("a guard needs an adapter at least; give --adapter FOLDER")
    AdapterPool(adapters)  # refuses adapters of several bases
    check_names(adapters)
    base = open_base(config.base, config.device) if base is None else base
    base_fingerprint = fingerprint(base.model)
    for adapter in adapters.values():
        check_base(adapter, base_fingerprint)
    _masks(base, config)  # refuses a rectangle that does not fit the images
    source = load_source(config.data, size=base.input_size[1:]) if source is None else source
    check_classes(base, source)
    other = load_source(config.calibration_data, size=base.input_size[1:]) if config.calibration_data else None
    images, data = calibration_split(
        source,
        [adapter.card for adapter in adapters.values()],
        count=config.calibration,
        max_test_images=config.max_test_images,
        seed=config.seed,
        other=other,
    )
    return GuardBuildJob(
        config=config, base=base, adapters=adapters, attacks=attacks, policy=policy, images=images, data=data
    )


def run(job: GuardBuildJob, *, progress: Progress | None = None) -> GuardBuildResult:
    """Fits the guard and writes its folder, which appears whole or not at all. Raises LoradarError."""
    config, base, threats = job.config, job.base, tuple(job.attacks)
    bench = open_bench(base, config, progress)
    voters = merged_voters(base, job.adapters)
    data = calibration_data(bench, voters, job.attacks, *fetch_all(job.images))
    known = data.kinds < data.known
    calibrations = {name: calibrate(logits[known], data.y[known]) for name, logits in data.logits.items()}
    features, gate_features = identifier_features(data, calibrations, config.rectangle)
    identifier, gate = (_identifier(data, values, threats, config) for values in (features, gate_features))
    settings = GuardSettings(
        threats=threats,
        specialists={name: _specialist(name, attack, job.adapters) for name, attack in job.attacks.items()},
        calibrations=calibrations,
        fusion=config.fusion,
        base_votes=config.base_votes,
        abstain=config.abstain,
        cascade=config.cascade,
        gate=_threshold(gate, data, gate_features, config),
        prior=_prior(identifier, data, features, config),
        policy=job.policy,
        window=(config.rectangle, config.rectangle),
        masker=_masker(bench, voters, data, _masks(base, config)),
        masks=config.masks,
    )
    record = GuardRecord(
        settings=settings,
        base=config.base,
        base_fingerprint=fingerprint(base.model),
        attacks={name: attack.spec for name, attack in job.attacks.items()},
        costs=measure_costs(base, voters),
        data=dict(job.data),
        digests=tuple(identities(job.images)),
        input_size=base.input_size,
        classes=base.classes,
    )
    state = GuardState(record=record, base=base, adapters=job.adapters, identifier=identifier, gate=gate)
    guard = Guard.of(state, precision=config.precision)
    return GuardBuildResult(guard=guard, folder=guard.save(config.out))


def _identifier(
    data: CalibrationData, features: Tensor, threats: tuple[str, ...], config: GuardBuildConfig
) -> Identifier:
    fit, held = ~data.held, data.held & (data.kinds < data.known)
    return fit_identifier(
        features[fit],
        data.kinds[fit],
        threats=threats,
        held=features[held],
        held_labels=data.kinds[held],
        outlier_rate=config.max_fpr / 2,
        seed=config.seed,
    )


def _threshold(gate: Identifier, data: CalibrationData, features: Tensor, config: GuardBuildConfig) -> float:
    """Finds the lowest probability of clean, a half at least, that no more than `gate_fnr` of any threat's images reach."""
    clean = gate(features[data.held])[:, 0]
    kinds = data.kinds[data.held]
    limits = [
        torch.quantile(clean[kinds == kind], 1 - config.gate_fnr, interpolation="higher")
        for kind in range(1, data.known)
    ]
    # a hair above: the image on the quantile itself must not pass
    return min(1.0, max(0.5, float(torch.stack(limits).max()) + 1e-4))


def _prior(
    identifier: Identifier, data: CalibrationData, features: Tensor, config: GuardBuildConfig
) -> dict[str, float]:
    """Fits the prior of the labels on held-out images. Outliers are left out: they are unknown under any prior."""
    held = data.held & (data.kinds < data.known)
    near = ~identifier.is_outlier(features[held])
    posterior, kinds = identifier.classifier_posterior(features[held])[near], data.kinds[held][near]
    return fit_prior(posterior, kinds, max_fpr=config.max_fpr)


def _specialist(name: str, attack: Attack, adapters: Mapping[str, Adapter]) -> str:
    """Names the adapter called as the threat is, or trained against this very setting; "" for none."""
    if name in adapters:
        return name
    return next((n for n, adapter in adapters.items() if adapter.card.trained_against == attack.spec), "")


def _masks(base: Base, config: GuardBuildConfig) -> Tensor:
    """The masks of two-round masking. Raises BadConfigError where the rectangle does not fit the images."""
    _, height, width = base.input_size
    return MaskSet(height=config.rectangle, width=config.rectangle, count=config.masks).masks((height, width))


def _masker(bench: Workbench, voters: Mapping[str, nn.Module], data: CalibrationData, masks: Tensor) -> str:
    """Names the voter that is right most often on clean held-out images under each single mask."""
    rows = torch.nonzero(data.held & (data.kinds == 0)).squeeze(1)[:_MASK_IMAGES]
    x, y = data.x[rows].to(bench.device), data.y[rows].to(bench.device)

    def right(name: str) -> int:
        model = bench.optimized(voters[name])
        with torch.inference_mode():
            answers = mask_answers(model, x, masks.to(bench.device))
        return int((answers == y[:, None]).sum())

    return max(voters, key=right)


def _policy(config: GuardBuildConfig) -> Policy:
    responses: dict[str, tuple[Defense, ...]] = {}
    for entry in config.respond:
        threat, sign, defenses = entry.partition("=")
        if not sign or threat in responses:
            raise BadConfigError(f"{entry!r} cannot be read; expected ATTACK=DEFENSE[+DEFENSE...], each attack once")
        responses[threat] = cast(tuple[Defense, ...], tuple(defenses.split("+")))
    forced, forbidden = (cast(tuple[Defense, ...], tuple(names)) for names in (config.force, config.forbid))
    return Policy(responses=responses, forced=forced, forbidden=forbidden)
