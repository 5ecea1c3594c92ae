"""What training descends: one number a batch."""

from typing import Literal, TypeAlias

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from loradar.core.modules import check_logits
from loradar.core.types import Images, Labels, Logits

KL: TypeAlias = Literal["clean-attacked", "attacked-clean"]
"""KL(clean || attacked), as the authors' code has it, or KL(attacked || clean), as the paper writes it."""


Objective: TypeAlias = Literal["mixed", "trades", "mart"]
"""Cross-entropy of clean and attacked images; or of the clean ones with their distance from the attacked; or MART's."""


def adversarial_loss(
    model: nn.Module,
    x: Images,
    x_adv: Images,
    y: Labels,
    *,
    objective: Objective = "mixed",
    clean_weight: float = 0.5,
    label_smoothing: float = 0.0,
    before: Logits | None = None,
    distill_weight: float = 1.0,
) -> Tensor:
    """What hardening descends, a scalar in nats; `clean_weight` in [0, 1) is the dial between clean and attacked images.

    mixed: clean_weight * CE(clean) + (1 - clean_weight) * CE(attacked); at 0 clean images are not asked at all. trades and
    mart: `trades_loss` and `mart_loss` with the weight (1 - clean_weight) / clean_weight, so above 0; 1/7 and 1/6 are their
    authors' choices. Both halves pass together, so that normalisation that moves (if an adapter owns it) sees the mixture.
    Where the base's logits of `x` are given as `before`, `distill_weight` times the `distillation_loss` of the clean answers
    from them is added.
    """
    if objective == "mixed" and clean_weight == 0 and before is None:
        return F.cross_entropy(check_logits(model(x_adv)), y, label_smoothing=label_smoothing)
    logits = check_logits(model(torch.cat([x, x_adv])))
    clean, attacked = logits.chunk(2)
    if objective != "mixed":
        divergent = {"trades": trades_loss, "mart": mart_loss}[objective]
        loss = divergent(clean, attacked, y, weight=(1 - clean_weight) / clean_weight, label_smoothing=label_smoothing)
    elif clean_weight == 0.5:
        loss = F.cross_entropy(logits, torch.cat([y, y]), label_smoothing=label_smoothing)
    else:
        halves = (F.cross_entropy(half, y, label_smoothing=label_smoothing) for half in (clean, attacked))
        loss = torch.stack(list(halves)) @ logits.new_tensor([clean_weight, 1 - clean_weight])
    return loss if before is None else loss + distill_weight * distillation_loss(clean, before)


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
    clean: Logits,
    attacked: Logits,
    y: Labels,
    *,
    weight: float = 6.0,
    kl: KL = "clean-attacked",
    label_smoothing: float = 0.0,
) -> Tensor:
    """CE(clean) + weight * KL of the answers, a scalar in nats; the gradient goes through both branches.

    Yang et al., "Mixture of Adversarial LoRAs", 2024, equation 5; after Zhang et al., "TRADES", 2019.
    """
    log_clean, log_attacked = clean.log_softmax(1), attacked.log_softmax(1)
    if kl == "attacked-clean":
        log_clean, log_attacked = log_attacked, log_clean
    divergence = F.kl_div(log_attacked, log_clean, reduction="batchmean", log_target=True)
    return F.cross_entropy(clean, y, label_smoothing=label_smoothing) + weight * divergence


def mart_loss(
    clean: Logits, attacked: Logits, y: Labels, *, weight: float = 5.0, label_smoothing: float = 0.0
) -> Tensor:
    """Boosted cross-entropy of the attacked images, and their distance from the clean ones where these are answered badly.

    CE(attacked) - log(1 - largest wrong probability) + weight * mean of KL(clean || attacked) * (1 - p(y | clean)). Wang et
    al., "Improving Adversarial Robustness Requires Revisiting Misclassified Examples", ICLR 2020, equation 11.
    """
    log_clean, log_attacked = clean.log_softmax(1), attacked.log_softmax(1)
    wrong = log_attacked.scatter(1, y[:, None], -torch.inf).amax(1)
    # 1 - p in logarithms: a p that rounds to 1 would give an infinite loss
    boosted = -torch.log1p(-wrong.exp().clamp_max(1 - torch.finfo(wrong.dtype).eps)).mean()
    divergence = (log_clean.exp() * (log_clean - log_attacked)).sum(1)
    unsure = 1 - log_clean.gather(1, y[:, None]).squeeze(1).exp()
    entropy = F.cross_entropy(attacked, y, label_smoothing=label_smoothing)
    return entropy + boosted + weight * (divergence * unsure).mean()
