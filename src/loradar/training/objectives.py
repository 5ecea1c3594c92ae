"""What training descends: one number a batch."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from loradar.core.types import Images, Labels, Logits


def one_to_one(
    model: nn.Module, x: Images, x_adv: Images, y: Labels, *, before: Logits | None = None, keep: float = 1.0
) -> Tensor:
    """Mean cross-entropy of `cat[x; x_adv]` against `[y; y]`: clean and attacked images in equal parts.

    One pass over both halves, so that normalisation that moves (if an adapter owns it) sees the mixture. Where the base's
    logits of `x` are given as `before`, `keep` times what the clean answers have moved from them (`moved`) is added.
    """
    logits: Logits = model(torch.cat([x, x_adv]))
    loss = F.cross_entropy(logits, torch.cat([y, y]))
    return loss if before is None else loss + keep * moved(logits[: len(x)], before)


def moved(logits: Logits, before: Logits, *, temperature: float = 2.0) -> Tensor:
    """How far answers (batch, classes) have moved from what they were `before`: KL(before || now), mean over the batch.

    At `temperature`, and scaled by its square, so that the gradient keeps its size. Li and Hoiem, "Learning without
    Forgetting", ECCV 2016, section 3, whose temperature is the default. `before` receives no gradient.
    """
    now, then = (F.log_softmax(one / temperature, dim=1) for one in (logits, before.detach()))
    return F.kl_div(now, then, log_target=True, reduction="batchmean") * temperature**2


def clean_loss(model: nn.Module, x: Images, y: Labels) -> Tensor:
    """Mean cross-entropy of the clean images: ordinary training, as a base is made."""
    return F.cross_entropy(model(x), y)
