"""The objective of members that needs no labels: attacked images keep the features that the base has of them clean."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from loradar.adapters import Adapter, plug
from loradar.core.randomness import generator
from loradar.core.types import Attack, Images
from loradar.data import augment
from loradar.evaluation.attack_copy import AttackCopy
from loradar.fewshot.chunks import in_chunks
from loradar.fewshot.heads import Centroids, TaskClassifier
from loradar.fewshot.pools import features_of
from loradar.fewshot.tasks import Domain
from loradar.models import Pair, Precision, optimize_for_inference, skip_padding, with_autocast
from loradar.training import LossOf

_CROP = 1 / 8
"""Of the shorter side, by which images are shifted at most."""


def feature_loss(
    features: nn.Module,
    adapter: Adapter,
    images: Domain,
    draw: Callable[[int], Attack],
    *,
    batch_size: int,
    precision: Precision,
    merge: tuple[Pair, ...],
) -> LossOf:
    """Makes the loss of a step: how far the features of attacked images turn from those of `features` for clean ones.

    1 - cosine, the mean over a batch drawn from `images`. No label is read: to the attack that `draw` gives for a seed each
    image is a class of its own, whose prototype is what the base sees. After Schlarmann et al., "Robust CLIP", ICML 2024,
    section 3.2, with the angle, which is what heads read, for the squared distance.
    """
    model = with_autocast(skip_padding(plug(features, adapter, check=False).train()), precision)
    before = optimize_for_inference(features, precision, merge=merge)
    adapted = AttackCopy(features, adapter, precision, merge=merge)
    device = next(features.parameters()).device

    def loss_of(_indices: Tensor, seed: int) -> Tensor:
        x = _batch(images, batch_size, seed).to(device)
        wanted = features_of(before, x)
        classifier = TaskClassifier(adapted.refreshed(), Centroids(wanted))
        x_adv = draw(seed)(classifier, x, torch.arange(len(x), device=device))
        return (1 - F.cosine_similarity(in_chunks(model, x_adv).float(), wanted, dim=1)).mean()

    return loss_of


def _batch(images: Domain, count: int, seed: int) -> Images:
    rows = torch.randperm(len(images.images), generator=generator(seed))[:count]
    x, _ = images.images.fetch(rows)
    (x,) = augment((x,), crop=int(min(x.shape[-2:]) * _CROP), seed=seed)
    return x
