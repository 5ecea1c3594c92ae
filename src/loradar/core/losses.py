"""What an attack ascends, one value per image."""

import torch
import torch.nn.functional as F
from torch import Tensor

from loradar.core.types import Labels, Logits


def cross_entropy(logits: Logits, y: Labels) -> Tensor:
    """(batch,) cross-entropy in nats. Logits (batch, classes)."""
    return F.cross_entropy(logits, y, reduction="none")


def margin(logits: Logits, y: Labels) -> Tensor:
    """(batch,) largest wrong logit minus the right one: above 0 where the answer is wrong.

    Carlini and Wagner, "Towards Evaluating the Robustness of Neural Networks", 2017, f6 without its floor.
    """
    right = logits.gather(1, y[:, None]).squeeze(1)
    wrong = logits.scatter(1, y[:, None], -torch.inf).amax(1)
    return wrong - right
