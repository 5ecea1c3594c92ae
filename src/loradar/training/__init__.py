"""Training yields steps: objectives, the loop, checkpoints, and adversarial images kept on disk."""

from loradar.training.adversarial_cache import AdversarialCache, cache_at
from loradar.training.averaging import WeightAverage
from loradar.training.driver import Epoch, Training, Validation, best_epoch, read_epochs, train
from loradar.training.fit import FitSettings, LossOf, Step, fit
from loradar.training.objectives import (
    KL,
    Objective,
    adversarial_loss,
    clean_loss,
    distillation_loss,
    mart_loss,
    trades_loss,
)
from loradar.training.parallel import ALONE, World, joined
from loradar.training.weight_perturbation import (
    AWP,
    RawPerturbation,
    WeightPerturbation,
    moved,
    perturbed_loss,
)

__all__ = [
    "ALONE",
    "AWP",
    "KL",
    "AdversarialCache",
    "Epoch",
    "FitSettings",
    "LossOf",
    "Objective",
    "RawPerturbation",
    "Step",
    "Training",
    "Validation",
    "WeightAverage",
    "WeightPerturbation",
    "World",
    "adversarial_loss",
    "best_epoch",
    "cache_at",
    "clean_loss",
    "distillation_loss",
    "fit",
    "joined",
    "mart_loss",
    "moved",
    "perturbed_loss",
    "read_epochs",
    "trades_loss",
    "train",
]
