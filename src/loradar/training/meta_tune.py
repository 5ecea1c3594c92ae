"""What meta-tuning descends on one task, and how the rate goes up and down."""

from typing import Literal, TypeAlias

import torch.nn.functional as F
from torch import Tensor

from loradar.core.types import Labels, Logits

KL: TypeAlias = Literal["clean-attacked", "attacked-clean"]
"""KL(clean || attacked), as the authors' code has it, or KL(attacked || clean), as the paper writes it."""


def robust_loss(
    clean: Logits, attacked: Logits, y: Labels, *, weight: float = 6.0, kl: KL = "clean-attacked"
) -> Tensor:
    """CE(clean) + weight * KL of the answers, a scalar in nats; the gradient goes through both branches.

    Yang et al., "Mixture of Adversarial LoRAs", 2024, equation 5; after Zhang et al., "TRADES", 2019.
    """
    log_clean, log_attacked = clean.log_softmax(1), attacked.log_softmax(1)
    if kl == "attacked-clean":
        log_clean, log_attacked = log_attacked, log_clean
    divergence = F.kl_div(log_attacked, log_clean, reduction="batchmean", log_target=True)
    return F.cross_entropy(clean, y) + weight * divergence
