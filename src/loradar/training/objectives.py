"""What training descends: one number a batch."""

from typing import Literal, TypeAlias

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from loradar.core.modules import check_logits
from loradar.core.types import Images, Labels, Logits

KL: TypeAlias = Literal["clean-attacked", "attacked-clean"]
"""KL(clean || attacked), as the authors' code has it, or KL(attacked || clean), as the paper writes it."""


def mixed_adversarial_loss(
    model: nn.Module, x: Images, x_adv: Images, y: Labels, *, before: Logits | None = None, distill_weight: float = 1.0
) -> Tensor:
    """Mean cross-entropy of `cat[x; x_adv]` against `[y; y]`: clean and attacked images in equal parts.

    One pass over both halves, so that normalisation that moves (if an adapter owns it) sees the mixture. Where the base's
    logits of `x` are given as `before`, `distill_weight` times the `distillation_loss` of the clean answers from them is added.
    """
    logits = check_logits(model(torch.cat([x, x_adv])))
    loss = F.cross_entropy(logits, torch.cat([y, y]))
    return loss if before is None else loss + distill_weight * distillation_loss(logits[: len(x)], before)


def distillation_loss(logits: Logits, before: Logits, *, temperature: float = 2.0) -> Tensor:
    """How far answers (batch, classes) have gone from what they were `before`: KL(before || now), mean over the batch.

    At `temperature`, and scaled by its square, so that the gradient keeps its size. Li and Hoiem, "Learning without
    Forgetting", ECCV 2016, section 3, whose temperature is the default. `before` receives no gradient.
    """
    now, then = (F.log_softmax(one / temperature, dim=1) for one in (logits, before.detach()))
    return F.kl_div(now, then, log_target=True, reduction="batchmean") * temperature**2


def clean_loss(model: nn.Module, x: Images, y: Labels) -> Tensor:
    """Mean cross-entropy of the clean images: ordinary training, as a base is made."""
    return F.cross_entropy(check_logits(model(x)), y)


def trades_loss(
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
