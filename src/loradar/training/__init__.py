"""Training yields steps: objectives, the loop, checkpoints, and adversarial images kept on disk."""

from loradar.training.adversarial_cache import AdversarialCache
from loradar.training.fit import FitSettings, LossOf, Step, fit
from loradar.training.objectives import clean_loss, moved, one_to_one

__all__ = ["AdversarialCache", "FitSettings", "LossOf", "Step", "clean_loss", "fit", "moved", "one_to_one"]
