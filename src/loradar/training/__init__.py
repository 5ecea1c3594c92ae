"""Training yields steps: objectives, the loop, checkpoints, and adversarial images kept on disk."""

from loradar.training.adversarial_cache import AdversarialCache, cache_at
from loradar.training.curves import curves
from loradar.training.fit import FitSettings, LossOf, Step, fit
from loradar.training.objectives import KL, clean_loss, drift, one_to_one, robust_loss
from loradar.training.weight_perturbation import (
    RawPerturbation,
    RelativePerturbation,
    WeightPerturbation,
    moved,
    perturbed_loss,
)

__all__ = [
    "KL",
    "AdversarialCache",
    "FitSettings",
    "LossOf",
    "RawPerturbation",
    "RelativePerturbation",
    "Step",
    "WeightPerturbation",
    "cache_at",
    "clean_loss",
    "curves",
    "drift",
    "fit",
    "moved",
    "one_to_one",
    "perturbed_loss",
    "robust_loss",
]
