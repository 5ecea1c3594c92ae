"""A guard built as a user builds one, of adapters that were moved at random instead of being trained."""

from pathlib import Path

import torch

from loradar.adapters import init_adapter, save
from loradar.attacks import PGD, ROA
from loradar.core.types import Attack
from loradar.data import load_source, split
from loradar.guard.audit import GuardAuditResult
from loradar.guard.audit import resolve as resolve_audit
from loradar.guard.audit import run as run_audit
from loradar.guard.build import GuardBuildResult
from loradar.guard.build import resolve as resolve_build
from loradar.guard.build import run as run_build
from loradar.guard.config import GuardAuditConfig, GuardBuildConfig
from loradar.models import load_base

ATTACKS = ["roa:steps=1,n_candidates=2", "fast=pgd:steps=1"]
TRAINED_AGAINST: dict[str, Attack] = {"roa": ROA(steps=1, n_candidates=2), "fast": PGD(steps=1), "other": PGD(steps=2)}
LIMIT, TRAIN, VALIDATION = 12, 32, 8


def adapter(base: Path, folder: Path, name: str) -> Path:
    """An adapter folder whose card says what it was (as if) trained on."""
    model = load_base(str(base)).model
    one = init_adapter(model, target_modules="block-conv1", rank=2, name=name)
    draws = torch.Generator().manual_seed(sum(map(ord, name)))
    for delta in one.deltas.values():
        delta.b.data.normal_(0, 0.05, generator=draws)
    record = split(load_source("digits", size=(32, 32)), train=TRAIN, validation=VALIDATION, reported=LIMIT).record
    return save(one.with_card(trained_against=TRAINED_AGAINST[name].spec, data=dict(record)), folder / name)


def settings(base: Path, folder: Path, **changes: object) -> GuardBuildConfig:
    values: dict[str, object] = {
        "base": str(base),
        "adapter": [folder / "adapters" / name for name in ("roa", "fast")],
        "attacks": ATTACKS,
        "calibration": 40,
        "max_test_images": LIMIT,
        "out": folder / "guard",
        "cache": folder / "cache",
        "precision": "fp32",
        "respond": ["roa-steps1-ncandidates2=mask", "fast=smooth"],
        "masks": 2,
        "strangers": ["pgd:norm=l2,steps=2", "roa:height=9,steps=1,n_candidates=2"],
        "max_fpr": 0.1,
        "fusion": "mean",
    }
    return GuardBuildConfig(**values | changes)


def build(base: Path, folder: Path, **changes: object) -> GuardBuildResult:
    return run_build(resolve_build(settings(base, folder, **changes)))


def audit(**settings: object) -> GuardAuditResult:
    """An audit of a few images, quickly."""
    values: dict[str, object] = {
        "max_test_images": LIMIT,
        "max_certified_images": 1,
        "evade_steps": 1,
        "precision": "fp32",
    }
    return run_audit(resolve_audit(GuardAuditConfig(**values | settings)))
