"""What an attack ascends, one value per image."""

import torch
import torch.nn.functional as F
from torch import Tensor

from loradar.core.types import Labels, Logits

# keeps a ratio finite where all logits are equal
_NO_GAP = 1e-12


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


def dlr(logits: Logits, y: Labels) -> Tensor:
    """(batch,) difference of logits ratio: the margin in units of the gap from the first to the third largest logit.

    Croce and Hein, "Reliable evaluation of adversarial robustness ...", ICML 2020, equation 6. Shifting or scaling the
    logits changes nothing, so a model with huge logits keeps a gradient. Needs 3 classes.
    """
    ranked = logits.sort(dim=1, descending=True).values
    return margin(logits, y) / (ranked[:, 0] - ranked[:, 2] + _NO_GAP)


def targeted_dlr(logits: Logits, y: Labels, target: Labels) -> Tensor:
    """(batch,) the same towards one wrong class: the target's logit minus the right one, in units of a gap of logits.

    Croce and Hein 2020, equation 7. Needs 4 classes.
    """
    ranked = logits.sort(dim=1, descending=True).values
    gap = ranked[:, 0] - (ranked[:, 2] + ranked[:, 3]) / 2
    right, wanted = (logits.gather(1, labels[:, None]).squeeze(1) for labels in (y, target))
    return (wanted - right) / (gap + _NO_GAP)
