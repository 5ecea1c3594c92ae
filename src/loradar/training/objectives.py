"""What training descends: one number a batch."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from loradar.core.types import Images, Labels


def one_to_one(model: nn.Module, x: Images, x_adv: Images, y: Labels) -> Tensor:
    """Mean cross-entropy of `cat[x; x_adv]` against `[y; y]`: clean and attacked images in equal parts.

    One pass over both halves, so that normalisation that moves (if an adapter owns it) sees the mixture.
    """
    return F.cross_entropy(model(torch.cat([x, x_adv])), torch.cat([y, y]))


def clean_loss(model: nn.Module, x: Images, y: Labels) -> Tensor:
    """Mean cross-entropy of the clean images: ordinary training, as a base is made."""
    return F.cross_entropy(model(x), y)
