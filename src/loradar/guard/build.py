"""Builds a guard: voters calibrated, identifier and gate fitted, on images that are used for nothing else."""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn

from loradar.adapters import Adapter, AdapterPool, fingerprint, load_named
from loradar.adapters.fits import check_base
from loradar.attacks import named_attacks
from loradar.core.errors import BadConfigError, did_you_mean
from loradar.core.files import check_place
from loradar.core.leases import lease
from loradar.core.names import GUARD_RECORD, check_names
from loradar.core.types import Attack, Progress
from loradar.data import ImageSet, Source, fetch_all, load_source
from loradar.evaluation import check_classes
from loradar.evaluation.workbench import Workbench, open_bench
from loradar.guard.calibration import calibrate, conformal_limit
from loradar.guard.calibration_data import CalibrationData, calibration_data, held_count, identifier_features
from loradar.guard.calibration_split import calibration_split, identities
from loradar.guard.choose import IMAGES, choose
from loradar.guard.config import GuardAuditConfig, GuardBuildConfig
from loradar.guard.defenses import Defense
from loradar.guard.files import GuardRecord, GuardState
from loradar.guard.guard import Guard
from loradar.guard.identify import Identifier, fit_identifier, fit_prior
from loradar.guard.masking import MaskSet, mask_answers
from loradar.guard.measuring import GuardMeasuring
from loradar.guard.parts import measure_costs, merged_voters
from loradar.guard.policy import Policy
from loradar.guard.settings import GuardSettings, tables
from loradar.guard.strangers import fitted_strangers
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
    strangers: Mapping[str, Attack]
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
    if config.answered_by and config.answered_by not in adapters:
        raise BadConfigError(
            f"no adapter {config.answered_by!r} is there to answer; {did_you_mean(config.answered_by, adapters)}"
        )
    AdapterPool(adapters)  # refuses adapters of several bases
    check_names(adapters, "an adapter")
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
    held_count(len(images), config.max_fpr)  # refuses too few
    return GuardBuildJob(
        config=config,
        base=base,
        adapters=adapters,
        attacks=attacks,
        strangers=fitted_strangers(config.strangers, attacks),
        policy=policy,
        images=images,
        data=data,
    )


def run(job: GuardBuildJob, *, progress: Progress | None = None) -> GuardBuildResult:
    """Fits the guard and writes its folder, which appears whole or not at all. Raises LoradarError."""
    with lease(job.config.out, wait=job.config.wait, progress=progress, beside=True):
        return _build(job, progress)


def _build(job: GuardBuildJob, progress: Progress | None) -> GuardBuildResult:
    config, base, threats = job.config, job.base, tuple(job.attacks)
    bench = open_bench(base, config, progress)
    voters = merged_voters(base, job.adapters)
    data = calibration_data(
        bench,
        voters,
        job.attacks,
        job.strangers,
        *fetch_all(job.images),
        held=held_count(len(job.images), config.max_fpr),
        seed=config.seed,
    )
    plain = data.plain
    calibrations = {name: calibrate(logits[plain], data.y[plain]) for name, logits in data.logits.items()}
    features, gate_features = identifier_features(data, calibrations, config.rectangle)
    identifier, gate = (_identifier(data, values, threats, config) for values in (features, gate_features))
    settings = GuardSettings(
        threats=threats,
        specialists={name: _specialist(name, attack, job.adapters) for name, attack in job.attacks.items()},
        calibrations=calibrations,
        fusion="soft-routed" if config.fusion == "auto" else config.fusion,
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
    odds = tables(settings)["odds"]
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
        strangers=tuple(attack.spec for attack in job.strangers.values()),
        max_fpr=config.max_fpr,
        misses=_misses(
            data, identifier.log_posterior(features, odds), gate(gate_features)[:, 0] >= settings.gate, settings
        ),
    )
    state = GuardState(record=record, base=base, adapters=job.adapters, identifier=identifier, gate=gate)
    guard = Guard.of(state, precision=config.precision)
    if config.fusion == "auto" and not config.answered_by:
        guard = _chosen(guard, voters, data, bench, job)
    return GuardBuildResult(guard=guard, folder=guard.save(config.out))


def _chosen(
    guard: Guard, voters: Mapping[str, nn.Module], data: CalibrationData, bench: Workbench, job: GuardBuildJob
) -> Guard:
    """The guard with what holds best adaptively on held-out calibration images; its record says why."""
    rows = torch.nonzero(data.held & (data.kinds == 0)).squeeze(1)[:IMAGES]
    measuring = GuardMeasuring(
        bench=bench,
        guard=guard,
        voters=voters,
        config=GuardAuditConfig(guard=job.config.out, seed=job.config.seed),
        attacks=job.attacks,
        x=data.x[rows],
        y=data.y[rows],
    )
    choice = choose(measuring, guard)
    policy = dataclasses.replace(guard.settings.policy, answered_by=choice.answered_by)
    guard = guard.replace(policy=policy, fusion=choice.fusion)
    record = dataclasses.replace(guard.state.record, choice=choice)
    return Guard(dataclasses.replace(guard.state, record=record), guard.parts)


def _misses(
    data: CalibrationData, named: Tensor, passed: Tensor, settings: GuardSettings
) -> dict[str, tuple[int, int]]:
    """Counts by attack the held-out images that are named clean, or let pass by the gate, and all of them."""
    clean = (named.argmax(1) == 0) | (passed & settings.gated)
    return {name: (int(clean[rows].sum()), int(rows.sum())) for name, rows in data.attacks().items()}


def _identifier(
    data: CalibrationData, features: Tensor, threats: tuple[str, ...], config: GuardBuildConfig
) -> Identifier:
    examples = data.examples(features)
    return fit_identifier(
        examples.of(~data.held),
        examples.of(data.held),
        threats=threats,
        outlier_rate=config.max_fpr / 2,
        seed=config.seed,
    )


def _threshold(gate: Identifier, data: CalibrationData, features: Tensor, config: GuardBuildConfig) -> float:
    """Finds the lowest probability of clean, a half at least, that an image of any attack reaches by `gate_fnr` at most.

    1, so that nothing passes, where there are too few held-out images for that.
    """
    clean = gate(features)[:, 0]
    limit = max(conformal_limit(clean[rows], config.gate_fnr) for rows in data.attacks().values())
    # a hair above: the image on the threshold itself must not pass
    return min(1.0, max(0.5, limit + 1e-4))


def _prior(
    identifier: Identifier, data: CalibrationData, features: Tensor, config: GuardBuildConfig
) -> dict[str, float]:
    return fit_prior(
        identifier.log_posterior(features),
        data.examples(features),
        data.held,
        threats=identifier.labels[1:-1],
        max_fpr=config.max_fpr,
    )


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
    return Policy(answered_by=config.answered_by, responses=responses, forced=forced, forbidden=forbidden)
