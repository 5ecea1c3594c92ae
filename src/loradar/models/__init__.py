"""Bases: classifiers from images in [0, 1] to logits, by a one-line name, from a folder, or any `nn.Module`."""

from loradar.models.backbones import build
from loradar.models.base import Base, new_base, wrap
from loradar.models.folders import save_base
from loradar.models.inference import Pair, cast_weights, frozen, mergeable, nimble
from loradar.models.loading import load_base
from loradar.models.normalized import Normalized
from loradar.models.opening import open_base, pick_device
from loradar.models.precision import Autocast, Precision, quick, resolve_precision
from loradar.models.stages import Stages, staged

__all__ = [
    "Autocast",
    "Base",
    "Normalized",
    "Pair",
    "Precision",
    "Stages",
    "build",
    "cast_weights",
    "frozen",
    "load_base",
    "mergeable",
    "new_base",
    "nimble",
    "open_base",
    "pick_device",
    "quick",
    "resolve_precision",
    "save_base",
    "staged",
    "wrap",
]
