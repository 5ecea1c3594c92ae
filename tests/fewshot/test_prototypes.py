"""Nearest centroid by angle."""

import pytest
import torch
from torch import nn

from loradar.core.errors import BadDataError
from loradar.fewshot import MeanLogits, NearestCentroid, cosine_logits, prototypes_of


def test_prototypes_are_means_of_raw_features() -> None:
    features = torch.tensor([[2.0, 0.0], [0.0, 4.0], [4.0, 0.0]])
    assert prototypes_of(features, torch.tensor([0, 1, 0]), 2).tolist() == [[3.0, 0.0], [0.0, 4.0]]
    with pytest.raises(BadDataError, match="class 1 of the task has no support"):
        prototypes_of(features, torch.tensor([0, 2, 0]), 3)


def test_logits_are_scaled_cosines() -> None:
    logits = cosine_logits(torch.tensor([[0.0, 3.0]]), torch.tensor([[5.0, 0.0], [0.0, 0.1], [-1.0, -1.0]]))
    assert logits[0].tolist() == pytest.approx([0.0, 10.0, -10 / 2**0.5])
    assert cosine_logits(torch.ones(1, 2), torch.ones(1, 2), scale=2.0, bias=0.5).item() == pytest.approx(3.0)


def test_it_agrees_with_easyfsl() -> None:
    methods = pytest.importorskip("easyfsl.methods")
    draws = torch.Generator().manual_seed(0)
    support, query = torch.randn(15, 8, generator=draws), torch.randn(40, 8, generator=draws)
    labels = torch.arange(15) % 5
    peer = methods.SimpleShot()
    peer.process_support_set(support, labels)
    ours = NearestCentroid(nn.Identity(), prototypes_of(support, labels, 5))
    assert torch.allclose(ours(query), 10 * peer(query), atol=1e-5)


def test_a_classifier_can_be_attacked_and_averaged() -> None:
    model = NearestCentroid(nn.Flatten(), torch.eye(3, 12))
    x = torch.rand(2, 3, 2, 2, requires_grad=True)
    (gradient,) = torch.autograd.grad(model(x).sum(), x)
    assert bool(gradient.any())
    other = NearestCentroid(nn.Flatten(), torch.eye(3, 12).flip(0))
    assert torch.allclose(MeanLogits([model, other])(x), (model(x) + other(x)) / 2)
