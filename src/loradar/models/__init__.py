"""Bases: classifiers from images in [0, 1] to logits, by a one-line name, from a folder, or any `nn.Module`."""

from loradar.models.backbones import build
from loradar.models.base import Base, new_base, wrap
from loradar.models.folders import save_base
from loradar.models.inference import Pair, cast_weights, foldable_conv_bn, optimize_for_inference, skip_padding
from loradar.models.loading import load_base
from loradar.models.normalized import Normalized
from loradar.models.opening import open_base, pick_device
from loradar.models.precision import Autocast, Precision, resolve_precision, with_autocast
from loradar.models.stages import MultiStageFeatures, staged

__all__ = [
    "Autocast",
    "Base",
    "MultiStageFeatures",
    "Normalized",
    "Pair",
    "Precision",
    "build",
    "cast_weights",
    "foldable_conv_bn",
    "load_base",
    "new_base",
    "open_base",
    "optimize_for_inference",
    "pick_device",
    "resolve_precision",
    "save_base",
    "skip_padding",
    "staged",
    "with_autocast",
    "wrap",
]
