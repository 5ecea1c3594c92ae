"""Training yields steps: objectives, the loop, checkpoints, and adversarial images kept on disk."""

from loradar.training.adversarial_cache import AdversarialCache
from loradar.training.fit import FitSettings, LossOf, Step, fit
from loradar.training.meta_tune import KL, robust_loss
from loradar.training.objectives import clean_loss, drift, one_to_one
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
    "clean_loss",
    "drift",
    "fit",
    "moved",
    "one_to_one",
    "perturbed_loss",
    "robust_loss",
]
